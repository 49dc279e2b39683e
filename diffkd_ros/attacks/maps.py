# SPDX-License-Identifier: Apache-2.0
"""Editing of feature maps: vehicles erased, copied to other places, and values in the honest range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.boxes import points_in_boxes, widened
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.runtime.features import BevFeature

_MARGIN = 0.8  # metres around a vehicle, to each side: one cell of the light grid
_LEAST = 3.0  # summed log(1 + points) of a vehicle that is worth copying


@dataclass(frozen=True, slots=True)
class Patch:
    """The cells of a vehicle in a map.

    Attributes:
        rows, columns: (n,) of its cells.
        box: (7,) of the vehicle, in the LiDAR frame of the map.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    box: NDArray[np.float64]

    def moved(self, down: int, right: int, grid: BevGrid) -> NDArray[np.float64]:
        """The vehicle's box (7,) after a move by rows and columns."""
        box = self.box.copy()
        box[:2] += np.array([right, down]) * grid.cell
        return box


def cells_of(boxes: NDArray[np.float64], grid: BevGrid) -> NDArray[np.bool_]:
    """Mask (height, width) of the cells with a centre on a box (n, 7) or within 0.8 m of one."""
    holder = points_in_boxes(grid.centres(), widened(boxes, _MARGIN))
    return (holder >= 0).reshape(grid.height, grid.width)


def honest_range(bev: BevFeature) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of each channel of a map, each (channels, 1, 1)."""
    return bev.feature.min(axis=(1, 2), keepdims=True), bev.feature.max(axis=(1, 2), keepdims=True)


def patches(bev: BevFeature, boxes: NDArray[np.float64], grid: BevGrid) -> list[Patch]:
    """The vehicles that were sensed well, the best first; the best one if none was.

    Args:
        bev: a map.
        boxes: (n, 7) vehicles in its LiDAR frame.
        grid: of the map.
    """
    found: list[tuple[float, Patch]] = []
    for box in boxes:
        mask = cells_of(box[None], grid)
        rows, columns = np.nonzero(mask)
        found.append((float(bev.density[mask].sum()), Patch(rows, columns, box)))
    found.sort(key=lambda both: -both[0])
    return [patch for rank, (evidence, patch) in enumerate(found) if rank == 0 or evidence >= _LEAST]


def erased(bev: BevFeature, boxes: NDArray[np.float64], grid: BevGrid) -> BevFeature:
    """The map with free ground, the median of the observed cells elsewhere, in place of boxes (n, 7)."""
    vehicles = cells_of(boxes, grid)
    ground = (bev.density > 0) & ~vehicles
    feature = bev.feature.copy()
    feature[:, vehicles] = np.median(bev.feature[:, ground], axis=1, keepdims=True) if ground.any() else 0
    return BevFeature(feature, bev.density)


def pasted(bev: BevFeature, moves: list[tuple[Patch, int, int]], grid: BevGrid) -> BevFeature:
    """The map with copies of its vehicles.

    Args:
        bev: the map.
        moves: patches and the rows and columns by which each is moved; what leaves the grid is dropped.
        grid: of the map.
    """
    feature, density = bev.feature.copy(), bev.density.copy()
    for patch, down, right in moves:
        rows, columns = patch.rows + down, patch.columns + right
        inside = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
        to = rows[inside], columns[inside]
        origin = patch.rows[inside], patch.columns[inside]
        feature[:, to[0], to[1]] = bev.feature[:, origin[0], origin[1]]
        density[to] = bev.density[origin]
    return BevFeature(feature, density)
