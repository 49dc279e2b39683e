# SPDX-License-Identifier: Apache-2.0
"""The 2D backbone over pillars and the encoder that a vehicle runs: points to the feature map it shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Backbone(nn.Module):
    """Three stages at strides 2, 4, 8, each upsampled to stride 2 and merged (PointPillars' neck).

    Args:
        inputs: channels of the pillar map.
        stages: channels of the three stages.
        depth: 3x3 convolutions per stage after the strided one.
        outputs: channels of the merged map.
        vectors: pairs of its channels, the first ones, that are directions and may be negative.
    """

    def __init__(
        self, inputs: int, stages: Sequence[int], depth: int, outputs: int, vectors: int = 0
    ) -> None:
        super().__init__()
        self.vectors = vectors
        self.stages = nn.ModuleList()
        self.lateral = nn.ModuleList()
        for level, channels in enumerate(stages):
            convolutions = [conv_block(inputs, channels, stride=2)]
            convolutions += [conv_block(channels, channels) for _ in range(depth)]
            self.stages.append(nn.Sequential(*convolutions))
            scale = 2**level
            self.lateral.append(
                nn.Sequential(
                    nn.ConvTranspose2d(channels, outputs, scale, stride=scale, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                )
            )
            inputs = channels
        self.merge = nn.Sequential(
            nn.Conv2d(outputs * len(stages), outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, pillars: Tensor) -> Tensor:
        """(n, inputs, 2h, 2w) pillars to (n, outputs, h, w) features, non-negative but for directions."""
        merged = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            pillars = stage(pillars)
            merged.append(lateral(pillars))
        features = self.merge(torch.cat(merged, dim=1))
        if not self.vectors:
            return torch.relu(features)
        first = 2 * self.vectors
        return torch.cat((features[:, :first], torch.relu(features[:, first:])), dim=1)


class Encoder(nn.Module):
    """Points to the feature map an agent shares, and the density that says where it looked.

    Args:
        pillars: points to the map that the backbone reads, called as `PillarEncoder` is; a feature cell is
            twice as large as a cell of this map.
        pillar_channels: channels of that map.
        stages: channels of the backbone's stages.
        depth: convolutions per stage.
        channels: channels of the shared map.
        vectors: pairs of them that are directions, see `Backbone`.
    """

    def __init__(
        self,
        pillars: nn.Module,
        pillar_channels: int,
        stages: Sequence[int],
        depth: int,
        channels: int,
        vectors: int = 0,
    ) -> None:
        super().__init__()
        self.pillars = pillars
        self.backbone = Backbone(pillar_channels, stages, depth, channels, vectors)

    def forward(self, points: Tensor, cloud: Tensor, clouds: int) -> tuple[Tensor, Tensor]:
        """Encode several clouds at once.

        Args:
            points: (p, 4) x, y, z, intensity.
            cloud: (p,) int64 index of each point's cloud.
            clouds: number of clouds.

        Returns:
            feature: (clouds, channels, h, w), zero outside `covered_cells` of the density.
            density: (clouds, 1, h, w) log(1 + points in the cell); 0 where nothing was observed.
        """
        pillars, count = self.pillars(points, cloud, clouds)
        density = torch.log1p(functional.avg_pool2d(count, 2) * 4.0)
        return self.backbone(pillars) * covered_cells(density), density


def covered_cells(density: Tensor) -> Tensor:
    """Cells at most three cells from an observed one: (n, 1, h, w) density to (n, 1, h, w) of 0 and 1.

    LiDAR sees the near sides of a vehicle, while its box is centred up to half a length behind them: the
    margin keeps the centre in, and keeps everything else from claiming space that no beam entered.
    """
    return functional.max_pool2d((density > 0).to(density.dtype), 7, stride=1, padding=3)
