# SPDX-License-Identifier: Apache-2.0
"""Whether a LiDAR repeats its last sweep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix

# Share of the returns that are bit-identical to those of the sweep before.
_REPEATED = 0.9
_NOISY = 0.3
# Sweeps at standstill that differ, after which the sensor is known to have noise.
_NOISY_SWEEPS = 10
# Metres and radians.
_STANDING = 0.01, 0.001
_MOVED = 0.1, 0.01
# Returns that are compared, about.
_COMPARED = 2000


class RepetitionCheck:
    """Compares each sweep with the one before.

    The returns of a real LiDAR are never the same again, even at standstill, due to noise. Those of a
    simulated one without noise are, while it stands; so a repeated sweep counts only if the vehicle has
    moved, or if the sensor has shown noise at standstill before.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint64] | None = None
        self._last_pose = self._first_pose = np.eye(4)
        self._noisy = 0

    def check(self, points: NDArray[np.float32], pose: Matrix) -> str | None:
        """Check a sweep.

        Args:
            points: (n, 3 or more), x, y, z first.
            pose: (4, 4) map <- LiDAR.

        Returns:
            What is wrong; empty if nothing is, None if that is not known.
        """
        returns = _some(points)
        share = 0.0 if self._last is None else _common(self._last, returns)
        if share < _REPEATED:
            standing = self._last is not None and _within(self._last_pose, pose, *_STANDING)
            if self._noisy < _NOISY_SWEEPS and standing:
                self._noisy = self._noisy + 1 if share < _NOISY else 0
            self._first_pose = pose
        self._last, self._last_pose = returns, pose
        if share < _REPEATED:
            return ''
        if self._noisy >= _NOISY_SWEEPS or not _within(self._first_pose, pose, *_MOVED):
            return 'the same returns again'
        return None


def _some(points: NDArray[np.float32]) -> NDArray[np.uint64]:
    """The x and y of some returns, sorted: of the same returns in every sweep, whatever the others are."""
    x, y = (np.ascontiguousarray(points[:, axis], np.float32).view(np.uint32) for axis in (0, 1))
    one_in = max(0, (len(points) // _COMPARED).bit_length() - 1)
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
