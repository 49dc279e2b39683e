# SPDX-License-Identifier: Apache-2.0
"""Points to pillars: a point-wise layer and a scatter-max into the dense bird's-eye-view grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffkd_ros.model.exported import maximum_per_cell

POINT_FEATURES = 6


class _MaximumPerCell(torch.autograd.Function):
    """`maximum_per_cell`, with a gradient for every point that has the maximum.

    Torch's own gradient divides it between equal points in several passes over the whole grid. Equal points
    above 0 are copies of each other, and at 0 the ReLU before stops the gradient.
    """

    @staticmethod
    def forward(ctx: Any, encoded: Tensor, index: Tensor, cells: int) -> Tensor:
        grid = maximum_per_cell(encoded, index, cells)
        ctx.save_for_backward(encoded, index, grid)
        return grid

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        encoded, index, grid = ctx.saved_tensors
        smaller = encoded != grid.index_select(0, index)
        return gradient.index_select(0, index).masked_fill_(smaller, 0), None, None


class PillarEncoder(nn.Module):
    """PointPillars' feature net (Lang et al., CVPR 2019, Sec. 2.1) without a limit of points per pillar.

    A point's input features are z, intensity, the offset from the pillar's centre in cells (x, y), the
    squared offset from the middle height of the range, and the horizontal distance from the sensor. A linear
    layer follows, then the maximum per pillar. Absolute x and y are omitted, so that the encoding of an
    object does not depend on its position relative to the sensor.

    Args:
        grid_range: x_min, y_min, z_min, x_max, y_max, z_max in metres, LiDAR frame.
        cell: pillar edge in metres.
        channels: output channels.
    """

    def __init__(
        self, grid_range: tuple[float, float, float, float, float, float], cell: float, channels: int
    ) -> None:
        super().__init__()
        self.x_min, self.y_min, self.z_min, x_max, y_max, self.z_max = grid_range
        self.cell = cell
        self.width = round((x_max - self.x_min) / cell)
        self.height = round((y_max - self.y_min) / cell)
        self.linear = nn.Linear(POINT_FEATURES, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, points: Tensor, cloud: Tensor, clouds: int) -> tuple[Tensor, Tensor]:
        """Scatter points into their clouds' grids.

        Args:
            points: (p, 4) x, y, z, intensity.
            cloud: (p,) int64 index of each point's cloud.
            clouds: number of clouds.

        Returns:
            Pillars (clouds, channels, height, width) and points per pillar (clouds, 1, height, width).
        """
        column = torch.floor((points[:, 0] - self.x_min) / self.cell)
        row = torch.floor((points[:, 1] - self.y_min) / self.cell)
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        inside &= (points[:, 2] >= self.z_min) & (points[:, 2] < self.z_max)
        cells = self.height * self.width
        index = (cloud * cells + row.long() * self.width + column.long()).clamp(0, clouds * cells)
        # Points outside go to one extra cell after the grid: no data-dependent shape, so that it exports.
        index = torch.where(inside, index, torch.full_like(index, clouds * cells))

        described = torch.stack(
            (
                points[:, 2],
                points[:, 3],
                (points[:, 0] - self.x_min) / self.cell - column - 0.5,
                (points[:, 1] - self.y_min) / self.cell - row - 0.5,
                (points[:, 2] - 0.5 * (self.z_min + self.z_max)) ** 2,
                torch.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2) / 50.0,
            ),
            dim=1,
        )
        # In the points' precision: bfloat16 would round heights to 1 cm and make different points equal.
        with torch.autocast(points.device.type, enabled=False):
            encoded = torch.relu(self.norm(self.linear(described)))
        maximum = _MaximumPerCell.apply if self.training else maximum_per_cell
        grid = maximum(encoded, index, clouds * cells + 1)
        # In the points' precision: bfloat16 under autocast cannot count above 256.
        count = points.new_zeros(clouds * cells + 1).scatter_add(0, index, torch.ones_like(points[:, 0]))
        shape = (clouds, self.height, self.width)
        pillars = grid[:-1].view(*shape, -1).permute(0, 3, 1, 2)
        return pillars, count[:-1].view(*shape)[:, None]
