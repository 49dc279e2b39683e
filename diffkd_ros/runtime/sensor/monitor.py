# SPDX-License-Identifier: Apache-2.0
"""Watches a vehicle's own LiDAR and names its faults."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.sensor.field import FieldCheck
from diffkd_ros.runtime.sensor.mounting import MountingCheck
from diffkd_ros.runtime.sensor.repetition import RepetitionCheck
from diffkd_ros.runtime.sensor.sampling import sample
from diffkd_ros.runtime.sensor.scatter import scatter

# Consecutive sweeps after which a fault is reported, and after which it is over.
_BEGINS, _ENDS = 5, 10
# Nanoseconds, and metres per second: after a longer pause or a jump nothing before is comparable.
_PAUSE = 5_000_000_000
_FASTEST = 70.0


class Fault(str, Enum):
    """A fault of a LiDAR; the value is the text in FusionStatus and diagnostics."""

    FROZEN = 'frozen'
    TURNED = 'turned'
    MISSING = 'part of the field missing'
    SPARSE = 'far fewer points'
    SCATTERED = 'scattered returns'


MISLEADING = frozenset({Fault.FROZEN, Fault.TURNED})
"""Faults with which a sweep shows things where they are not."""


def described(fault: Fault, details: str) -> str:
    """A fault with its details."""
    return f'{fault.value}: {details}'


class SensorMonitor:
    """Checks each sweep of one LiDAR; a fault is reported after 5 sweeps, and is over after 10 without it.

    Sweeps of which a check knows nothing do not count for it.

    Attributes:
        faults: at present, with details; replaced, not changed, by `examine`.
    """

    def __init__(self) -> None:
        self.faults: Mapping[Fault, str] = {}
        self._forget()

    def _forget(self) -> None:
        self._repetition, self._mounting, self._field = RepetitionCheck(), MountingCheck(), FieldCheck()
        # Of each fault, consecutive sweeps that contradict the report.
        self._against = dict.fromkeys(Fault, 0)
        self._stamp: int | None = None
        self._pose = np.eye(4)
        self._map_frame = ''
        self.faults = {}

    @property
    def misleading(self) -> bool:
        """Whether sweeps show things where they are not."""
        return not MISLEADING.isdisjoint(self.faults)

    def described(self) -> list[str]:
        """The faults at present, each with its details."""
        return [described(fault, text) for fault, text in self.faults.items()]

    def examine(self, points: NDArray[np.float32], pose: Matrix, map_frame: str, stamp: int) -> None:
        """Check a sweep.

        Args:
            points: (n, 3 or more) finite, x, y, z first, in the LiDAR frame.
            pose: (4, 4) map <- LiDAR.
            map_frame: frame of the pose.
            stamp: nanoseconds. After a step back, a pause or a jump of the pose everything is forgotten.
        """
        if self._broken(pose, map_frame, stamp):
            self._forget()
        self._stamp, self._pose, self._map_frame = stamp, pose, map_frame
        sampled = sample(points)
        field = self._field.check(sampled, len(points))
        frozen = self._repetition.check(points, pose)
        findings = {
            Fault.FROZEN: frozen,
            # A repeated sweep does not show how the LiDAR is mounted.
            Fault.TURNED: self._mounting.check(sampled, pose) if frozen == '' else None,
            Fault.MISSING: field.missing,
            Fault.SPARSE: field.sparse,
            # With few returns most squares have those of objects only.
            Fault.SCATTERED: scatter(sampled) if field.sparse == '' else None,
        }
        self.faults = {fault: text for fault in Fault if (text := self._state(fault, findings[fault]))}

    def _broken(self, pose: Matrix, map_frame: str, stamp: int) -> bool:
        if self._stamp is None:
            return False
        elapsed = stamp - self._stamp
        if not 0 <= elapsed <= _PAUSE or map_frame != self._map_frame:
            return True
        return float(np.linalg.norm(pose[:3, 3] - self._pose[:3, 3])) > 3.0 + _FASTEST * elapsed / 1e9

    def _state(self, fault: Fault, finding: str | None) -> str:
        """Details of the fault if it is reported, else empty."""
        reported = self.faults.get(fault, '')
        if finding is None:
            return reported
        if bool(finding) == bool(reported):
            self._against[fault] = 0
            return finding
        self._against[fault] += 1
        if self._against[fault] < (_ENDS if reported else _BEGINS):
            return reported
        self._against[fault] = 0
        return finding
