# SPDX-License-Identifier: Apache-2.0
"""Whether a LiDAR repeats its last sweep."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix

# Share of the returns that are bit-identical to those of the sweep before, from which it is repeated, and
# share of returns in the same square of some millimetres, below which they have noise: a vehicle that settles
# or creeps moves them less.
_REPEATED = 0.9
_NOISY, _SQUARE = 0.3, 0.004
# Sweeps at standstill that have noise, after which the sensor is known to have it.
_NOISY_SWEEPS = 10
# Metres and radians: at standstill, also of the sensor alone.
_STANDING = 0.001, 0.0001
# Metres by which the vehicle has moved, more than the noise of odometry, and poses averaged for it.
_MOVED, _AVERAGED = 1.0, 3
# Returns that are compared, about.
_COMPARED = 2000


class RepetitionCheck:
    """Compares each sweep with the one before.

    The returns of a real LiDAR are never the same again, even at standstill, due to noise. Those of a
    simulated one without noise are, while it stands; so a repeated sweep counts only if the vehicle has
    moved by a metre, or if the sensor has shown noise at standstill before and never repeated itself there.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint64] | None = None
        self._last_places = np.zeros((2, 0), np.float32)
        self._last_pose = np.eye(4)
        # Positions at the first repetitions, and at the latest.
        self._first: deque[NDArray[np.float64]] = deque(maxlen=_AVERAGED)
        self._latest: deque[NDArray[np.float64]] = deque(maxlen=_AVERAGED)
        self._noisy = 0

    def check(self, points: NDArray[np.float32], pose: Matrix) -> str | None:
        """Check a sweep.

        Args:
            points: (n, 3 or more), x, y, z first.
            pose: (4, 4) map <- LiDAR.

        Returns:
            What is wrong; empty if nothing is, None if that is not known.
        """
        places = np.array(points[:, :2].T, np.float32, order='C')
        returns = _some(places.view(np.uint32))
        repeated = self._last is not None and _common(self._last, returns) >= _REPEATED
        if self._noisy < _NOISY_SWEEPS:
            self._learn(places, pose, repeated)
        self._last, self._last_places, self._last_pose = returns, places, pose
        if not repeated:
            self._first.clear()
            self._latest.clear()
            return ''
        self._latest.append(pose[:3, 3])
        if len(self._first) < _AVERAGED:
            self._first.append(pose[:3, 3])
        moved = np.linalg.norm(np.mean(self._latest, axis=0) - np.mean(self._first, axis=0))
        return 'the same returns again' if self._noisy >= _NOISY_SWEEPS or moved >= _MOVED else None

    def _learn(self, places: NDArray[np.float32], pose: Matrix, repeated: bool) -> None:
        """Learn whether the returns have noise: whether they move by more than the vehicle does."""
        if repeated:
            self._noisy = 0
        elif self._last is not None and _within(self._last_pose, pose, *_STANDING):
            before, now = (
                _some(np.floor(each / _SQUARE).astype(np.int32).view(np.uint32))
                for each in (self._last_places, places)
            )
            self._noisy = self._noisy + 1 if _common(before, now) < _NOISY else 0


def _some(places: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """The x and y (2, n) of some returns, sorted: of the same in every sweep, whatever the others are."""
    x, y = places
    one_in = max(0, (len(x) // _COMPARED).bit_length() - 1)
    # Multiplicative hashing, of which the high bits are used.
    chosen = np.flatnonzero(x * np.uint32(0x9E3779B1) <= np.uint32(0xFFFFFFFF >> one_in))
    return np.sort(x[chosen].astype(np.uint64) << np.uint64(32) | y[chosen])


def _common(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Share of the larger of two sorted sets that both have."""
    if not (len(one) and len(other)):
        return 0.0
    place = np.searchsorted(one, other).clip(max=len(one) - 1)
    return np.count_nonzero(one[place] == other) / max(len(one), len(other))


def _within(one: Matrix, other: Matrix, distance: float, angle: float) -> bool:
    if np.linalg.norm(other[:3, 3] - one[:3, 3]) > distance:
        return False
    # Of two rotations that differ by a small angle.
    return float(np.linalg.norm(other[:3, :3] - one[:3, :3])) <= np.sqrt(2) * angle
