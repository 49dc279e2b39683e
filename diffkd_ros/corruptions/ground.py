# SPDX-License-Identifier: Apache-2.0
"""Finding the ground in a single sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError

# The plane is found from the lowest return of each cell of this size, up to this far from the sensor, metres.
_CELL = 2.0
_REACH = 50.0
_HYPOTHESES = 256
_TOLERANCE = 0.15  # metres; kerbs and waves of a road stay within
_REFINE_TOLERANCE = 0.25
_FEWEST_CELLS = 20
_LEAST_SUPPORT = 0.3  # share of the cells whose lowest return must lie on the plane
_LARGEST_TILT = np.radians(25.0)
_HEIGHTS = (0.3, 30.0)  # metres of a sensor over the ground


@dataclass(frozen=True, slots=True)
class GroundPlane:
    """The ground as a plane in the sensor's frame.

    Attributes:
        normal: (3,) unit vector, upwards.
        height: of the sensor over the plane, metres.
    """

    normal: NDArray[np.float64]
    height: float

    def heights(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Signed distance of (n, >=3) points from the plane, metres, positive above it."""
        return points[:, :3] @ self.normal.astype(np.float32) + np.float32(self.height)


def find_ground(points: NDArray[np.float32]) -> GroundPlane:
    """Fit a plane to the lowest returns around the sensor.

    Random sample consensus with a fixed seed, then least squares: the same cloud, in whatever order, gives
    the same plane.

    Args:
        points: (n, >=3) in the sensor's frame, z roughly up.

    Raises:
        CorruptionError: if too few low returns lie on one plane below the sensor.
    """
    low = _lowest_returns(points)
    if len(low) < _FEWEST_CELLS:
        raise CorruptionError(
            f'no ground found: returns below the sensor fill {len(low)} cells of {_CELL:g} m within '
            f'{_REACH:g} m, at least {_FEWEST_CELLS} are needed'
        )
    rng = np.random.default_rng(0)
    triples = low[rng.integers(len(low), size=(_HYPOTHESES, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1)
    usable = length > 1.0  # square metres, twice the triangle: corners too close together span no plane
    normals, anchors = normals[usable] / length[usable, None], triples[usable, 0]
    normals *= np.where(normals[:, 2] < 0, -1.0, 1.0)[:, None]
    offsets = -np.einsum('ij,ij->i', normals, anchors)
    plausible = (normals[:, 2] >= np.cos(_LARGEST_TILT)) & (offsets > _HEIGHTS[0]) & (offsets < _HEIGHTS[1])
    normals, offsets = normals[plausible], offsets[plausible]
    if len(normals) == 0:
        raise CorruptionError('no ground found: no three low returns span a level plane below the sensor')
    support = (np.abs(low @ normals.T + offsets) < _TOLERANCE).sum(axis=0)
    best = int(support.argmax())
    if support[best] < _LEAST_SUPPORT * len(low):
        raise CorruptionError(
            f'no ground found: the best plane holds {support[best]} of the {len(low)} lowest returns, '
            f'at least {_LEAST_SUPPORT:.0%} are needed'
        )
    return _refined(points, GroundPlane(normals[best], float(offsets[best])))


def _lowest_returns(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lowest return below the sensor in each cell seen from above, ordered by cell."""
    near = (np.abs(points[:, 0]) < _REACH) & (np.abs(points[:, 1]) < _REACH) & (points[:, 2] < -_HEIGHTS[0])
    xyz = points[near, :3]
    side = round(2 * _REACH / _CELL) + 1
    column, row = np.floor((xyz[:, :2] + np.float32(_REACH)) / np.float32(_CELL)).astype(np.int64).T
    cell = row * side + column
    lowest = np.full(side * side, np.inf, np.float32)
    np.minimum.at(lowest, cell, xyz[:, 2])
    tied = xyz[:, 2] == lowest[cell]
    xyz, cell = xyz[tied], cell[tied]
    # Of equally low returns the one of the smallest x and y, so that the order of the points does not matter.
    order = np.lexsort((xyz[:, 1], xyz[:, 0], cell))
    first = np.diff(cell[order], prepend=-1) != 0
    return xyz[order[first]].astype(np.float64)


def _refined(points: NDArray[np.float32], plane: GroundPlane) -> GroundPlane:
    """Least squares over all returns close to the plane, each weighing as if spread evenly over the range."""
    reach = np.hypot(points[:, 0], points[:, 1])
    for _ in range(2):
        close = (np.abs(plane.heights(points)) < _REFINE_TOLERANCE) & (reach < _REACH)
        xyz = points[close, :3].astype(np.float64)
        # A spinning sensor's returns crowd around it; without weights a far kerb would not count at all.
        weight = np.maximum(reach[close], 1.0)
        design = np.column_stack([xyz[:, :2], np.ones(len(xyz))]) * weight[:, None]
        normal_matrix = design.T @ design
        a, b, c = np.linalg.solve(normal_matrix, design.T @ (xyz[:, 2] * weight))
        length = float(np.sqrt(a * a + b * b + 1.0))
        plane = GroundPlane(np.array([-a, -b, 1.0]) / length, float(-c / length))
    return plane
