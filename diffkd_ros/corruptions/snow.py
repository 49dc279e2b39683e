# SPDX-License-Identifier: Apache-2.0
"""Falling snow: flakes near the sensor are measured instead of the targets behind them.

The model is derived here. The diameters D of flakes are exponentially distributed, with the slope of Sekhon &
Srivastava (J. Atmos. Sci. 1970) and a density that gives the rate of water at the falling speed. A flake at
range s covers a share (D / w(s))^2 of the beam, with w the beam's width, and returns rho_s share / s^2; the
target at r returns i / r^2. The flakes with a stronger return than the target form a Poisson process along
the beam, whose rate has a closed form; the nearest of them, if any, is measured. Targets that remain visible
are attenuated by the flakes' cross-section.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import require_within
from diffkd_ros.corruptions.sweeps import ranges, with_points
from diffkd_ros.frame import AgentSweep

_WATER_DENSITY = 1000.0  # kg/m^3
_FLAKE_DENSITY = 100.0
_FLAKE_REFLECTIVITY = 0.9
_APERTURE = 0.01  # metres, width of the beam at the sensor
_DIVERGENCE = 0.002  # radians, full angle
_SEEN_FROM = 1.0  # metres; the beam is not in the receiver's view at shorter ranges
_SEEN_TO = 300.0
_DARKEST = 1.0 / 255.0  # minimum intensity of a return; a recorded 0 means less than one step


@dataclass(frozen=True, slots=True)
class Snowfall:
    """Number and sizes of the flakes in the air.

    Attributes:
        density: flakes per cubic metre.
        slope: of the exponential distribution of their diameters, 1/m.
    """

    density: float
    slope: float

    @classmethod
    def of(cls, rate: float, speed: float) -> Snowfall:
        """Snowfall of `rate` mm of water per hour with flakes that fall at `speed` m/s.

        Raises:
            CorruptionError: if a value is out of range.
        """
        require_within(0.01, 100.0, rate=rate)
        require_within(0.1, 20.0, speed=speed)
        melted_slope = 2290.0 * rate**-0.45
        # The flux, the integral of pi/6 D^3 rho_w v n(D) over melted diameters D, is pi rho_w v N / slope^3.
        flux = rate / 3600.0
        density = flux * melted_slope**3 / (np.pi * _WATER_DENSITY * speed)
        swelling = (_WATER_DENSITY / _FLAKE_DENSITY) ** (1 / 3)
        return cls(float(density), float(melted_slope / swelling))

    @property
    def extinction(self) -> float:
        """Attenuation coefficient, 1/m: twice the cross-section per volume, as for all large particles."""
        return float(np.pi * self.density / self.slope**2)


def snow(sweep: AgentSweep, rng: np.random.Generator, *, rate: float, speed: float) -> AgentSweep:
    """Replace returns by those of nearer flakes on the same ray, and attenuate the others.

    Intensities are assumed to be corrected for range. Rate, speed and errors are those of `Snowfall.of`.
    """
    flakes = Snowfall.of(rate, speed)
    threshold, place, crossings = _outshining(flakes)
    depth = rng.standard_exponential(len(sweep.points))
    size = rng.standard_exponential(len(sweep.points))
    reach = np.maximum(ranges(sweep.points).astype(np.float64), 1e-3)
    points = sweep.points.copy()
    points[:, 3] *= np.exp(-2 * flakes.extinction * reach)
    # The target is as bright as a flake that fills the beam at range 1 / contrast.
    contrast = np.sqrt(np.maximum(points[:, 3], _DARKEST) / _FLAKE_REFLECTIVITY) / reach
    row = np.clip(np.searchsorted(threshold, contrast), 0, len(threshold) - 1)
    # All rows concatenated, each offset above the previous one, so that one search serves all returns.
    lift = crossings[:, -1].max() + 1.0
    ends = np.searchsorted(
        (crossings + lift * np.arange(len(threshold))[:, None]).ravel(), depth + lift * row
    )
    step = ends - row * len(place)
    at = np.where((depth < crossings[row, -1]) & (step > 0), place[np.clip(step, 0, len(place) - 1)], np.inf)
    hit = np.flatnonzero(at < reach)
    at = at[hit]
    width = _APERTURE + _DIVERGENCE * at
    # Above the smallest diameter that outshines the target, the distribution is again exponential.
    diameter = width * at * contrast[hit] + size[hit] / flakes.slope
    points[hit, :3] *= (at / reach[hit])[:, None]
    points[hit, 3] = _FLAKE_REFLECTIVITY * np.minimum(diameter / width, 1.0) ** 2
    return with_points(sweep, points)


@lru_cache(maxsize=16)
def _outshining(
    flakes: Snowfall,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Expected number of flakes that outshine a target, by the target's contrast and the range.

    Returns:
        (rows,) contrasts, (steps,) ranges in metres, (rows, steps) expected flakes up to each range.
    """
    contrast = np.geomspace(1e-4, 1.0, 128)
    place = np.geomspace(_SEEN_FROM, _SEEN_TO, 512)
    width = _APERTURE + _DIVERGENCE * place
    least = width * place * contrast[:, None]
    rate = flakes.density * np.pi / 4 * width**2 * np.exp(-flakes.slope * least)
    # A flake that fills the beam at this range is weaker than the target.
    rate[least > width] = 0.0
    steps = 0.5 * (rate[:, 1:] + rate[:, :-1]) * np.diff(place)
    return contrast, place, np.concatenate([np.zeros((len(contrast), 1)), np.cumsum(steps, axis=1)], axis=1)
