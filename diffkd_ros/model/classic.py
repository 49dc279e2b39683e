# SPDX-License-Identifier: Apache-2.0
"""The classic design of cooperative detection, whose time is compared with ours: PointPillars and AttFuse.

Written from the papers, and never trained. Where they leave a choice, it is the one that takes less time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import stage_block, upsample_block
from diffkd_ros.model.exported import maximum_per_cell
from diffkd_ros.model.pillars import PillarGrid

POINT_FEATURES = 9
PILLAR_CHANNELS = 64
STAGES = (64, 3), (128, 5), (256, 5)
"""Channels and 3x3 convolutions after the strided one of PointPillars' three blocks for cars."""
UPSAMPLED = 128
CHANNELS = UPSAMPLED * len(STAGES)
ANCHORS = 2  # at 0 and 90 degrees
BOX = 7  # x, y, z, width, length, height, yaw


class ClassicEncoder(nn.Module):
    """PointPillars up to its head (Lang et al., CVPR 2019, Sec. 2.1 and 2.2), without a limit of points.

    No padded tensor of points per pillar is made, which saves time.

    Args:
        grid_range: x_min, y_min, z_min, x_max, y_max, z_max in metres, LiDAR frame.
        cell: pillar edge in metres.
    """

    def __init__(self, grid_range: tuple[float, float, float, float, float, float], cell: float) -> None:
        super().__init__()
        self._grid, self._cell = PillarGrid(grid_range, cell), cell
        self.linear = nn.Linear(POINT_FEATURES, PILLAR_CHANNELS, bias=False)
        self.norm = nn.BatchNorm1d(PILLAR_CHANNELS)
        inputs, self.stages, self.upsample = PILLAR_CHANNELS, nn.ModuleList(), nn.ModuleList()
        for level, (channels, depth) in enumerate(STAGES):
            self.stages.append(stage_block(inputs, channels, depth))
            self.upsample.append(upsample_block(channels, UPSAMPLED, 2**level))
            inputs = channels

    def forward(self, points: Tensor) -> Tensor:
        """Points (p, 4) x, y, z in metres, intensity, to a map (1, CHANNELS, h, w) of 2 h rows of pillars."""
        maps, features = self.pillars(points), []
        for stage, upsample in zip(self.stages, self.upsample, strict=True):
            maps = stage(maps)
            features.append(upsample(maps))
        return torch.cat(features, dim=1)

    def pillars(self, points: Tensor) -> Tensor:
        """Points (p, 4) to the pseudo-image (1, PILLAR_CHANNELS, 2 h, 2 w), 0 where no point is.

        A point has its coordinates, intensity, offset from the mean of its pillar's points and horizontal
        offset from the pillar's centre, in metres. A linear layer follows, then the maximum of each pillar.
        """
        index, x, y = self._grid.locate(points, torch.zeros(len(points), dtype=torch.long), 1)
        count = self._grid.count(index, 1)
        places = points[:, :3]
        total = points.new_zeros(len(count), 3).index_add(0, index, places)
        from_mean = places - (total / count.clamp(min=1)[:, None])[index]
        from_centre = self._cell * torch.stack((x, y), dim=1)
        described = torch.cat((points, from_mean, from_centre), dim=1)
        encoded = torch.relu_(self.norm(self.linear(described)))
        return self._grid.maps(maximum_per_cell(encoded, index, len(count)), 1)


class ClassicEgo(nn.Module):
    """AttFuse (Xu et al., OPV2V, ICRA 2022) and two 1x1 convolutions for anchors (PointPillars, Sec. 2.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(CHANNELS, ANCHORS, 1)
        self.boxes = nn.Conv2d(CHANNELS, ANCHORS * BOX, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Each agent's map (CHANNELS, h, w) in the ego's grid, the ego's first, to its detections.

        Returns:
            scores: (1, ANCHORS, h, w) logits.
            boxes: (1, ANCHORS * BOX, h, w) residuals of the anchors.
        """
        fused = attend(maps)
        return self.scores(fused), self.boxes(fused)


def attend(maps: Sequence[Tensor]) -> Tensor:
    """Scaled dot-product attention over the agents in every cell, with the ego's feature as the query.

    As `AttentionFusion` where every agent covers every cell, without its masks. Agent by agent it takes half
    the time, since maps are not joined, and results of all agents at once would leave the cache.

    Args:
        maps: (c, h, w) of each agent, the ego's first.

    Returns:
        (1, c, h, w)
    """
    scores = torch.stack([(maps[0] * each).sum(dim=0) for each in maps]) / len(maps[0]) ** 0.5
    weights = torch.softmax(scores, dim=0)
    fused = weights[0] * maps[0]
    for weight, each in zip(weights[1:], maps[1:], strict=True):
        fused.addcmul_(weight.expand_as(each), each)
    return fused[None]
