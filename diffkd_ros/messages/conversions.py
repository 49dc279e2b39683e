# SPDX-License-Identifier: Apache-2.0
"""Our types as ROS messages; the way back that needs no ROS is `diffkd_ros.messages.reading`."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, TransformStamped
from nav_msgs.msg import Odometry
from numpy.typing import ArrayLike, NDArray
from std_msgs.msg import Header

from diffkd_ros import frame
from diffkd_ros.geometry.poses import Matrix, quaternion_from_pose
from diffkd_ros.msg import Boxes3D

NANOSECONDS = 1_000_000_000


def fill(target: array.array, values: ArrayLike) -> None:
    """Fill a message's (empty) numeric sequence in place, as bytes instead of an item at a time."""
    target.frombytes(np.asarray(values, np.dtype(target.typecode)).tobytes())


def time_message(stamp: int) -> Time:
    """Nanoseconds as `builtin_interfaces/Time`."""
    return Time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def header_message(stamp: int, frame_id: str) -> Header:
    """A header from a stamp in nanoseconds and a frame."""
    return Header(stamp=time_message(stamp), frame_id=frame_id)


def pose_message(pose: Matrix) -> Pose:
    """A (4, 4) transform as `geometry_msgs/Pose`."""
    message = Pose()
    message.position.x, message.position.y, message.position.z = map(float, pose[:3, 3])
    q = message.orientation
    q.x, q.y, q.z, q.w = map(float, quaternion_from_pose(pose))
    return message


def transform_message(header: Header, child_frame_id: str, pose: Matrix) -> TransformStamped:
    """A (4, 4) transform header.frame_id <- child_frame_id as `geometry_msgs/TransformStamped`."""
    message = TransformStamped(header=header, child_frame_id=child_frame_id)
    t = message.transform.translation
    t.x, t.y, t.z = map(float, pose[:3, 3])
    message.transform.rotation = pose_message(pose).orientation
    return message


def odometry_message(
    header: Header, lidar_frame: str, pose: Matrix, velocity: NDArray[np.float64] | None
) -> Odometry:
    """A LiDAR's pose and velocity as `nav_msgs/Odometry`.

    Args:
        header: stamp and map frame.
        lidar_frame: the child frame, in which the twist is given.
        pose: map <- LiDAR.
        velocity: (3,) metres per second in the map frame; if None, twist.covariance[0] is -1 (unknown).
    """
    message = Odometry(header=header, child_frame_id=lidar_frame)
    message.pose.pose = pose_message(pose)
    if velocity is None:
        message.twist.covariance[0] = -1.0
    else:
        linear = message.twist.twist.linear
        linear.x, linear.y, linear.z = map(float, pose[:3, :3].T @ velocity)
    return message


def boxes_message(header: Header, boxes: frame.Boxes3D, class_names: Sequence[str]) -> Boxes3D:
    """Boxes as `diffkd_ros/Boxes3D`; columns the boxes do not have stay empty."""
    message = Boxes3D(header=header, class_names=list(class_names))
    fill(message.boxes, boxes.boxes)
    fill(message.labels, boxes.labels)
    for name in ('scores', 'track_ids', 'num_points'):
        column = getattr(boxes, name)
        if column is not None:
            fill(getattr(message, name), column)
    return message
