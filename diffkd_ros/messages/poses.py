# SPDX-License-Identifier: Apache-2.0
"""Reading poses from messages.

Only attributes are read, so messages of rclpy and of `rosbags` are both accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.documents import LARGEST
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import Matrix, PoseError
from diffkd_ros.messages.rotations import quaternion_matrix


def _vector(message: Any) -> NDArray[np.float64]:
    return np.array([message.x, message.y, message.z])


def _transform(translation: Any, quaternion: Any) -> Matrix:
    q = quaternion
    return _rigid(_vector(translation), np.array([q.x, q.y, q.z, q.w]))


def _rigid(t: NDArray[np.float64], q: NDArray[np.float64]) -> Matrix:
    # Before the norm, which overflows; a comparison with NaN is false.
    bounded = bool((np.abs(t) <= LARGEST).all() and (np.abs(q) <= 2.0).all())
    length = float(np.linalg.norm(q)) if bounded else np.nan
    if not abs(length - 1.0) <= 0.01:
        raise PoseError(
            f'not a rigid transform: translation {t.tolist()}, quaternion {q.tolist()} of length {length:.3g}'
        )
    pose = quaternion_matrix(q)
    pose[:3, 3] = t
    return pose


def pose_of(pose: Any) -> Matrix:
    """A `geometry_msgs/Pose` as a (4, 4) transform.

    Raises:
        PoseError: if a value is not finite, a coordinate is beyond `LARGEST` or the quaternion is not of unit
            length to within 1 %.
    """
    return _transform(pose.position, pose.orientation)


def pose_of_transform(transform: Any) -> Matrix:
    """A `geometry_msgs/Transform` as a (4, 4) transform.

    Raises:
        PoseError: as `pose_of`.
    """
    return _transform(transform.translation, transform.rotation)


def covariance_of(values: ArrayLike) -> NDArray[np.float64]:
    """The 36 values of a message as a (6, 6) covariance; zeros (unknown) if they are not a valid covariance.

    A valid covariance is bounded, symmetric and positive semi-definite; inverting another could give NaN.
    """
    matrix = np.asarray(values, np.float64).reshape(6, 6)
    tolerance = 1e-6 * float(np.abs(matrix).max())
    valid = (
        bool((np.abs(matrix) <= LARGEST**2).all())
        and np.abs(matrix - matrix.T).max() <= tolerance
        and np.linalg.eigvalsh(matrix)[0] >= -tolerance
    )
    return matrix if valid else np.zeros((6, 6))


def pose_of_odometry(message: Any) -> LidarPose:
    """The pose and twist in a `nav_msgs/Odometry`, of its child frame.

    A twist with a value that is not finite or beyond `LARGEST`, or whose covariance begins with a negative
    value, is unknown.

    Raises:
        PoseError: as `pose_of`.
    """
    twist = message.twist.twist
    linear, angular = _vector(twist.linear), _vector(twist.angular)
    known = message.twist.covariance[0] >= 0 and _bounded(linear, angular)
    return LidarPose(
        pose_of(message.pose.pose),
        message.header.frame_id,
        covariance_of(message.pose.covariance),
        linear if known else None,
        angular if known else np.zeros(3),
        covariance_of(message.twist.covariance) if known else np.zeros((6, 6)),
    )


def pose_of_chunk(message: Any) -> LidarPose:
    """The pose and twist of the LiDAR in a `diffkd_ros/BevChunk`.

    A twist with a value that is not finite or beyond `LARGEST` is unknown.

    Raises:
        PoseError: as `pose_of`.
    """
    linear, angular = np.array(message.twist, np.float64).reshape(2, 3)
    known = message.twist_known and _bounded(linear, angular)
    return LidarPose(
        _rigid(np.array(message.position, np.float64), np.array(message.orientation, np.float64)),
        message.map_frame,
        covariance_of(np.diag(message.pose_variance)),
        linear if known else None,
        angular if known else np.zeros(3),
    )


def _bounded(linear: NDArray[np.float64], angular: NDArray[np.float64]) -> bool:
    return bool((np.abs([linear, angular]) <= LARGEST).all())


def pose_of_stamped(message: Any) -> LidarPose:
    """The pose in a `geometry_msgs/PoseWithCovarianceStamped`; its motion is unknown.

    Raises:
        PoseError: as `pose_of`.
    """
    return LidarPose(
        pose_of(message.pose.pose), message.header.frame_id, covariance_of(message.pose.covariance)
    )


def _pose_alone(message: Any) -> LidarPose:
    return LidarPose(pose_of(message.pose), message.header.frame_id)


POSE_READERS: dict[str, Callable[[Any], LidarPose]] = {
    'nav_msgs/msg/Odometry': pose_of_odometry,
    'geometry_msgs/msg/PoseWithCovarianceStamped': pose_of_stamped,
    'geometry_msgs/msg/PoseStamped': _pose_alone,
}
"""Reads the pose in a message, by its type; each may raise `PoseError`."""
