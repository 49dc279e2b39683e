# SPDX-License-Identifier: Apache-2.0
"""Collects the measurements of the LiDARs, which arrive in threads of the CARLA client, by frame."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.carla import flip_points, pose_from_carla
from diffkd_ros.geometry.poses import Matrix

# Frames kept until they are taken.
_KEPT = 8


def pose_of(placed: Any) -> Matrix:
    """REP-103 pose (4, 4) of a `carla.Transform` or `carla.BoundingBox`."""
    at, turned = placed.location, placed.rotation
    return pose_from_carla(at.x, at.y, at.z, turned.roll, turned.yaw, turned.pitch)


@dataclass(frozen=True)
class Measured:
    """A measurement of one LiDAR, REP-103.

    Attributes:
        points: (n, 4) float32, a copy.
        pose: map <- LiDAR.
    """

    points: NDArray[np.float32]
    pose: Matrix


class SweepCollector:
    """Collects measurements by frame; thread-safe.

    Attributes:
        errors: number of unreadable measurements.
        last_error: error of the latest one.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frames: dict[int, dict[int, Measured]] = {}
        self.errors = 0
        self.last_error = ''

    def add(self, agent: int, measurement: Any) -> None:
        """Add a `carla.LidarMeasurement`; errors are counted, because the calling client drops them."""
        try:
            # flip_points copies: the client reuses the memory.
            raw = np.frombuffer(measurement.raw_data, '<f4').reshape(-1, 4)
            measured = Measured(flip_points(raw), pose_of(measurement.transform))
        except (DiffkdError, ValueError) as error:
            self.errors += 1
            self.last_error = str(error)
            return
        with self._condition:
            self._frames.setdefault(measurement.frame, {})[agent] = measured
            while len(self._frames) > _KEPT:
                del self._frames[min(self._frames)]
            self._condition.notify_all()

    def take(self, frame: int, agents: Collection[int], timeout: float) -> dict[int, Measured]:
        """Wait up to `timeout` seconds for these agents' measurements of a frame; returns all there are.

        A LiDAR measures in order: after a later measurement of an agent, the frame's is not waited for.
        """
        with self._condition:
            self._condition.wait_for(lambda: all(self._has(agent, frame) for agent in agents), timeout)
            found = self._frames.pop(frame, {})
            for old in [number for number in self._frames if number < frame]:
                del self._frames[old]
        return found

    def passed(self, frame: int, agent: int) -> bool:
        """Whether an agent has measured a later frame."""
        with self._condition:
            return self._has(agent, frame + 1)

    def _has(self, agent: int, frame: int) -> bool:
        """Whether there is a measurement of an agent of this frame or a later one."""
        return any(agent in measured for number, measured in self._frames.items() if number >= frame)
