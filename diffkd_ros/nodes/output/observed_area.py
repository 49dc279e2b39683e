# SPDX-License-Identifier: Apache-2.0
"""Which part of the ego's grid anybody saw, in blocks of cells: for the eye, not for the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.runtime.features import BevFeature

# Cells along a block's edge.
BLOCK = 4


def observed_area(
    features: Sequence[BevFeature], poses: Sequence[Matrix], grid: BevGrid
) -> NDArray[np.bool_]:
    """Who observed each block of the ego's grid: had at least one point in one of its cells.

    Args:
        features: the ego's first.
        poses: (4, 4) map <- LiDAR of the same agents.
        grid: of all of them.

    Returns:
        (agents, height // BLOCK, width // BLOCK).
    """
    rows, columns = grid.height // BLOCK, grid.width // BLOCK
    own = _pooled(features[0].density > 0, rows, columns)
    x, y = block_centres(grid)
    centres = np.stack([x.ravel(), y.ravel(), np.zeros(x.size), np.ones(x.size)])
    seen = [own]
    for feature, pose in zip(features[1:], poses[1:], strict=True):
        there = (inverse(pose) @ poses[0] @ centres)[:2]
        block = BLOCK * grid.cell
        column = np.floor((there[0] - grid.x_min) / block).astype(int)
        row = np.floor((there[1] - grid.y_min) / block).astype(int)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        blocks = _pooled(feature.density > 0, rows, columns)
        result = np.zeros(x.size, bool)
        result[inside] = blocks[row[inside], column[inside]]
        seen.append(result.reshape(rows, columns))
    return np.stack(seen)


def block_centres(grid: BevGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates x and y of the blocks' centres in metres, each (height // BLOCK, width // BLOCK)."""
    block = BLOCK * grid.cell
    x = grid.x_min + block * (np.arange(grid.width // BLOCK) + 0.5)
    y = grid.y_min + block * (np.arange(grid.height // BLOCK) + 0.5)
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def _pooled(cells: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    blocks = cells[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return np.asarray(blocks.any(axis=(1, 3)))
