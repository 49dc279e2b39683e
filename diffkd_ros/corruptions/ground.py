# SPDX-License-Identifier: Apache-2.0
"""Estimation of the ground plane from a single sweep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError

# The plane is fitted to the lowest return of each cell of this size, up to this distance, in metres.
_CELL = 2.0
_REACH = 50.0
_HYPOTHESES = 256
_TOLERANCE = 0.15  # metres; includes kerbs and unevenness of a road
_REFINE_TOLERANCE = 0.25
_FEWEST_CELLS = 20
_LEAST_SUPPORT = 0.3  # minimum share of the cells whose lowest return is on the plane
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

    Random sample consensus with a fixed seed, then least squares. The result does not depend on the order of
    the points.

    Args:
        points: (n, >=3) in the sensor's frame, z roughly up.

    Raises:
        CorruptionError: if too few low returns lie on one plane below the sensor.
    """
    low = _lowest_returns(points)
    if len(low) < _FEWEST_CELLS:
        raise CorruptionError(
            f'no ground found: returns below the sensor fill {len(low)} cells of {_CELL:g} m within '
            f'{_REACH:g} m; at least {_FEWEST_CELLS} are needed'
        )
    rng = np.random.default_rng(0)
    triples = low[rng.integers(len(low), size=(_HYPOTHESES, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    length = np.linalg.norm(normals, axis=1)
    usable = length > 1.0  # square metres, twice the triangle's area: small triangles define no plane
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
            f'no ground found: the best plane contains {support[best]} of the {len(low)} lowest returns; '
            f'at least {_LEAST_SUPPORT:.0%} are needed'
        )
    return _refined(points, GroundPlane(normals[best], float(offsets[best])))


def _lowest_returns(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lowest return below the sensor in each bird's-eye-view cell, (n, 3), ordered by cell."""
    near = (np.abs(points[:, 0]) < _REACH) & (np.abs(points[:, 1]) < _REACH) & (points[:, 2] < -_HEIGHTS[0])
    xyz = points[near, :3]
    side = round(2 * _REACH / _CELL) + 1
    column, row = np.floor((xyz[:, :2] + np.float32(_REACH)) / np.float32(_CELL)).astype(np.int64).T
    cell = row * side + column
    lowest = np.full(side * side, np.inf, np.float32)
    np.minimum.at(lowest, cell, xyz[:, 2])
    tied = xyz[:, 2] == lowest[cell]
    xyz, cell = xyz[tied], cell[tied]
    # Of equally low returns, that of the smallest x and y: independent of the order of the points.
    order = np.lexsort((xyz[:, 1], xyz[:, 0], cell))
    first = np.diff(cell[order], prepend=-1) != 0
    return xyz[order[first]].astype(np.float64)


def _refined(points: NDArray[np.float32], plane: GroundPlane) -> GroundPlane:
    """Least squares over all returns close to the plane, weighted for their density to be even in range."""
    reach = np.hypot(points[:, 0], points[:, 1])
    for _ in range(2):
        close = (np.abs(plane.heights(points)) < _REFINE_TOLERANCE) & (reach < _REACH)
        xyz = points[close, :3].astype(np.float64)
        # The density of returns decreases with range; without weights, far returns would have no influence.
        weight = np.maximum(reach[close], 1.0)
        design = np.column_stack([xyz[:, :2], np.ones(len(xyz))]) * weight[:, None]
        normal_matrix = design.T @ design
        try:
            a, b, c = np.linalg.solve(normal_matrix, design.T @ (xyz[:, 2] * weight))
        except np.linalg.LinAlgError as error:
            raise CorruptionError('no ground found: the returns near the plane lie on one line') from error
        length = float(np.sqrt(a * a + b * b + 1.0))
        plane = GroundPlane(np.array([-a, -b, 1.0]) / length, float(-c / length))
    return plane
