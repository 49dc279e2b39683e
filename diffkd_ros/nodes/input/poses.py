# SPDX-License-Identifier: Apache-2.0
"""The sources of a vehicle's poses: odometry, stamped poses or TF, by the parameter `pose_source`."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from itertools import chain
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.time import Time

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.lidar_pose import LidarPose, mounted, mounting
from diffkd_ros.geometry.poses import PoseError
from diffkd_ros.messages.poses import pose_of_odometry, pose_of_stamped, pose_of_transform
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.base.subscription import InputSubscription
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError, PoseBuffer

try:
    import tf2_ros
except ImportError:  # it has no wheel
    tf2_ros = None

SOURCES = ('odometry', 'pose', 'tf')

# Seconds between two look-ups while waiting for a transform; TF does not notify.
_TF_POLL = 0.005


class PoseSource(ABC):
    """Gives the LiDAR's pose at a stamp; called in the inference thread, receives in the executor's."""

    @abstractmethod
    def subscribe(self) -> None:
        """Start receiving."""

    @abstractmethod
    def unsubscribe(self) -> None:
        """Stop receiving, discard what was received, and end a wait."""

    @abstractmethod
    def forget_after(self, stamp: int) -> None:
        """Drop poses with a later stamp, after time has jumped back to this one."""

    @abstractmethod
    def pose_at(self, stamp: int, lidar_frame: str) -> LidarPose:
        """The pose map <- LiDAR at a stamp; waits for it up to a time limit.

        Raises:
            MissingPoseError: if there is no valid pose.
        """


class TopicPoses(PoseSource):
    """Poses from a topic.

    Args:
        node: subscribes.
        source: `odometry` (`nav_msgs/Odometry` on `odometry`) or `pose` (`geometry_msgs/
            PoseWithCovarianceStamped` on `pose`).
        tolerance: largest difference between the stamps of a sweep and its nearest pose, seconds.
        wait: longest wait for a pose that is not older than the sweep, seconds of real time.
        reliability: as of `InputSubscription`.
        base_to_lidar: x, y, z, roll, pitch, yaw of the LiDAR in the frame whose pose is received; all zero if
            that is the LiDAR's own.
    """

    def __init__(
        self,
        node: Node,
        source: str,
        tolerance: float,
        wait: float,
        reliability: str,
        base_to_lidar: tuple[float, ...],
    ) -> None:
        self._node, self._source, self._wait, self._tolerance = node, source, wait, tolerance
        self._reliability = reliability
        self._mount = mounting(base_to_lidar)
        self._buffer = self._new_buffer()
        self._subscription: InputSubscription | None = None

    def _new_buffer(self) -> PoseBuffer:
        read = pose_of_odometry if self._source == 'odometry' else pose_of_stamped
        return PoseBuffer(self._tolerance, read, self._source)

    def subscribe(self) -> None:
        """Start receiving."""
        self._buffer = self._new_buffer()
        kind = Odometry if self._source == 'odometry' else PoseWithCovarianceStamped
        self._subscription = InputSubscription(
            self._node, kind, self._source, qos.ODOMETRY.depth, self._reliability, self._receive
        )

    def _receive(self, message: Any) -> None:
        # An executor takes one message in a turn, which may take longer than the period of the poses.
        assert self._subscription is not None
        for each in chain([message], self._subscription.waiting()):
            self._buffer.add(each)

    def unsubscribe(self) -> None:
        """Stop receiving, discard what was received, and end a wait."""
        self._buffer.close()
        if self._subscription is not None:
            self._subscription.destroy()
            self._subscription = None

    def forget_after(self, stamp: int) -> None:
        """Drop poses with a later stamp, after time has jumped back to this one."""
        self._buffer.forget_after(stamp)

    def pose_at(self, stamp: int, lidar_frame: str) -> LidarPose:
        """The pose map <- LiDAR at a stamp, see `PoseSource`."""
        buffer = self._buffer
        buffer.wait_for(stamp, self._wait)
        if self._mount is None and self._source == 'odometry':
            frame = buffer.message_near(stamp).child_frame_id
            if frame != lidar_frame:
                raise MissingPoseError(
                    f'odometry gives the pose of {frame!r}, but the cloud is in {lidar_frame!r}: '
                    'set base_to_lidar, or pose_source to tf'
                )
        pose = buffer.pose_at(stamp)
        return pose if self._mount is None else mounted(pose, self._mount)


class TfPoses(PoseSource):
    """Poses map <- LiDAR from TF; their motion and covariance are unknown.

    Args:
        node: subscribes.
        map_frame: the frame all vehicles share.
        wait: longest wait for a transform, seconds of real time.

    Raises:
        DiffkdError: if tf2_ros is not installed.
    """

    def __init__(self, node: Node, map_frame: str, wait: float) -> None:
        if tf2_ros is None:
            raise DiffkdError(
                'pose_source tf needs the Python package tf2_ros, which is not installed; '
                'the other sources are odometry and pose'
            )
        self._node, self._map_frame, self._wait = node, map_frame, wait
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = None
        self._closed = threading.Event()

    def subscribe(self) -> None:
        """Start receiving."""
        self._closed.clear()
        # The node's own executor receives them, so a look-up with a time-out in its thread would never end.
        self._listener = tf2_ros.TransformListener(self._buffer, self._node, spin_thread=False)

    def unsubscribe(self) -> None:
        """Stop receiving, discard what was received, and end a wait."""
        self._closed.set()
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
        self._buffer.clear()

    def forget_after(self, stamp: int) -> None:
        """Drop everything, as a buffer of TF cannot drop a part."""
        self._buffer.clear()

    def pose_at(self, stamp: int, lidar_frame: str) -> LidarPose:
        """The pose map <- LiDAR at a stamp, see `PoseSource`."""
        give_up = time.monotonic() + self._wait
        while True:
            try:
                found = self._buffer.lookup_transform(self._map_frame, lidar_frame, Time(nanoseconds=stamp))
                break
            except tf2_ros.TransformException as error:
                if time.monotonic() >= give_up or self._closed.wait(_TF_POLL):
                    raise MissingPoseError(f'no transform: {error}') from error
        try:
            pose = pose_of_transform(found.transform)
        except PoseError as error:
            raise MissingPoseError(f'the transform is {error}') from error
        return LidarPose(pose, self._map_frame)
