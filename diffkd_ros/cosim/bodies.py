# SPDX-License-Identifier: Apache-2.0
"""A connected vehicle's own body: its LiDAR returns and detections do not belong to the surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.frame import checked_boxes
from diffkd_ros.geometry.poses import Matrix, inverse, transform_points

# Returns up to this far outside the vehicle's box count as returns on it, metres.
_SKIN = 0.05


@dataclass(frozen=True)
class Body:
    """The box of a vehicle.

    Attributes:
        pose: map <- centre of the box.
        size: length, width, height in metres.
    """

    pose: Matrix
    size: NDArray[np.float64]

    def outside(self, points: NDArray[np.float32], lidar_pose: Matrix) -> NDArray[np.float32]:
        """The points (n, 4) of a LiDAR at `lidar_pose` (map <- LiDAR) that are not on the body."""
        to_body = inverse(self.pose) @ lidar_pose
        half = 0.5 * self.size + _SKIN
        # No point on the body is farther from the LiDAR; most of a sweep is.
        reach = np.linalg.norm(to_body[:3, 3]) + np.linalg.norm(half)
        x, y, z = points[:, :3].T
        near = np.flatnonzero(x * x + y * y + z * z <= reach**2)
        on_body = (np.abs(transform_points(to_body, points[near])[:, :3]) <= half).all(axis=1)
        return np.delete(points, near[on_body], axis=0)

    def under(self, boxes: ArrayLike) -> NDArray[np.bool_]:
        """Returns whether each upright box (n, 7) in the map lies on the body.

        It does if, seen from above, the centre of one of the two lies in the other. Two different vehicles
        cannot be that close.
        """
        rows = checked_boxes(boxes)
        local = transform_points(inverse(self.pose), rows)[:, :2]
        centre_on_body = (np.abs(local) <= 0.5 * self.size[:2]).all(axis=1)
        x, y = (self.pose[:2, 3] - rows[:, :2]).T
        cos, sin = np.cos(rows[:, 6]), np.sin(rows[:, 6])
        local = np.stack([cos * x + sin * y, cos * y - sin * x], axis=1)
        return centre_on_body | (np.abs(local) <= 0.5 * rows[:, 3:5]).all(axis=1)
