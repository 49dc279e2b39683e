# SPDX-License-Identifier: Apache-2.0
"""The poses a vehicle's localisation reported lately, brought to the stamps of its sweeps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.motion import between, moved, twist_between
from diffkd_ros.geometry.poses import PoseError
from diffkd_ros.messages.conversions import NANOSECONDS
from diffkd_ros.messages.lidar_pose import LidarPose
from diffkd_ros.messages.reading import stamp_of

# Two seconds of a 100 Hz odometry.
_DEPTH = 200
# Stamps that fall back by more than this come from another run: what was stored before is void.
_RESTART = 1 * NANOSECONDS


class MissingPoseError(DiffkdError):
    """No usable pose for a sweep's stamp."""


class PoseBuffer:
    """Finds the pose at a sweep's stamp. Thread-safe.

    Between two poses it is interpolated. After the newest one, or before the oldest, it is extrapolated by
    the velocity that came with it or, without one, by that between the two nearest.

    Args:
        tolerance: largest difference between the stamps of the sweep and of the nearest pose, seconds.
        read: makes the pose of a message; may raise `PoseError`.
        name: what the messages are, for errors.
    """

    def __init__(self, tolerance: float, read: Callable[[Any], LidarPose], name: str = 'odometry') -> None:
        self._tolerance = round(tolerance * NANOSECONDS)
        self._read, self._name = read, name
        self._condition = threading.Condition()
        self._received: deque[tuple[int, Any]] = deque(maxlen=_DEPTH)
        self._closed = False

    def add(self, message: Any) -> None:
        """Store a message that just arrived; nothing is checked yet."""
        stamp = stamp_of(message.header)
        with self._condition:
            if self._received and stamp < self._received[-1][0] - _RESTART:
                self._received.clear()
            self._received.append((stamp, message))
            self._condition.notify_all()

    def forget_after(self, stamp: int) -> None:
        """Drop what is stamped later: time has jumped back to here."""
        with self._condition:
            kept = [item for item in self._received if item[0] <= stamp]
            self._received.clear()
            self._received.extend(kept)

    def close(self) -> None:
        """Make a wait return at once, now and later."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait_for(self, stamp: int, timeout: float) -> None:
        """Wait until a pose of that stamp or later has come, at most so many seconds of real time."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._closed or any(received >= stamp for received, _ in reversed(self._received)),
                timeout,
            )

    def message_near(self, stamp: int) -> Any:
        """The message whose stamp is nearest.

        Raises:
            MissingPoseError: if there is none within the tolerance.
        """
        with self._condition:
            return self._nearest(stamp)[1]

    def _nearest(self, stamp: int) -> tuple[int, Any]:
        if not self._received:
            raise MissingPoseError(f'no {self._name} received yet')
        # Of equally near ones the one received last.
        nearest = min(reversed(self._received), key=lambda item: abs(item[0] - stamp))
        if abs(nearest[0] - stamp) > self._tolerance:
            raise MissingPoseError(
                f'the nearest {self._name} is {abs(nearest[0] - stamp) / NANOSECONDS:.3f} s from the sweep, '
                f'pose_tolerance is {self._tolerance / NANOSECONDS:.3f} s'
            )
        return nearest

    def pose_at(self, stamp: int) -> LidarPose:
        """The pose at that stamp; exactly the one received if there is one of that very stamp.

        Raises:
            MissingPoseError: if no pose lies within the tolerance, or the nearest is no rigid transform.
        """
        with self._condition:
            at, message = self._nearest(stamp)
            others = [item for item in self._received if item[0] != at]
        try:
            nearest = self._read(message)
            if at == stamp:
                return nearest
            beyond = [item for item in others if (item[0] > stamp) != (at > stamp)]
            if beyond:
                other_at, other = min(beyond, key=lambda item: abs(item[0] - stamp))
                pose = between(nearest.pose, self._read(other).pose, (stamp - at) / (other_at - at))
                return replace(nearest, pose=pose)
            seconds = (stamp - at) / NANOSECONDS
            if nearest.linear is not None:
                return replace(nearest, pose=moved(nearest.pose, nearest.linear, nearest.angular, seconds))
            if not others:
                return nearest
            other_at, other = min(others, key=lambda item: abs(item[0] - at))
            past = (other_at - at) / NANOSECONDS
            # Too far apart to tell the velocity now.
            if abs(past) > 1.0:
                return nearest
            linear, angular = twist_between(nearest.pose, self._read(other).pose, past)
            return replace(nearest, pose=moved(nearest.pose, linear, angular, seconds))
        except PoseError as error:
            raise MissingPoseError(f'{self._name} is {error}') from error
