# SPDX-License-Identifier: Apache-2.0
"""The input of a vehicle: its clouds and the odometry of its LiDAR, and what was wrong with them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.subscription import MessageInfo
from sensor_msgs.msg import PointCloud2

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.nodes import diagnostics, qos
from diffkd_ros.nodes.pose_buffer import MissingPoseError, PoseBuffer
from diffkd_ros.nodes.stage_timer import StageTimer
from diffkd_ros.sources.point_cloud import CloudPoints, PointCloudError, layout_of, read_cloud
from diffkd_ros.sources.ros_messages import stamp_of

# A LiDAR that turns at 10 Hz or more has long been silent after this.
_SILENT = 2.0


class RefusedSweepError(ValueError):
    """A sweep that cannot be used, already counted."""


@dataclass(frozen=True)
class Sweep:
    """A cloud as it arrived.

    Attributes:
        cloud: the message.
        stamp: of the cloud, nanoseconds.
        published: when its publisher wrote it, wall clock nanoseconds (0 if the middleware does not say).
        arrived: when the callback got it, wall clock nanoseconds.
    """

    cloud: PointCloud2
    stamp: int
    published: int
    arrived: int

    def timer(self) -> StageTimer:
        """A timer that starts with the cloud's publication."""
        return StageTimer(self.published, self.arrived)


class SweepInput:
    """Subscribes to `points` and `odometry` and reads sweeps from them.

    Args:
        node: the vehicle's node.
        on_sweep: called in the executor's thread with each cloud; must only store it.
        pose_tolerance: largest difference between the stamps of cloud and pose, seconds.
    """

    def __init__(self, node: Node, on_sweep: Callable[[Sweep], None], pose_tolerance: float) -> None:
        self._node = node
        self._on_sweep = on_sweep
        self._poses = PoseBuffer(pose_tolerance)
        self._last_arrival: float | None = None
        self._last_refusal = ''
        self._layout = ''
        self._last_points = 0
        self._told_scale = False
        self.received = 0
        self.refused: Counter[str] = Counter()
        node.create_subscription(Odometry, 'odometry', self._poses.add, qos.ODOMETRY)
        self._subscription = node.create_subscription(PointCloud2, 'points', self._on_cloud, qos.POINTS)

    def _on_cloud(self, cloud: PointCloud2, info: MessageInfo) -> None:
        self.received += 1
        self._last_arrival = time.monotonic()
        stamp = stamp_of(cloud.header)
        self._on_sweep(Sweep(cloud, stamp, int(info['source_timestamp']), time.time_ns()))

    def read(self, sweep: Sweep) -> CloudPoints:
        """The sweep's points.

        Raises:
            RefusedSweepError: if the cloud cannot be used; it is counted, logged and shown in diagnostics.
        """
        try:
            points = read_cloud(sweep.cloud)
        except PointCloudError as error:
            raise self.refuse('cloud', error) from error
        self._last_points = len(points.points)
        self._layout = layout_of(sweep.cloud)
        if points.intensity_scale != 1.0 and not self._told_scale:
            self._told_scale = True
            self._node.get_logger().info('intensities count 0..255: divided by 255')
        return points

    def pose(self, sweep: Sweep) -> tuple[Matrix, Odometry]:
        """The LiDAR's pose map <- LiDAR at the sweep, and the odometry it comes from.

        Raises:
            RefusedSweepError: if there is none; it is counted, logged and shown in diagnostics.
        """
        try:
            return self._poses.pose_at(sweep.stamp, sweep.cloud.header.frame_id)
        except MissingPoseError as error:
            raise self.refuse('pose', error) from error

    def refuse(self, reason: str, error: Exception) -> RefusedSweepError:
        """Count, log and show in diagnostics that a sweep was refused.

        Args:
            reason: 'cloud' or 'pose', for the counts.
            error: says what was wrong.

        Returns:
            An exception for the caller to raise.
        """
        self.refused[reason] += 1
        self._last_refusal = str(error)
        self._node.get_logger().warning(f'sweep refused ({reason}): {error}', throttle_duration_sec=5.0)
        return RefusedSweepError(str(error))

    def accept(self) -> None:
        """Note that a sweep was used, so that an earlier refusal is no longer the state of things."""
        self._last_refusal = ''

    def diagnostics(self, values: Mapping[str, object]) -> diagnostics.Item:
        """The item `input`, with the node's own values added."""
        silence = None if self._last_arrival is None else time.monotonic() - self._last_arrival
        topic = self._subscription.topic_name
        if self._last_refusal:
            level, message = diagnostics.ERROR, f'sweep refused: {self._last_refusal}'
        elif silence is None:
            publishers = self._subscription.get_publisher_count()
            level = diagnostics.WARN
            message = f'no cloud received yet on {topic}, which has {publishers} publishers'
        elif silence > _SILENT:
            level, message = diagnostics.STALE, f'no cloud on {topic} for {silence:.1f} s'
        else:
            level, message = diagnostics.OK, f'{self._last_points} points in the last sweep'
        counts = {f'sweeps refused ({reason})': count for reason, count in sorted(self.refused.items())}
        return diagnostics.Item(
            'input',
            level,
            message,
            {'sweeps received': self.received, **counts, **values, 'layout': self._layout},
        )
