# SPDX-License-Identifier: Apache-2.0
"""Where a vehicle's poses come from: odometry, stamped poses or TF, as the parameter `pose_source` says."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.time import Time

from diffkd_ros.geometry.poses import Matrix, PoseError, pose_from_euler, pose_from_quaternion
from diffkd_ros.messages.lidar_pose import LidarPose, mounted, pose_of_odometry, pose_of_stamped
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.base.entry import SetupError
from diffkd_ros.nodes.base.subscription import InputSubscription
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError, PoseBuffer

try:
    import tf2_ros
except ImportError:  # not among the wheels
    tf2_ros = None

SOURCES = ('odometry', 'pose', 'tf')

# How often TF is asked again while a transform is on its way; nothing tells when one has arrived.
_TF_POLL = 0.005


class PoseSource(ABC):
    """Gives the LiDAR's pose at a stamp. Asked in the inference thread, fed in the executor's."""

    @abstractmethod
    def subscribe(self) -> None:
        """Begin to receive."""

    @abstractmethod
    def unsubscribe(self) -> None:
        """Receive no more, forget what came, and end a wait."""

    @abstractmethod
    def forget_after(self, stamp: int) -> None:
        """Drop what is stamped later: time has jumped back to here."""

    @abstractmethod
    def pose_at(self, stamp: int, lidar_frame: str) -> LidarPose:
        """The pose map <- LiDAR at a stamp; waits for it, but not for long.

        Raises:
            MissingPoseError: if there is none.
        """


class TopicPoses(PoseSource):
    """Poses from a topic.

    Args:
        node: that subscribes.
        source: `odometry` (`nav_msgs/Odometry` on `odometry`) or `pose` (`geometry_msgs/
            PoseWithCovarianceStamped` on `pose`).
        tolerance: largest difference between the stamps of a sweep and its nearest pose, seconds.
        wait: longest wait for a pose that is not older than the sweep, seconds of real time.
        reliability: as of `InputSubscription`.
        base_to_lidar: x, y, z, roll, pitch, yaw of the LiDAR in the frame whose pose comes; all zero if it is
            the LiDAR's own pose.
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
        self._mount: Matrix | None = None
        if any(base_to_lidar):
            self._mount = pose_from_euler(base_to_lidar[:3], *base_to_lidar[3:])
        self._buffer = self._empty()
        self._subscription: InputSubscription | None = None

    def _empty(self) -> PoseBuffer:
        read = pose_of_odometry if self._source == 'odometry' else pose_of_stamped
        return PoseBuffer(self._tolerance, read, self._source)

    def subscribe(self) -> None:
        """Begin to receive."""
        self._buffer = self._empty()
        kind = Odometry if self._source == 'odometry' else PoseWithCovarianceStamped
        self._subscription = InputSubscription(
            self._node, kind, self._source, qos.ODOMETRY.depth, self._reliability, self._buffer.add
        )

    def unsubscribe(self) -> None:
        """Receive no more, forget what came, and end a wait."""
        self._buffer.close()
        if self._subscription is not None:
            self._subscription.destroy()
            self._subscription = None

    def forget_after(self, stamp: int) -> None:
        """Drop what is stamped later: time has jumped back to here."""
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
    """Poses map <- LiDAR from TF, through every link between; their motion and covariance are unknown.

    Args:
        node: that listens.
        map_frame: the frame all vehicles share.
        wait: longest wait for a transform, seconds of real time.

    Raises:
        SetupError: if tf2_ros is not installed.
    """

    def __init__(self, node: Node, map_frame: str, wait: float) -> None:
        if tf2_ros is None:
            raise SetupError(
                'pose_source tf needs the Python package tf2_ros, which is not installed; '
                'the other sources are odometry and pose'
            )
        self._node, self._map_frame, self._wait = node, map_frame, wait
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = None
        self._closed = threading.Event()

    def subscribe(self) -> None:
        """Begin to receive."""
        self._closed.clear()
        # The node's own executor takes them; a look-up with a time-out in there would wait for itself.
        self._listener = tf2_ros.TransformListener(self._buffer, self._node, spin_thread=False)

    def unsubscribe(self) -> None:
        """Receive no more, forget what came, and end a wait."""
        self._closed.set()
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
        self._buffer.clear()

    def forget_after(self, stamp: int) -> None:
        """Drop everything: a buffer of TF cannot drop a part."""
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
        t, q = found.transform.translation, found.transform.rotation
        try:
            pose = pose_from_quaternion(np.array([t.x, t.y, t.z]), (q.x, q.y, q.z, q.w))
        except PoseError as error:
            raise MissingPoseError(f'the transform is {error}') from error
        return LidarPose(pose, self._map_frame)
