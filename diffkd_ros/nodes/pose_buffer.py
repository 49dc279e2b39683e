# SPDX-License-Identifier: Apache-2.0
"""The poses a vehicle's odometry reported lately, to be matched with its sweeps."""

from __future__ import annotations

import threading
from collections import deque

from nav_msgs.msg import Odometry

from diffkd_ros.geometry.poses import Matrix, PoseError
from diffkd_ros.nodes.conversions import NANOSECONDS
from diffkd_ros.sources.ros_messages import pose_of, stamp_of

# Two seconds of a 100 Hz odometry.
_DEPTH = 200


class MissingPoseError(ValueError):
    """No usable pose for a sweep's stamp."""


class PoseBuffer:
    """Finds the odometry nearest in time to a sweep. Thread-safe.

    Args:
        tolerance: largest difference between the stamps of sweep and pose, seconds.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = round(tolerance * NANOSECONDS)
        self._lock = threading.Lock()
        self._received: deque[tuple[int, Odometry]] = deque(maxlen=_DEPTH)

    def add(self, message: Odometry) -> None:
        """Store a message that just arrived; nothing is checked yet."""
        with self._lock:
            self._received.append((stamp_of(message.header), message))

    def pose_at(self, stamp: int, lidar_frame: str) -> tuple[Matrix, Odometry]:
        """The pose map <- LiDAR for a sweep, and the message it comes from.

        Args:
            stamp: of the sweep, nanoseconds.
            lidar_frame: the cloud's frame, which must be the one whose pose the odometry gives.

        Raises:
            MissingPoseError: if there is no odometry within the tolerance, or the nearest one gives the pose
                of another frame or is no finite rigid transform.
        """
        with self._lock:
            if not self._received:
                raise MissingPoseError('no odometry received yet')
            # Of equally near ones the one received last.
            nearest, message = min(reversed(self._received), key=lambda item: abs(item[0] - stamp))
        if abs(nearest - stamp) > self._tolerance:
            raise MissingPoseError(
                f'the nearest odometry is {abs(nearest - stamp) / NANOSECONDS:.3f} s from the sweep, '
                f'pose_tolerance is {self._tolerance / NANOSECONDS:.3f} s'
            )
        if message.child_frame_id != lidar_frame:
            raise MissingPoseError(
                f'odometry gives the pose of {message.child_frame_id!r}, but the cloud is in {lidar_frame!r}'
            )
        try:
            return pose_of(message.pose.pose), message
        except PoseError as error:
            raise MissingPoseError(f'odometry is {error}') from error
