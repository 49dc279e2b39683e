# SPDX-License-Identifier: Apache-2.0
"""Watches a vehicle's own LiDAR and pose, and names their faults."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.sensor.alignment import AlignmentCheck
from diffkd_ros.runtime.sensor.faults import MISLEADING, MISPLACED, Fault, described
from diffkd_ros.runtime.sensor.field import FieldCheck
from diffkd_ros.runtime.sensor.repetition import RepetitionCheck
from diffkd_ros.runtime.sensor.sampling import sample
from diffkd_ros.runtime.sensor.scatter import scatter

# Consecutive sweeps after which a fault is reported, and after which it is over.
_BEGINS, _ENDS = 5, 10
# Nanoseconds, and metres per second: after a longer pause or a jump nothing before is comparable.
_PAUSE = 5_000_000_000
_FASTEST = 70.0
# Of these at most one is reported at a time.
_KINDS = (
    (Fault.FROZEN,),
    (Fault.TURNED, Fault.HEADING, Fault.UNCLEAR),
    (Fault.MISSING,),
    (Fault.SPARSE,),
    (Fault.SCATTERED,),
)


class SensorMonitor:
    """Checks each sweep of one LiDAR and its pose.

    A fault is reported after 5 sweeps, and is over after 10 without it. Sweeps of which a check knows nothing
    do not count for it.

    Attributes:
        faults: at present, with details; replaced, not changed, by `examine`.
    """

    def __init__(self) -> None:
        self.faults: Mapping[Fault, str] = {}
        self._forget()

    def _forget(self) -> None:
        self._repetition, self._alignment, self._field = RepetitionCheck(), AlignmentCheck(), FieldCheck()
        # Of each kind, consecutive sweeps that contradict the report.
        self._against = dict.fromkeys(_KINDS, 0)
        self._stamp: int | None = None
        self._pose = np.eye(4)
        self._map_frame = ''
        self.faults = {}

    @property
    def misleading(self) -> bool:
        """Whether sweeps show things where they are not."""
        return not MISLEADING.isdisjoint(self.faults)

    @property
    def misplaced(self) -> bool:
        """Whether the maps of neighbours may be fused in the wrong place."""
        return not MISPLACED.isdisjoint(self.faults)

    def described(self) -> list[str]:
        """The faults at present, each with its details."""
        return [described(fault, text) for fault, text in self.faults.items()]

    def examine(self, points: NDArray[np.float32], pose: Matrix, map_frame: str, stamp: int) -> None:
        """Check a sweep.

        Args:
            points: (n, 3 or more) returns, finite, x, y, z first, in the LiDAR frame. Not the zeros of an
                organised cloud for beams without a return, which `IntensityScale.read` drops.
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
        findings = (
            _of(Fault.FROZEN, frozen),
            # A repeated sweep does not show how the LiDAR is mounted.
            self._alignment.check(sampled, pose, stamp) if frozen == '' else None,
            _of(Fault.MISSING, field.missing),
            _of(Fault.SPARSE, field.sparse),
            # With few returns most squares have those of objects only.
            _of(Fault.SCATTERED, scatter(sampled)) if field.sparse == '' else None,
        )
        faults: dict[Fault, str] = {}
        for kind, finding in zip(_KINDS, findings, strict=True):
            faults |= self._state(kind, finding)
        self.faults = faults

    def _broken(self, pose: Matrix, map_frame: str, stamp: int) -> bool:
        if self._stamp is None:
            return False
        elapsed = stamp - self._stamp
        if not 0 <= elapsed <= _PAUSE or map_frame != self._map_frame:
            return True
        return float(np.linalg.norm(pose[:3, 3] - self._pose[:3, 3])) > 3.0 + _FASTEST * elapsed / 1e9

    def _state(self, kind: tuple[Fault, ...], finding: tuple[Fault, str] | None) -> Mapping[Fault, str]:
        """The fault of a kind that is reported, with details, if any."""
        reported = {fault: self.faults[fault] for fault in kind if fault in self.faults}
        if finding is None:
            return reported
        found = dict([finding]) if finding[1] else {}
        if bool(found) == bool(reported):
            self._against[kind] = 0
            return found
        self._against[kind] += 1
        if self._against[kind] < (_ENDS if reported else _BEGINS):
            return reported
        self._against[kind] = 0
        return found


def _of(fault: Fault, finding: str | None) -> tuple[Fault, str] | None:
    return None if finding is None else (fault, finding)
