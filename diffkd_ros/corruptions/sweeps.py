# SPDX-License-Identifier: Apache-2.0
"""Editing of sweeps with rings and times aligned to the points, and assignment of returns to rings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError
from diffkd_ros.frame import AgentSweep

# Rings are separated in a histogram of elevations with this step; a ring is at most this wide.
_ELEVATION_STEP = np.radians(0.02)
_WIDEST_RING = np.radians(0.2)
_FEWEST_RINGS = 8
# Number of elevation quantiles used as rings if the histogram shows none.
_QUANTILES = 64
_FARTHEST = np.float32(1e5)  # metres


@dataclass(frozen=True, slots=True)
class Rings:
    """Assignment of returns to rings.

    Attributes:
        index: (n,) int64 ring of each return; 0 is the lowest ring that has returns.
        count: number of rings that have returns.
    """

    index: NDArray[np.int64]
    count: int


def require_finite(sweep: AgentSweep) -> None:
    """Check that all returns are finite and could be measured.

    Raises:
        CorruptionError: if one is not.
    """
    bad = np.count_nonzero(~(np.abs(sweep.points) <= _FARTHEST).all(axis=1))
    if bad:
        raise CorruptionError(
            f'{bad} of {len(sweep.points)} returns are not finite or beyond {_FARTHEST:g} m; remove them'
        )


def with_points(sweep: AgentSweep, points: NDArray[np.float32]) -> AgentSweep:
    """The sweep with other points (n, 4); intensities are clipped to [0, 1], in place."""
    np.clip(points[:, 3], 0.0, 1.0, out=points[:, 3])
    return replace(sweep, points=points)


def ranges(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances (n,) of points (n, >=3) from the sensor, metres."""
    return np.sqrt(np.einsum('ij,ij->i', points[:, :3], points[:, :3]))


def elevations(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Angles (n,) of points (n, >=3) above the sensor's xy plane, radians."""
    return np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))


def rings_of(sweep: AgentSweep) -> Rings:
    """Assign returns to rings, independently of the order of the points.

    The sweep's `ring` is used if it has more than one value. Otherwise, if the elevations form bands
    separated by gaps, as those of a spinning sensor do, each band is a ring. If they do not (a cloud that was
    rotated or corrected for motion), 64 quantiles of the elevation are used as rings.
    """
    if sweep.ring is not None:
        present = np.bincount(sweep.ring) > 0
        if present.sum() > 1:
            return Rings((np.cumsum(present) - 1)[sweep.ring], int(present.sum()))
    if len(sweep.points) == 0:
        return Rings(np.zeros(0, np.int64), 0)
    angles = elevations(sweep.points)
    step = np.floor((angles - angles.min()) / _ELEVATION_STEP).astype(np.int64)
    filled = np.bincount(step) > 0
    starts = np.flatnonzero(np.diff(filled, prepend=False) & filled)
    ends = np.flatnonzero(np.diff(filled, append=False) & filled)
    if len(starts) >= _FEWEST_RINGS and (ends - starts + 1).max() * _ELEVATION_STEP <= _WIDEST_RING:
        return Rings(np.searchsorted(starts, step, side='right') - 1, len(starts))
    edges = np.quantile(angles, np.arange(1, _QUANTILES) / _QUANTILES)
    return Rings(np.searchsorted(edges, angles, side='right'), _QUANTILES)
