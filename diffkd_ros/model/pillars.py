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


class PillarGrid:
    """Pillars over a horizontal range; points are in the LiDAR frame.

    Args:
        grid_range: x_min, y_min, z_min, x_max, y_max, z_max in metres.
        cell: pillar edge in metres.
    """

    def __init__(self, grid_range: tuple[float, float, float, float, float, float], cell: float) -> None:
        self._x_min, self._y_min, self._z_min, x_max, y_max, self._z_max = grid_range
        self._cell = cell
        self.middle = 0.5 * (self._z_min + self._z_max)
        self.width = round((x_max - self._x_min) / cell)
        self.height = round((y_max - self._y_min) / cell)

    def locate(self, points: Tensor, cloud: Tensor, clouds: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pillar of each point, and where in the pillar it is.

        Args:
            points: (p, 3 or more) x, y, z first, in metres.
            cloud: (p,) int64 index of each point's cloud.
            clouds: number of clouds.

        Returns:
            index: (p,) int64 of the pillar, cloud by cloud and row by row. Points outside the range are in
                one extra pillar after the last: no data-dependent shape, so that it exports.
            x, y: (p,) offsets from the pillar's centre, in cells.
        """
        column = torch.floor((points[:, 0] - self._x_min) / self._cell)
        row = torch.floor((points[:, 1] - self._y_min) / self._cell)
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        inside &= (points[:, 2] >= self._z_min) & (points[:, 2] < self._z_max)
        cells = self.height * self.width
        index = (cloud * cells + row.long() * self.width + column.long()).clamp(0, clouds * cells)
        index = torch.where(inside, index, torch.full_like(index, clouds * cells))
        x = (points[:, 0] - self._x_min) / self._cell - column - 0.5
        y = (points[:, 1] - self._y_min) / self._cell - row - 0.5
        return index, x, y

    def count(self, index: Tensor, clouds: int) -> Tensor:
        """Points in each pillar (clouds * height * width + 1,), float32, the extra one last."""
        # Not bfloat16 as under autocast, which cannot count above 256.
        ones = torch.ones_like(index, dtype=torch.float32)
        return ones.new_zeros(clouds * self.height * self.width + 1).scatter_add(0, index, ones)

    def maps(self, rows: Tensor, clouds: int) -> Tensor:
        """Rows (clouds * height * width + 1, c), the extra pillar's last, to maps (clouds, c, h, w)."""
        return rows[:-1].view(clouds, self.height, self.width, -1).permute(0, 3, 1, 2)


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
        self.grid = PillarGrid(grid_range, cell)
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
        index, x, y = self.grid.locate(points, cloud, clouds)
        described = torch.stack(
            (
                points[:, 2],
                points[:, 3],
                x,
                y,
                (points[:, 2] - self.grid.middle) ** 2,
                torch.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2) / 50.0,
            ),
            dim=1,
        )
        # In the points' precision: bfloat16 would round heights to 1 cm and make different points equal.
        with torch.autocast(points.device.type, enabled=False):
            encoded = torch.relu(self.norm(self.linear(described)))
        maximum = _MaximumPerCell.apply if self.training else maximum_per_cell
        count = self.grid.count(index, clouds)
        pillars = maximum(encoded, index, len(count))
        return self.grid.maps(pillars, clouds), self.grid.maps(count[:, None], clouds)
