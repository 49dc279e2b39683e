# SPDX-License-Identifier: Apache-2.0
"""A LiDAR's pose and motion, out of whatever message a vehicle's localisation publishes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.reading import pose_of


@dataclass(frozen=True)
class LidarPose:
    """Where a LiDAR is and how it moves.

    Attributes:
        pose: (4, 4) map <- LiDAR.
        map_frame: the frame the pose is given in.
        covariance: (6, 6) of x, y, z and the rotations about the map's axes; all zero: unknown.
        linear: (3,) metres per second in the LiDAR frame; None: unknown.
        angular: (3,) radians per second in the LiDAR frame.
        twist_covariance: (6, 6) of the two, in the LiDAR frame.
    """

    pose: Matrix
    map_frame: str
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.zeros((6, 6)))
    linear: NDArray[np.float64] | None = None
    angular: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    twist_covariance: NDArray[np.float64] = field(default_factory=lambda: np.zeros((6, 6)))


def covariance_of(values: ArrayLike) -> NDArray[np.float64]:
    """A message's 36 values as a (6, 6) covariance; zeros (unknown) if they are none.

    A covariance is finite, symmetric and positive semi-definite. What is not must never be used as one: a
    fusion that inverts it gets NaN.
    """
    matrix = np.asarray(values, np.float64).reshape(6, 6)
    if not np.isfinite(matrix).all():
        return np.zeros((6, 6))
    scale = float(np.abs(matrix).max())
    if not np.allclose(matrix, matrix.T, rtol=0.0, atol=1e-6 * scale):
        return np.zeros((6, 6))
    if np.linalg.eigvalsh(matrix)[0] < -1e-6 * scale:
        return np.zeros((6, 6))
    return matrix


def _vector(message: Any) -> NDArray[np.float64]:
    return np.array([message.x, message.y, message.z])


def pose_of_odometry(message: Odometry) -> LidarPose:
    """The pose and twist of the odometry's child frame.

    Raises:
        PoseError: if the pose is no finite rigid transform.
    """
    twist = message.twist.twist
    linear, angular = _vector(twist.linear), _vector(twist.angular)
    known = message.twist.covariance[0] >= 0 and bool(np.isfinite([*linear, *angular]).all())
    return LidarPose(
        pose_of(message.pose.pose),
        message.header.frame_id,
        covariance_of(message.pose.covariance),
        linear if known else None,
        angular if known else np.zeros(3),
        covariance_of(message.twist.covariance) if known else np.zeros((6, 6)),
    )


def pose_of_stamped(message: PoseWithCovarianceStamped) -> LidarPose:
    """The pose given; its motion is unknown.

    Raises:
        PoseError: if the pose is no finite rigid transform.
    """
    return LidarPose(
        pose_of(message.pose.pose), message.header.frame_id, covariance_of(message.pose.covariance)
    )


def mounted(base: LidarPose, base_to_lidar: Matrix) -> LidarPose:
    """The LiDAR's pose and motion from those of the vehicle it is mounted on.

    Args:
        base: of the vehicle's frame.
        base_to_lidar: (4, 4) vehicle <- LiDAR.
    """
    rotation, lever = base_to_lidar[:3, :3], base_to_lidar[:3, 3]
    # A rotation error about the vehicle's origin moves the LiDAR by the lever, turned into the map.
    x, y, z = base.pose[:3, :3] @ lever
    moves = np.eye(6)
    moves[:3, 3:] = -np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    x, y, z = lever
    turns = np.zeros((6, 6))
    turns[:3, :3] = turns[3:, 3:] = rotation.T
    turns[:3, 3:] = -rotation.T @ np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return LidarPose(
        base.pose @ base_to_lidar,
        base.map_frame,
        moves @ base.covariance @ moves.T,
        None if base.linear is None else rotation.T @ (base.linear + np.cross(base.angular, lever)),
        rotation.T @ base.angular,
        turns @ base.twist_covariance @ turns.T,
    )
