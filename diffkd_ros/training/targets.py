# SPDX-License-Identifier: Apache-2.0
"""Ground-truth boxes as the maps that the head is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.boxes import points_in_boxes
from diffkd_ros.runtime.grid import BevGrid

MIN_RADIUS = 1.5  # cells
NEGLIGIBLE = 0.01


@dataclass(frozen=True, slots=True)
class DetectionTarget:
    """Maps over one frame's grid.

    Attributes:
        heatmap: (1, h, w) 1 at a centre's cell, falling off as a Gaussian.
        regression: (8, h, w) as `model.head` regresses, valid where `centre`.
        centre: (1, h, w) bool, one cell per box.
        counted: (1, h, w) bool, False near vehicles too thinly seen to be asked for.
        foreground: (1, h, w) bool, cell centre inside a box.
    """

    heatmap: NDArray[np.float32]
    regression: NDArray[np.float32]
    centre: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    foreground: NDArray[np.bool_]


def _cells_inside(boxes: NDArray[np.float64], grid: BevGrid) -> NDArray[np.bool_]:
    x = grid.x_min + (np.arange(grid.width) + 0.5) * grid.cell
    y = grid.y_min + (np.arange(grid.height) + 0.5) * grid.cell
    cells = np.stack((*np.meshgrid(x, y), np.zeros((grid.height, grid.width))), axis=-1).reshape(-1, 3)
    flat = boxes.copy()
    flat[:, 2], flat[:, 5] = 0.0, 1.0
    return (points_in_boxes(cells, flat) >= 0).reshape(grid.height, grid.width)


def detection_target(
    boxes: NDArray[np.float64], num_points: NDArray[np.int64], min_points: int, grid: BevGrid
) -> DetectionTarget:
    """Draw the training maps.

    Args:
        boxes: (n, 7) in the ego's LiDAR frame.
        num_points: (n,) returns on each from the agents that take part.
        min_points: boxes with fewer are ignored: no target, and their cells are not clutter either.
        grid: of the feature map.
    """
    column = np.floor((boxes[:, 0] - grid.x_min) / grid.cell).astype(int)
    row = np.floor((boxes[:, 1] - grid.y_min) / grid.cell).astype(int)
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    seen = inside & (num_points >= min_points)

    shape = (1, grid.height, grid.width)
    heatmap = np.zeros(shape, np.float32)
    regression = np.zeros((8, *shape[1:]), np.float32)
    centre = np.zeros(shape, bool)
    for box, i, j in zip(boxes[seen], row[seen], column[seen], strict=True):
        radius = max(MIN_RADIUS, 0.4 * box[4] / grid.cell)
        sigma = radius / 1.5
        # Farther away the Gaussian is below NEGLIGIBLE.
        reach = math.ceil(sigma * math.sqrt(-2 * math.log(NEGLIGIBLE)))
        top, left = max(i - reach, 0), max(j - reach, 0)
        part = heatmap[0, top : i + reach + 1, left : j + reach + 1]
        rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        gaussian = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * sigma**2))
        np.maximum(part, np.where(gaussian > NEGLIGIBLE, gaussian, 0), out=part)
        centre[0, i, j] = True
        regression[:, i, j] = (
            (box[0] - grid.x_min) / grid.cell - j,
            (box[1] - grid.y_min) / grid.cell - i,
            box[2],
            *np.log(box[3:6]),
            np.sin(box[6]),
            np.cos(box[6]),
        )
    heatmap[centre] = 1.0
    foreground = _cells_inside(boxes[seen], grid)[None]
    counted = ~_cells_inside(boxes[inside & ~seen], grid)[None] | foreground
    return DetectionTarget(heatmap, regression, centre, counted, foreground)
