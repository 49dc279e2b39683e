# SPDX-License-Identifier: Apache-2.0
"""Gathers what the LiDARs deliver, each in a thread of the CARLA client, into sweeps of one frame."""

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

# Frames of which something has arrived and that nobody has asked for.
_KEPT = 8


def pose_of(placed: Any) -> Matrix:
    """Where a `carla.Transform` or `carla.BoundingBox` is, by its location and rotation; REP-103."""
    at, turned = placed.location, placed.rotation
    return pose_from_carla(at.x, at.y, at.z, turned.roll, turned.yaw, turned.pitch)


@dataclass(frozen=True)
class Measured:
    """One LiDAR's measurement, REP-103.

    Attributes:
        points: (n, 4) float32, its own memory.
        pose: map <- LiDAR.
    """

    points: NDArray[np.float32]
    pose: Matrix


class SweepCollector:
    """Thread-safe.

    Attributes:
        errors: measurements that could not be read.
        last_error: the latest one's.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frames: dict[int, dict[int, Measured]] = {}
        self.errors = 0
        self.last_error = ''

    def add(self, agent: int, measurement: Any) -> None:
        """Take a `carla.LidarMeasurement`; called by the client, to whom an exception would be lost."""
        try:
            # The memory is the client's, which reuses it: flip_points copies.
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
        """What has arrived of a frame, once these agents' sweeps are there or the time is up."""
        with self._condition:
            self._condition.wait_for(
                lambda: all(agent in self._frames.get(frame, {}) for agent in agents), timeout
            )
            found = self._frames.pop(frame, {})
            for old in [number for number in self._frames if number < frame]:
                del self._frames[old]
        return found
