# SPDX-License-Identifier: Apache-2.0
"""Whether clouds and poses agree, and which of them is wrong if they do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.sensor.faults import Fault
from diffkd_ros.runtime.sensor.mounting import MountingCheck
from diffkd_ros.runtime.sensor.track import PoseTrack

# Degrees between heading and course up to which the heading is right, and between this and the cloud's turn
# up to which the heading explains the turn.
_RIGHT = 1.5
_EXPLAINED = 2.0
# Consecutive sweeps after which what was decided is decided otherwise.
_DECIDED = 5


class AlignmentCheck:
    """Decides by the course of the positions whether the LiDAR or the heading is turned.

    Cloud and pose alone do not show it. If the heading of a vehicle that drives straight on is the direction
    in which it moves, the LiDAR is turned; if the course differs from the heading as the cloud does, the
    heading is wrong. What is decided stays so while the vehicle stands.
    """

    def __init__(self) -> None:
        self._mounting, self._track = MountingCheck(), PoseTrack()
        self._decided = self._latest = Fault.UNCLEAR
        self._votes = 0
        self._turn = 0.0

    def check(self, points: NDArray[np.float32], pose: Matrix, stamp: int) -> tuple[Fault, str] | None:
        """Check a sweep.

        Args:
            points: (n, 3 or more) a sample of its returns.
            pose: (4, 4) map <- LiDAR.
            stamp: nanoseconds.

        Returns:
            The fault and its details, empty if there is none; None if that is not known.
        """
        if not self._track.follow(pose, stamp):
            # The pose was corrected, or is wrong from now on. A LiDAR that was turned before is still turned.
            self._mounting.forget(self._turn if self._decided is Fault.TURNED else 0.0)
        if not self._track.steady:
            return None
        turn = self._mounting.check(points, pose, stamp)
        if turn is None:
            return None
        self._turn = turn
        found = self._cause(turn) if turn else Fault.UNCLEAR
        if found is not None:
            self._votes = self._votes + 1 if found is self._latest else 1
            self._latest = found
            if self._votes >= _DECIDED:
                self._decided = found
        return self._decided, f'by about {turn:.0f} degrees' if turn else ''

    def _cause(self, turn: float) -> Fault | None:
        """What this sweep and the course say; None if the course is not known."""
        error = self._track.course_error()
        if error is None:
            return None
        if abs(error) <= _RIGHT:
            return Fault.TURNED
        return Fault.HEADING if abs(error - turn) <= _EXPLAINED else Fault.UNCLEAR
