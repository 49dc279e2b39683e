# SPDX-License-Identifier: Apache-2.0
"""The latest poses of a vehicle: whether they step, and whether its heading is the direction it drives in."""

from __future__ import annotations

from collections import deque

import numpy as np

from diffkd_ros.geometry.poses import Matrix, yaw_of

# Poses that the next one is predicted from, with constant velocity.
_FITTED = 5
# Metres and radians by which a pose may differ from its prediction.
_STEP = 0.3, np.radians(2.0)
# Seconds without a pose after which there is no prediction.
_PAUSE = 1.0
# Radians per second.
_FASTEST_TURN = np.radians(15.0)
# Of the section in which heading and course are compared: poses, metres, and radians by which the heading
# may change.
_KEPT = 100
_SHORTEST, _LONGEST = 5.0, 15.0
_STRAIGHT = np.radians(3.0)
# Standard deviations, radians: of the course up to which it is known, and of the heading from a steady turn.
_UNCERTAIN = np.radians(0.4)
_UNSTEADY = np.radians(0.7)


class PoseTrack:
    """Follows the poses of a vehicle.

    Attributes:
        steady: whether the poses have been continuous for some sweeps and the vehicle turns slowly, so that
            a pose that is late by a fraction of a second is nearly right.
    """

    def __init__(self) -> None:
        # Seconds, x, y and continuous yaw.
        self._poses: deque[tuple[float, float, float, float]] = deque(maxlen=_KEPT)
        self.steady = False

    def follow(self, pose: Matrix, stamp: int) -> bool:
        """Take the next pose; returns whether it is continuous with those before.

        Args:
            pose: (4, 4) map <- LiDAR.
            stamp: nanoseconds, later than that of the pose before.
        """
        seconds, yaw = stamp * 1e-9, yaw_of(pose)
        if self._poses:
            yaw += 2 * np.pi * round((self._poses[-1][3] - yaw) / (2 * np.pi))
        now = seconds, float(pose[0, 3]), float(pose[1, 3]), float(yaw)
        if not (continuous := self._continues(now)):
            self._poses.clear()
        self._poses.append(now)
        self.steady = len(self._poses) >= _FITTED and abs(self._fit()[0, 2]) < _FASTEST_TURN
        return continuous

    def _continues(self, now: tuple[float, float, float, float]) -> bool:
        if self._poses and not 0 < now[0] - self._poses[-1][0] <= _PAUSE:
            return False
        if len(self._poses) < 2:
            return True
        velocity, place = self._fit()
        x, y, yaw = place + velocity * (now[0] - self._poses[-1][0]) - now[1:]
        return bool(np.hypot(x, y) <= _STEP[0] and abs(yaw) <= _STEP[1])

    def _fit(self) -> np.ndarray:
        """Velocity, and state at the latest pose, of x, y and yaw by a linear fit: (2, 3)."""
        latest = np.array([self._poses[k] for k in range(-min(_FITTED, len(self._poses)), 0)])
        seconds = latest[:, 0] - latest[-1, 0]
        mean = latest[:, 1:].mean(axis=0)
        centred = seconds - seconds.mean()
        velocity = centred @ latest[:, 1:] / (centred @ centred)
        return np.array((velocity, mean - velocity * seconds.mean()))

    def course_error(self) -> float | None:
        """Degrees from the heading to the course of the positions, -90 to 90; None if it is not known.

        It is known after 5 m of driving nearly straight on with a steady heading, forwards or backwards.
        """
        poses = np.array(self._poses)
        if len(poses) < _FITTED:
            return None
        way, turn = np.hypot(*(poses[:, 1:3] - poses[-1, 1:3]).T), np.abs(poses[:, 3] - poses[-1, 3])
        outside = np.flatnonzero((way > _LONGEST) | (turn > _STRAIGHT))
        section = poses[outside[-1] + 1 if len(outside) else 0 :]
        if len(section) < _FITTED or np.hypot(*(section[-1, 1:3] - section[0, 1:3])) < _SHORTEST:
            return None
        # The line with the least squares of distances.
        places = section[:, 1:3] - section[:, 1:3].mean(axis=0)
        _, spread, axes = np.linalg.svd(places, full_matrices=False)
        if spread[1] > _UNCERTAIN * spread[0] * np.sqrt(len(section)):
            return None
        heading = section[:, 3] - section[:, 3].mean()
        seconds = section[:, 0] - section[:, 0].mean()
        if np.std(heading - seconds * (seconds @ heading) / (seconds @ seconds)) > _UNSTEADY:
            return None
        error = np.arctan2(axes[0, 1], axes[0, 0]) - section[:, 3].mean()
        return float(np.degrees((error + np.pi / 2) % np.pi - np.pi / 2))
