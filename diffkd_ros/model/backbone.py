# SPDX-License-Identifier: Apache-2.0
"""The 2D backbone over pillars, and the encoder that turns points into the feature map an agent shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.exported import convolve_parts, convolve_transposed


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def stage_block(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """A convolution of stride 2 and `depth` further ones, each as `conv_block`."""
    further = (conv_block(outputs, outputs) for _ in range(depth))
    return nn.Sequential(conv_block(inputs, outputs, stride=2), *further)


def upsample_block(inputs: int, outputs: int, scale: int) -> nn.Sequential:
    """Transposed convolution to a map `scale` times as high and wide, batch norm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, scale, stride=scale, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Backbone(nn.Module):
    """Three stages at strides 2, 4 and 8, each upsampled to stride 2, then merged.

    The layout is that of PointPillars' 2D backbone (Lang et al., CVPR 2019, Sec. 2.2).

    Args:
        inputs: channels of the pillar map.
        stages: channels of the three stages.
        depth: 3x3 convolutions per stage after the strided one.
        outputs: channels of the merged map.
        vectors: number of leading channel pairs that encode directions and may be negative.
    """

    def __init__(
        self, inputs: int, stages: Sequence[int], depth: int, outputs: int, vectors: int = 0
    ) -> None:
        super().__init__()
        self.vectors = vectors
        self.stages = nn.ModuleList()
        self.lateral = nn.ModuleList()
        for level, channels in enumerate(stages):
            self.stages.append(stage_block(inputs, channels, depth))
            self.lateral.append(upsample_block(channels, outputs, 2**level))
            inputs = channels
        self.merge = nn.Sequential(
            nn.Conv2d(outputs * len(stages), outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, pillars: Tensor) -> Tensor:
        """Pillars (n, inputs, 2h, 2w) to features (n, outputs, h, w), non-negative except for directions."""
        merged = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            pillars = stage(pillars)
            assert isinstance(lateral, nn.Sequential)
            upsample, *further = lateral
            assert isinstance(upsample, nn.ConvTranspose2d)
            merged.append(nn.Sequential(*further)(convolve_transposed(upsample, pillars)))
        mixing, norm = self.merge
        assert isinstance(mixing, nn.Conv2d)
        features = norm(convolve_parts(mixing, merged))
        if not self.vectors:
            return torch.relu(features)
        first = 2 * self.vectors
        return torch.cat((features[:, :first], torch.relu(features[:, first:])), dim=1)


class Encoder(nn.Module):
    """Points to the feature map an agent shares and the point density per cell.

    `pillars` maps points to the backbone's input, with the signature of `PillarEncoder`; the edge of a
    feature cell is twice that of a pillar. The other arguments are those of `Backbone`, with `channels`
    outputs.
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
        """Encode several clouds; arguments as for `PillarEncoder.forward`.

        Returns:
            feature: (clouds, channels, h, w), zero outside `covered_cells` of the density.
            density: (clouds, 1, h, w) log(1 + points in the cell); 0 where nothing was observed.
        """
        pillars, count = self.pillars(points, cloud, clouds)
        density = torch.log1p(functional.avg_pool2d(count, 2) * 4.0)
        return self.backbone(pillars) * covered_cells(density), density


def covered_cells(density: Tensor) -> Tensor:
    """Mask of the cells at most three cells from an observed one.

    LiDAR returns lie on the near sides of a vehicle, up to half its length from the centre of its box. The
    margin includes that centre and excludes space that no beam reached.

    Args:
        density: (n, 1, h, w), above 0 where points were observed.

    Returns:
        (n, 1, h, w) of 0 and 1, of the density's type.
    """
    return functional.max_pool2d((density > 0).to(density.dtype), 7, stride=1, padding=3)
