# SPDX-License-Identifier: Apache-2.0
"""Whether a LiDAR has lost a part of its field of view, or most of its returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECTORS = 24
"""Of the field of view, 15 degrees each."""
# Sectors without returns that are a fault: 90 degrees.
_MISSING = 6
# A sector is without returns at this share of what is usual, relative to that of all sectors.
_EMPTY = 0.1
# Returns of the sample that a sector usually has, at least; a LiDAR may see less than all directions.
_USED = 10.0
# Share of the usual returns, both of all and of those on the ground nearby, which stay when walls end.
_SPARSE = 0.35
_NEAR = 15.0  # metres
# Sweeps after which it is known what is usual, and over which it is averaged from then on: slowly while a
# fault is found, so that a change of the surroundings becomes usual.
_LEARNING = 10
_MEMORY, _LONG_MEMORY = 50, 500


@dataclass(frozen=True)
class FieldFinding:
    """What is wrong; empty if nothing is, None if that is not known.

    Attributes:
        missing: directions without returns.
        sparse: far fewer returns than usual.
    """

    missing: str | None
    sparse: str | None


class FieldCheck:
    """Compares the returns of each sweep, by direction, with what is usual for this vehicle.

    What was found for a few minutes counts as usual, as it may be open ground after a street.
    """

    def __init__(self) -> None:
        # Returns by sector, then those nearby.
        self._usual = np.zeros(SECTORS + 1)
        self._learnt = 0

    def check(self, points: NDArray[np.float32], total: int) -> FieldFinding:
        """Check a sweep.

        Args:
            points: (n, 3 or more) a sample of its returns.
            total: number of all returns.
        """
        counts = _counts(points) * (total / max(len(points), 1))
        if self._learnt < _LEARNING:
            self._learn(counts)
            return FieldFinding(None, None)
        usual = self._usual
        ratio = counts[:-1].sum() / max(usual[:-1].sum(), 1.0)
        used = usual[:-1] * len(points) >= _USED * total
        empty = used & (counts[:-1] < _EMPTY * ratio * usual[:-1])
        missing = empty.sum() >= _MISSING
        sparse = ratio < _SPARSE and counts[-1] < _SPARSE * usual[-1]
        self._learn(counts, _LONG_MEMORY if missing or sparse else 0)
        return FieldFinding(
            f'no returns over {empty.sum() * 360 // SECTORS} degrees' if missing else '',
            f'{total} points, {ratio:.0%} of the usual number' if sparse else '',
        )

    def _learn(self, counts: NDArray[np.float64], least: int = 0) -> None:
        """Average over the sweeps until now, `_MEMORY` at most and `least` at least."""
        self._learnt = min(self._learnt + 1, _MEMORY)
        self._usual += (counts - self._usual) / max(self._learnt, least)


def _counts(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns by sector, then those nearby and below the LiDAR."""
    x, y, z = points.T[:3]
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * SECTORS).astype(np.int64).clip(0, SECTORS - 1)
    near = (x * x + y * y < _NEAR**2) & (z < 0)
    return np.append(np.bincount(sector, minlength=SECTORS), np.count_nonzero(near)).astype(np.float64)
