# SPDX-License-Identifier: Apache-2.0
"""Corruptions of the sensor itself: lost beams, interference, vibration, missing echoes, another sensor.

Each function takes a sweep in its sensor's frame and a generator, and returns a new sweep; `ring` and `time`
stay aligned with the points. Fog, snow and wet ground have modules of their own.

Definitions and levels follow the descriptions in CoopDiff (arXiv 2603.01688) and Robo3D (Kong et al., ICCV
2023). Unlike theirs, rings and columns are determined by angles, not by the order of the points.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.corruptions.sweeps import Rings, elevations, ranges, rings_of, with_points
from diffkd_ros.frame import AgentSweep
from diffkd_ros.geometry.boxes import points_in_boxes

EchoReading = Literal['above_sensor', 'inside_objects']


def beam_missing(sweep: AgentSweep, rng: np.random.Generator, *, share: float) -> AgentSweep:
    """Drop a share in [0, 1] of the rings at random; the published levels drop 8, 16, 32 or 48 of 64."""
    require_within(0.0, 1.0, share=share)
    rings = rings_of(sweep)
    lost = np.zeros(rings.count, np.bool_)
    lost[rng.permutation(rings.count)[: round(share * rings.count)]] = True
    return sweep[~lost[rings.index]]


def electromagnetic_interference(sweep: AgentSweep, rng: np.random.Generator, *, share: float) -> AgentSweep:
    """Drop a share in [0, 1] of the rings, evenly spaced, and every second return of the others.

    At a share of 0.5 about a quarter of the returns is kept. The first ring dropped, and whether a ring keeps
    its odd or its even returns, are random.
    """
    require_within(0.0, 1.0, share=share)
    rings = rings_of(sweep)
    kept = round((1.0 - share) * rings.count)
    survives = np.zeros(rings.count, np.bool_)
    if kept:
        start = rng.integers(rings.count)
        survives[(start + np.arange(kept) * rings.count // kept) % rings.count] = True
    odd = rng.random(rings.count) < 0.5
    mask = survives[rings.index]
    points, index = sweep.points[mask], rings.index[mask]
    turn = _place_in_ring(points, index)
    mask[mask] = (turn % 2 == 1) == odd[index]
    return sweep[mask]


def motion_blur(
    sweep: AgentSweep,
    rng: np.random.Generator,
    *,
    shared: float,
    each_xy: float,
    each_z: float,
    intensity: float,
) -> AgentSweep:
    """Add Gaussian noise: one shift of the whole sweep and one of each return.

    The standard deviations are `shared` in x and in y for the whole sweep, `each_xy` in x and in y and
    `each_z` in z for each return, metres, and `intensity` for its intensity, which stays in [0, 1].
    """
    require_within(0.0, shared=shared, each_xy=each_xy, each_z=each_z, intensity=intensity)
    common = rng.standard_normal(2).astype(np.float32) * np.float32(shared)
    scale = np.array([each_xy, each_xy, each_z, intensity], np.float32)
    points = rng.standard_normal(sweep.points.shape, np.float32) * scale
    points += sweep.points
    points[:, :2] += common
    return with_points(sweep, points)


def crosstalk(sweep: AgentSweep, rng: np.random.Generator, *, share: float, spread: float) -> AgentSweep:
    """Displace exactly a share in [0, 1] of the returns, as interference from another sensor does.

    `spread` is the standard deviation of the noise in x, y and z, metres, and in the intensity, which is
    clipped to [0, 1].
    """
    require_within(0.0, 1.0, share=share)
    require_within(0.0, spread=spread)
    hit = _choose(rng, len(sweep.points), share)
    points = sweep.points.copy()
    points[hit] += rng.standard_normal((len(hit), 4), np.float32) * np.float32(spread)
    return with_points(sweep, points)


def incomplete_echo(
    sweep: AgentSweep,
    rng: np.random.Generator,
    boxes: NDArray[np.float64] | None,
    *,
    share: float,
    reading: EchoReading,
    margin: float = 0.1,
) -> AgentSweep:
    """Drop returns of weakly reflecting objects, by one of the two published definitions.

    Args:
        sweep: the sweep.
        rng: draws the returns.
        boxes: (n, 7) objects in the sensor's frame; required for `inside_objects`.
        share: of the affected returns to drop, in [0, 1]; exactly this share is dropped.
        reading: `above_sensor` (CoopDiff) affects returns above the sensor, few of which are on cars if it is
            on a car's roof; `inside_objects` (Robo3D) affects those on labelled objects.
        margin: metres by which a box is enlarged to all sides except the bottom, for noise and label errors.

    Raises:
        CorruptionError: if the reading is unknown, or requires boxes and there are none.
    """
    require_within(0.0, 1.0, share=share)
    require_within(0.0, margin=margin)
    if reading == 'above_sensor':
        # A margin of a millimetre: returns at exactly the sensor's height are not above it.
        concerned = np.flatnonzero(sweep.points[:, 2] > 0.001)
    elif reading == 'inside_objects':
        if boxes is None:
            raise CorruptionError(
                'incomplete_echo inside_objects needs ground truth, and the frame has none; '
                "reading='above_sensor' needs none"
            )
        widened = boxes.copy()
        widened[:, 2] += margin / 2
        widened[:, 3:6] += [2 * margin, 2 * margin, margin]
        concerned = np.flatnonzero(points_in_boxes(sweep.points, widened) >= 0)
    else:
        raise CorruptionError(f"reading must be 'above_sensor' or 'inside_objects', got {reading!r}")
    mask = np.ones(len(sweep.points), np.bool_)
    mask[concerned[_choose(rng, len(concerned), share)]] = False
    return sweep[mask]


def cross_sensor(
    sweep: AgentSweep,
    rng: np.random.Generator,
    *,
    beams: int,
    lowest: float,
    highest: float,
    azimuth_step: float,
    max_range: float,
) -> AgentSweep:
    """Approximate the sweep of a sensor with another layout at the same pose.

    For each beam of the other layout, the nearest ring of the sweep is kept if it is within half a ring
    spacing, with one return per azimuth step. The azimuth of the other sensor's first column is random. A
    layout finer than the sweep's removes nothing.

    Args:
        sweep: of the sensor that is replaced.
        rng: draws the azimuth of the first column.
        beams: rings of the other sensor, evenly spaced.
        lowest: elevation of its lowest ring, degrees.
        highest: elevation of its highest ring, degrees.
        azimuth_step: degrees between its columns.
        max_range: maximum range of a return, metres.
    """
    require_within(1, beams=beams)
    require_within(-90.0, 90.0, lowest=lowest)
    require_within(lowest, 90.0, highest=highest)
    require_within(0.001, 360.0, azimuth_step=azimuth_step)
    require_within(0.0, max_range=max_range)
    step = np.radians(azimuth_step)
    start = rng.random() * step
    rings = rings_of(sweep)
    mask = _nearest_rings(sweep, rings, np.radians(np.linspace(lowest, highest, int(beams))))[rings.index]
    mask &= ranges(sweep.points) <= max_range
    points = sweep.points[mask]
    column = (np.arctan2(points[:, 1], points[:, 0]).astype(np.float64) - start) / step
    off = np.abs(column - np.rint(column))
    cell = rings.index[mask] * (round(2 * np.pi / step) + 4) + np.rint(column).astype(np.int64) + 1
    # Nearest to the column first; ties (second echoes) by coordinates, not by the order of the points.
    order = np.lexsort((points[:, 0], off, cell))
    chosen = np.zeros(len(points), np.bool_)
    chosen[order[np.diff(cell[order], prepend=-(10**9)) != 0]] = True
    mask[mask] = chosen
    return sweep[mask]


def _choose(rng: np.random.Generator, count: int, share: float) -> NDArray[np.int64]:
    """A random choice of exactly this share of range(count); a larger share includes a smaller one's."""
    return rng.permutation(count)[: round(share * count)]


def _place_in_ring(points: NDArray[np.float32], ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index, from 0, of each return in its ring, ordered by azimuth."""
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    # Sorting by one key is several times faster than by two; azimuths span less than 7 radians.
    order = np.argsort(ring * 7.0 + azimuth)
    first = np.zeros(len(order), np.int64)
    starts = np.flatnonzero(np.diff(ring[order], prepend=-1))
    first[starts] = starts
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.maximum.accumulate(first)
    return place


def _nearest_rings(sweep: AgentSweep, rings: Rings, wanted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask (rings.count,) of the rings that are nearest to one of the wanted elevations, in radians."""
    chosen = np.zeros(rings.count, np.bool_)
    if rings.count == 0:
        return chosen
    returns = np.bincount(rings.index, minlength=rings.count)
    total = np.bincount(rings.index, elevations(sweep.points), minlength=rings.count)
    middle = total / np.maximum(returns, 1)
    spacing = np.median(np.diff(np.sort(middle))) if rings.count > 1 else np.inf
    nearest = np.abs(middle[:, None] - wanted).argmin(axis=0)
    chosen[nearest[np.abs(middle[nearest] - wanted) <= spacing / 2]] = True
    return chosen
