# SPDX-License-Identifier: Apache-2.0
"""Wet ground: a film of water reflects the pulse away, so that returns of the road are attenuated or lost.

The model is that of Hahner et al., 'LiDAR Snowfall Simulation for Robust 3D Object Detection' (CVPR 2022),
implemented from its equations. With theta the angle between the ray and the ground's normal:

    L(r)    intensity of a dry road divided by cos(theta), linear in the range, fitted to the sweep
    rho     reflectivity of the surface, i / (15 L cos(theta)) clipped to [0.05, 1]; 15 L is emitted
    T       share returned through the film, t_in rho t_out / (1 - rho r_in), in the better polarisation
    f       wetness of the surface: film / 1.2 mm, at most 1
    new i   min(15 L cos(theta) ((1 - f) rho + f T / theta), i), lost if it does not exceed floor L cos(theta)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.corruptions.ground import find_ground
from diffkd_ros.corruptions.sweeps import ranges, with_points
from diffkd_ros.frame import AgentSweep

_AIR, _WATER = 1.0003, 1.33  # refractive indices
_EMITTED = 15.0  # times L
_SATURATING_FILM = 0.0012  # metres
_GROUND_TOLERANCE = 0.5  # metres above and below the plane
_FEWEST_RETURNS = 1000


def wet_transmission(cos_theta: NDArray[np.float64], rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share T of a pulse that a wet surface returns.

    Args:
        cos_theta: (n,) cosine of the angle between ray and normal, in air.
        rho: (n,) reflectivity of the surface below the film.

    Returns:
        (n,) the larger of the two polarisations' shares.
    """
    cos_water = np.sqrt(1.0 - (_AIR / _WATER) ** 2 * (1.0 - cos_theta**2))
    # Fresnel equations; the reflectance of a boundary is the same from both sides along the same path.
    across = ((_AIR * cos_theta - _WATER * cos_water) / (_AIR * cos_theta + _WATER * cos_water)) ** 2
    along = ((_AIR * cos_water - _WATER * cos_theta) / (_AIR * cos_water + _WATER * cos_theta)) ** 2
    # T decreases with the reflectance for rho <= 1: the less reflected polarisation is the better one.
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
    """Attenuate the ground's returns and drop those too weak to be detected.

    All returns within half a metre of the ground plane count as ground, including the lower parts of cars. An
    empty sweep is returned unchanged.

    Args:
        sweep: the sweep; intensities are assumed to be corrected for range.
        rng: draws the detector's noise.
        film: thickness of the water, metres.
        floor: share of a dry road's intensity below which a return is lost.
        floor_noise: standard deviation of the floor relative to itself, for each return. The published model
            has none, and therefore a single realisation.
        least_lost: minimum share of the ground's returns that must be lost, in [0, 1].

    Raises:
        CorruptionError: if a parameter is out of range, no ground is found, most of it has no intensity, or
            fewer returns than `least_lost` are lost.
    """
    require_within(0.0, film=film, floor=floor, floor_noise=floor_noise)
    require_within(0.0, 1.0, least_lost=least_lost)
    if len(sweep.points) == 0:
        return sweep
    plane = find_ground(sweep.points)
    ground = np.flatnonzero(np.abs(plane.heights(sweep.points)) < _GROUND_TOLERANCE)
    if len(ground) < _FEWEST_RETURNS:
        raise CorruptionError(
            f'no ground found: {len(ground)} returns within {_GROUND_TOLERANCE} m of the plane '
            f'{plane.height:.2f} m below the sensor; at least {_FEWEST_RETURNS} are needed'
        )
    rows = sweep.points[ground]
    reach = np.maximum(ranges(rows).astype(np.float64), 1e-3)
    cos_theta = np.clip(-(rows[:, :3] @ plane.normal) / reach, 1e-3, 1.0)
    intensity = rows[:, 3].astype(np.float64)
    if np.median(intensity) <= 0.0:
        raise CorruptionError('wet_ground needs intensities; most returns of the ground have none')
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
    return with_points(sweep, points)[mask]


def _dry_road(
    reach: NDArray[np.float64], intensity: NDArray[np.float64], cos_theta: NDArray[np.float64]
) -> NDArray[np.float64]:
    """L (n,) at ranges (n,), by least squares on the intensities.

    The fit is of i = cos(theta) L(r) and not of i / cos(theta) = L(r): the division would amplify the noise
    of grazing returns.
    """
    design = np.stack([cos_theta, cos_theta * reach])
    (start, slope), *_ = np.linalg.lstsq(design @ design.T, design @ intensity, rcond=None)
    line = start + slope * reach
    # The line may fall below zero, where it is not valid.
    return np.maximum(line, max(0.05 * float(np.median(line)), 1e-4))
