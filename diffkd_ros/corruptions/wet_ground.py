# SPDX-License-Identifier: Apache-2.0
"""Wet ground: a film of water mirrors the pulse away, and the road's own returns grow dim or vanish.

The model is that of Hahner et al., 'LiDAR Snowfall Simulation for Robust 3D Object Detection' (CVPR 2022),
from its equations. With theta the angle of the ray to the ground's normal:

    L(r)    a dry road's intensity divided by cos(theta), a straight line over the range, fitted to the sweep
    rho     the surface's reflectivity, i / (15 L cos(theta)) cut to [0.05, 1]; 15 L is what is emitted
    T       what comes back through the film, t_in rho t_out / (1 - rho r_in), in the better polarisation
    f       how wet the surface is: film / 1.2 mm, at most 1
    new i   min(15 L cos(theta) ((1 - f) rho + f T / theta), i), lost if it does not exceed floor L cos(theta)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.corruptions.ground import find_ground
from diffkd_ros.corruptions.sweeps import keep, ranges, with_points
from diffkd_ros.frame import AgentSweep

_AIR, _WATER = 1.0003, 1.33  # refractive indices
_EMITTED = 15.0  # times L
_SATURATING_FILM = 0.0012  # metres
_GROUND_TOLERANCE = 0.5  # metres above and below the plane
_FEWEST_RETURNS = 1000


def wet_transmission(cos_theta: NDArray[np.float64], rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share T of a pulse that a wet surface sends back.

    Args:
        cos_theta: (n,) cosine of the angle between ray and normal, in air.
        rho: (n,) reflectivity of the surface below the film.

    Returns:
        (n,) the larger of both polarisations'.
    """
    cos_water = np.sqrt(1.0 - (_AIR / _WATER) ** 2 * (1.0 - cos_theta**2))
    # Fresnel reflectance of a boundary is the same from either side along the same path.
    across = ((_AIR * cos_theta - _WATER * cos_water) / (_AIR * cos_theta + _WATER * cos_water)) ** 2
    along = ((_AIR * cos_water - _WATER * cos_theta) / (_AIR * cos_water + _WATER * cos_theta)) ** 2
    # Decreasing in the reflectance as long as rho <= 1, so the better polarisation is the less reflected one.
    reflected = np.minimum(across, along)
    return (1.0 - reflected) ** 2 * rho / (1.0 - rho * reflected)


def wet_ground(
    sweep: AgentSweep,
    rng: np.random.Generator,
    *,
    film: float,
    floor: float,
    floor_noise: float,
    least_lost: float,
) -> AgentSweep:
    """Dim the ground's returns and lose those too weak to be detected.

    All within half a metre of the ground plane counts as ground, the lower parts of cars included. A sweep
    without any return has nothing to wet and comes back as it is.

    Args:
        sweep: the sweep; intensities count as corrected for range.
        rng: draws the detector's noise.
        film: thickness of the water, metres.
        floor: share of a dry road's intensity below which a return is lost.
        floor_noise: standard deviation of the floor relative to itself, from return to return. The published
            model has none and so knows only one realisation.
        least_lost: share of the ground's returns that must be lost for the result to count, in [0, 1].

    Raises:
        CorruptionError: if no ground is found, most of it has no intensity, or fewer returns are lost than
            `least_lost` demands.
    """
    require_within('film', film, 0.0)
    require_within('floor', floor, 0.0)
    require_within('floor_noise', floor_noise, 0.0)
    require_within('least_lost', least_lost, 0.0, 1.0)
    if len(sweep.points) == 0:
        return sweep
    plane = find_ground(sweep.points)
    ground = np.flatnonzero(np.abs(plane.heights(sweep.points)) < _GROUND_TOLERANCE)
    if len(ground) < _FEWEST_RETURNS:
        raise CorruptionError(
            f'no ground found: {len(ground)} returns within {_GROUND_TOLERANCE} m of the plane '
            f'{plane.height:.2f} m below the sensor, at least {_FEWEST_RETURNS} are needed'
        )
    rows = sweep.points[ground]
    reach = np.maximum(ranges(rows).astype(np.float64), 1e-3)
    cos_theta = np.clip(-(rows[:, :3] @ plane.normal) / reach, 1e-3, 1.0)
    intensity = rows[:, 3].astype(np.float64)
    if np.median(intensity) <= 0.0:
        raise CorruptionError('wet_ground needs intensities; most of the ground has none')
    dry = _dry_road(reach, intensity, cos_theta) * cos_theta
    rho = np.clip(intensity / (_EMITTED * dry), 0.05, 1.0)
    wetness = min(film / _SATURATING_FILM, 1.0)
    theta = np.maximum(np.arccos(cos_theta), 1e-3)
    returned = (1.0 - wetness) * rho + wetness * wet_transmission(cos_theta, rho) / theta
    dimmed = np.minimum(_EMITTED * dry * returned, intensity)
    noise = 1.0 + floor_noise * rng.standard_normal(len(ground))
    lost = dimmed <= floor * dry * noise
    if lost.mean() < least_lost:
        raise CorruptionError(
            f'wet_ground lost {lost.sum()} of {len(ground)} ground returns, fewer than {least_lost:.1%}: '
            'pass least_lost=0 if that is expected'
        )
    points = sweep.points.copy()
    points[ground, 3] = dimmed
    mask = np.ones(len(points), np.bool_)
    mask[ground[lost]] = False
    return keep(with_points(sweep, points), mask)


def _dry_road(
    reach: NDArray[np.float64], intensity: NDArray[np.float64], cos_theta: NDArray[np.float64]
) -> NDArray[np.float64]:
    """L at each of (n,) ranges, by least squares on the intensities themselves.

    Fitting i = cos(theta) L(r) rather than i / cos(theta) = L(r) keeps the noise of grazing returns, which
    the division blows up, from deciding the line.
    """
    design = np.stack([cos_theta, cos_theta * reach])
    (start, slope), *_ = np.linalg.lstsq(design @ design.T, design @ intensity, rcond=None)
    line = start + slope * reach
    # A line that falls below zero somewhere describes no road there.
    return np.maximum(line, max(0.05 * float(np.median(line)), 1e-4))
