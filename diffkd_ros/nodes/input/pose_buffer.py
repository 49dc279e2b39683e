# SPDX-License-Identifier: Apache-2.0
"""The latest poses of a vehicle's localisation, and the pose at the stamp of a sweep."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.lidar_pose import LidarPose, pose_at, supporting_stamps
from diffkd_ros.geometry.poses import PoseError
from diffkd_ros.messages.reading import NANOSECONDS, stamp_of

# Two seconds of a 100 Hz odometry.
_DEPTH = 200
# A stamp earlier than the last by more than this is of another run: the stored poses are discarded.
_RESTART = 1 * NANOSECONDS


class MissingPoseError(DiffkdError):
    """No usable pose for a sweep's stamp."""


class PoseBuffer:
    """Computes the pose at a sweep's stamp by `diffkd_ros.geometry.lidar_pose.pose_at`. Thread-safe.

    Args:
        tolerance: largest difference between the stamps of the sweep and of the nearest pose, seconds.
        read: reads the pose in a message; may raise `PoseError`.
        name: of the messages, for errors.
    """

    def __init__(self, tolerance: float, read: Callable[[Any], LidarPose], name: str = 'odometry') -> None:
        self._tolerance = round(tolerance * NANOSECONDS)
        self._read, self._name = read, name
        self._condition = threading.Condition()
        self._received: deque[tuple[int, Any]] = deque(maxlen=_DEPTH)
        self._closed = False

    def add(self, message: Any) -> None:
        """Store a message, unchecked."""
        stamp = stamp_of(message.header)
        with self._condition:
            if self._received and stamp < self._received[-1][0] - _RESTART:
                self._received.clear()
            self._received.append((stamp, message))
            self._condition.notify_all()

    def forget_after(self, stamp: int) -> None:
        """Drop messages with a later stamp, after time has jumped back to this one."""
        with self._condition:
            kept = [item for item in self._received if item[0] <= stamp]
            self._received.clear()
            self._received.extend(kept)

    def close(self) -> None:
        """Make the current wait and all later ones return at once."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait_for(self, stamp: int, timeout: float) -> None:
        """Wait for a pose with that stamp or a later one, at most `timeout` seconds of real time."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or any(received >= stamp for received, _ in reversed(self._received)),
                timeout,
            )

    def message_near(self, stamp: int) -> Any:
        """The message whose stamp is nearest.

        Raises:
            MissingPoseError: if no stamp is within the tolerance.
        """
        return next(iter(self._supporting(stamp).values()))

    def _supporting(self, stamp: int) -> dict[int, Any]:
        """The messages from which the pose at a stamp is computed, by stamp, the nearest first."""
        with self._condition:
            # Of several with the same stamp, the last received.
            received = dict(self._received)
        if not received:
            raise MissingPoseError(f'no {self._name} received yet')
        stamps = supporting_stamps(sorted(received), stamp, self._tolerance)
        if not stamps:
            distance = min(abs(other - stamp) for other in received) / NANOSECONDS
            raise MissingPoseError(
                f'the nearest {self._name} is {distance:.3f} s from the sweep, '
                f'pose_tolerance is {self._tolerance / NANOSECONDS:.3f} s'
            )
        return {chosen: received[chosen] for chosen in stamps}

    def pose_at(self, stamp: int) -> LidarPose:
        """The pose at a stamp.

        Raises:
            MissingPoseError: if no stamp is within the tolerance, or a pose is not a rigid transform.
        """
        messages = self._supporting(stamp)
        try:
            return pose_at(stamp, list(messages), lambda chosen: self._read(messages[chosen]))
        except PoseError as error:
            raise MissingPoseError(f'{self._name} is {error}') from error
