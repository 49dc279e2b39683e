# SPDX-License-Identifier: Apache-2.0
"""A vehicle's input: its clouds, the poses of its LiDAR, and diagnostics of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.clouds import CloudPoints, PointCloudError, layout_of
from diffkd_ros.messages.intensity import IntensityScale
from diffkd_ros.messages.reading import stamp_of
from diffkd_ros.metrics.stamp_gaps import StampGaps
from diffkd_ros.nodes.base import diagnostics, qos
from diffkd_ros.nodes.base.subscription import InputSubscription
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError
from diffkd_ros.nodes.input.poses import PoseSource
from diffkd_ros.nodes.input.stage_timer import StageTimer

if TYPE_CHECKING:
    # Not in Jazzy, where it is a dict.
    from rclpy.subscription import MessageInfo

# Seconds without a cloud after which the input is stale; LiDARs turn at 10 Hz or more.
_SILENT = 2.0
# If the LiDAR is mounted as the model expects, at least this share of the points is in the grid.
_USUAL_SHARE = 0.2


class RefusedSweepError(DiffkdError):
    """A sweep cannot be used; it is already logged.

    Attributes:
        reason: 'cloud', 'pose' or 'sensor', under which it is counted.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Sweep:
    """A cloud as it arrived.

    Attributes:
        cloud: the message.
        stamp: of the cloud, nanoseconds.
        published: when its publisher wrote it, wall clock nanoseconds; 0 if the middleware does not give it.
        arrived: when the callback received it, wall clock nanoseconds.
    """

    cloud: PointCloud2
    stamp: int
    published: int
    arrived: int

    def timer(self) -> StageTimer:
        """A timer that starts with the cloud's publication."""
        return StageTimer(self.published, self.arrived)


class SweepInput:
    """Receives sweeps on `points`, and reads them and their poses.

    Args:
        node: the vehicle's node.
        poses: gives the LiDAR's pose at a stamp.
        reliability: of the clouds, one of `diffkd_ros.nodes.base.subscription.RELIABILITIES`.
        intensity_scale: as of `IntensityScale`.
        grid: of the model.
    """

    def __init__(
        self, node: Node, poses: PoseSource, reliability: str, intensity_scale: str, grid: BevGrid
    ) -> None:
        self._node, self._poses, self._grid = node, poses, grid
        self._reliability, self._intensity = reliability, IntensityScale(intensity_scale)
        self._on_sweep: Callable[[Sweep], None] | None = None
        self._subscription: InputSubscription | None = None
        self._last_arrival: float | None = None
        self._last_refusal = ''
        self._last_points = CloudPoints.empty()
        self._last_bytes = 0
        self._layout = ''
        self._warned = ''
        self._gaps = StampGaps()

    def subscribe(self, on_sweep: Callable[[Sweep], None]) -> None:
        """Start receiving.

        Args:
            on_sweep: called in the executor's thread with each cloud; must return at once.
        """
        self._on_sweep = on_sweep
        self._poses.subscribe()
        self._subscription = InputSubscription(
            self._node, PointCloud2, 'points', qos.POINTS_RECEIVED, self._reliability, self._on_cloud
        )

    def unsubscribe(self) -> None:
        """Stop receiving; discard the poses and the last refusal."""
        if self._subscription is not None:
            self._subscription.destroy()
            self._subscription = None
        self._poses.unsubscribe()
        self._last_arrival = None
        self._last_refusal = ''
        self._gaps.reset()

    def forget_after(self, stamp: int) -> None:
        """Drop poses with a later stamp, after time has jumped back to this one."""
        self._poses.forget_after(stamp)

    def _on_cloud(self, cloud: PointCloud2, info: MessageInfo) -> None:
        self._last_arrival = time.monotonic()
        stamp = stamp_of(cloud.header)
        self._gaps.follow(stamp)
        assert self._on_sweep is not None
        self._on_sweep(Sweep(cloud, stamp, int(info['source_timestamp']), time.time_ns()))

    def read(self, sweep: Sweep) -> CloudPoints:
        """The sweep's points.

        Raises:
            RefusedSweepError: if the cloud cannot be used; it is logged and shown in diagnostics.
        """
        before = self._intensity.scale
        try:
            points = self._intensity.read(sweep.cloud)
        except PointCloudError as error:
            raise self.refuse('cloud', error) from error
        if self._intensity.scale != before:
            self._node.get_logger().info('intensities are in 0..255: divided by 255 from now on')
        self._last_points, self._last_bytes = points, len(sweep.cloud.data)
        self._layout = layout_of(sweep.cloud)
        return points

    def pose(self, sweep: Sweep) -> LidarPose:
        """The LiDAR's pose map <- LiDAR at the sweep.

        Raises:
            RefusedSweepError: if there is no valid pose; it is logged and shown in diagnostics.
        """
        try:
            return self._poses.pose_at(sweep.stamp, sweep.cloud.header.frame_id)
        except MissingPoseError as error:
            raise self.refuse('pose', error) from error

    def refuse(self, reason: str, error: Exception) -> RefusedSweepError:
        """Log a refused sweep, and show it in diagnostics.

        Args:
            reason: 'cloud', 'pose' or 'sensor'.
            error: the cause.

        Returns:
            An exception for the caller to raise.
        """
        self._last_refusal = str(error)
        self._node.get_logger().warning(f'sweep refused ({reason}): {error}', throttle_duration_sec=5.0)
        return RefusedSweepError(reason, str(error))

    def accept(self) -> None:
        """Clear the last refusal, after a sweep was used."""
        self._last_refusal = ''

    def unused(self) -> str:
        """Why no sweep is used at present; empty if one was, or if no reason is known."""
        if self._subscription is None:
            return ''
        level, message = self._state(self._subscription)
        unused = self._last_arrival is None or level in (diagnostics.ERROR, diagnostics.STALE)
        return message if unused else ''

    def _suspicion(self) -> str:
        """What may be wrong with sweeps that are used; empty if nothing."""
        assert self._subscription is not None
        points = self._last_points
        if doubt := self._intensity.doubt(points):
            return doubt
        if (
            self._subscription.best_effort
            and self._last_bytes > qos.MAX_BEST_EFFORT_BYTES
            and qos.loses_large_best_effort()
        ):
            return (
                f'clouds of {self._last_bytes} bytes are received best effort: with the defaults of Fast DDS '
                'most of them are lost without notice'
            )
        return _misplaced(points.points, self._grid)

    def diagnostics(self, values: Mapping[str, object]) -> diagnostics.Item:
        """The item `input`.

        Args:
            values: how the sweeps received were used.
        """
        if self._subscription is None:
            level, message = diagnostics.OK, 'not subscribed: the node is not active'
        else:
            level, message = self._state(self._subscription)
        points = self._last_points
        return diagnostics.Item(
            'input',
            level,
            message,
            {
                **values,
                'sweeps missing by their stamps': self._gaps.missing,
                'pauses of more than 1 s': self._gaps.pauses,
                'layout': self._layout,
                'points': len(points.points),
                'points dropped': points.dropped,
                'largest intensity': f'{points.largest_intensity:g}',
                'intensity divided by': f'{points.intensity_scale:g}',
            },
        )

    def _state(self, subscription: InputSubscription) -> tuple[bytes, str]:
        silence = None if self._last_arrival is None else time.monotonic() - self._last_arrival
        topic = subscription.topic
        if silence is None:
            why = ', of an incompatible quality of service' if subscription.incompatible else ''
            message = (
                f'no cloud received yet on {topic}, which has {subscription.publishers()} publishers{why}'
            )
            return diagnostics.WARN, message
        if silence > _SILENT:
            refusal = f'; the last one was refused: {self._last_refusal}' if self._last_refusal else ''
            return diagnostics.STALE, f'no cloud on {topic} for {silence:.1f} s{refusal}'
        if self._last_refusal:
            return diagnostics.ERROR, f'sweep refused: {self._last_refusal}'
        suspicion = self._suspicion()
        if suspicion:
            if suspicion != self._warned:
                self._warned = suspicion
                self._node.get_logger().warning(suspicion, throttle_duration_sec=30.0)
            return diagnostics.WARN, suspicion
        return diagnostics.OK, f'{len(self._last_points.points)} points in the last sweep'


def _misplaced(points: NDArray[np.float32], grid: BevGrid) -> str:
    """A warning if so few points are in the model's grid that the LiDAR may be misplaced; else empty."""
    if not len(points):
        return ''
    x, y, z = points.T[:3]
    near = (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
    below, above = near & (z < grid.z_min), near & (z >= grid.z_max)
    share = float(np.mean(near & ~below & ~above))
    if share >= _USUAL_SHARE:
        return ''
    return (
        f"only {share:.0%} of the points lie in the model's grid ({below.mean():.0%} below "
        f'z = {grid.z_min:g} m, {above.mean():.0%} above {grid.z_max:g} m, {1 - near.mean():.0%} outside '
        'in x or y): is the LiDAR at the height the model expects, x forward and z up?'
    )
