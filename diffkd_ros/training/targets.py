# SPDX-License-Identifier: Apache-2.0
"""Ground-truth boxes as training targets of the head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.boxes import flattened, points_in_boxes
from diffkd_ros.geometry.grid import BevGrid

MIN_RADIUS = 1.5  # cells
NEGLIGIBLE = 0.01  # heat map values below are set to 0


@dataclass(frozen=True, slots=True)
class DetectionTarget:
    """Maps over one frame's grid.

    Attributes:
        heatmap: (1, h, w) 1 in the cell of a centre, decreasing around it as a Gaussian.
        regression: (8, h, w) as in `model.head`, of the box with the nearest centre; valid where `regressed`
            is above 0.
        regressed: (1, h, w) weight of a cell's regression: the heat map's value in the cell of a centre and
            the eight around it, 0 elsewhere. A resampled map can have its peak in any of the nine.
        counted: (1, h, w) bool, False on vehicles with too few returns to be a target.
        foreground: (1, h, w) bool, True where the cell's centre is inside a target box.
    """

    heatmap: NDArray[np.float32]
    regression: NDArray[np.float32]
    regressed: NDArray[np.float32]
    counted: NDArray[np.bool_]
    foreground: NDArray[np.bool_]


def _cells_inside(boxes: NDArray[np.float64], grid: BevGrid) -> NDArray[np.bool_]:
    return (points_in_boxes(grid.centres(), flattened(boxes)) >= 0).reshape(grid.height, grid.width)


def _around(row: int, column: int, reach: int, grid: BevGrid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Open indices of the cells at most `reach` rows and columns from a cell."""
    rows = np.arange(max(row - reach, 0), min(row + reach + 1, grid.height))
    columns = np.arange(max(column - reach, 0), min(column + reach + 1, grid.width))
    return rows[:, None], columns[None]


def detection_target(
    boxes: NDArray[np.float64], num_points: NDArray[np.int64], min_points: int, grid: BevGrid
) -> DetectionTarget:
    """Make the training targets of one frame.

    The heat map follows CenterPoint (Yin et al., CVPR 2021, Sec. 4), with the Gaussian's radius from the
    box's width, derived here.

    Args:
        boxes: (n, 7) in the ego's LiDAR frame.
        num_points: (n,) returns on each box from the participating agents.
        min_points: boxes with fewer returns are ignored: neither target nor background.
        grid: of the feature map.
    """
    place = (boxes[:, :2] - [grid.x_min, grid.y_min]) / grid.cell
    column, row = np.floor(place).astype(int).T
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    seen = inside & (num_points >= min_points)

    shape = (1, grid.height, grid.width)
    heatmap = np.zeros(shape, np.float32)
    regression = np.zeros((8, *shape[1:]), np.float32)
    nearest = np.full(shape[1:], np.inf)
    for box, (x, y), i, j in zip(boxes[seen], place[seen], row[seen], column[seen], strict=True):
        radius = max(MIN_RADIUS, 0.4 * box[4] / grid.cell)
        sigma = radius / 1.5
        # Beyond this distance the Gaussian is below NEGLIGIBLE.
        reach = math.ceil(sigma * math.sqrt(-2 * math.log(NEGLIGIBLE)))
        rows, columns = _around(i, j, reach, grid)
        part = heatmap[0, rows, columns]
        gaussian = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * sigma**2))
        heatmap[0, rows, columns] = np.maximum(part, np.where(gaussian > NEGLIGIBLE, gaussian, 0))

        rows, columns = _around(i, j, 1, grid)
        distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
        nearer = distance < nearest[rows, columns]
        rows, columns = (index[nearer] for index in np.broadcast_arrays(rows, columns))
        nearest[rows, columns] = distance[nearer]
        regression[0, rows, columns], regression[1, rows, columns] = x - columns, y - rows
        size_and_heading = (box[2], *np.log(box[3:6]), np.sin(box[6]), np.cos(box[6]))
        regression[2:, rows, columns] = np.array(size_and_heading)[:, None]
    heatmap[0, row[seen], column[seen]] = 1.0
    regressed = np.where(np.isfinite(nearest), heatmap[0], 0).astype(np.float32)[None]
    foreground = _cells_inside(boxes[seen], grid)[None]
    counted = ~_cells_inside(boxes[inside & ~seen], grid)[None] | foreground
    return DetectionTarget(heatmap, regression, regressed, counted, foreground)
