# SPDX-License-Identifier: Apache-2.0
"""Intensity laws: how the intensity of a return depends on material, angle and range."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from diffkd_ros.kernels import kernel

_PHYSICAL, _REFLECTIVITY, _CARLA, _CONSTANT = range(4)
_HALF_RANGE = 80.0  # metres at which the physical intensity has halved
_CARLA_RATE = 0.004  # 1/m, CARLA's default atmosphere_attenuation_rate


@dataclass(frozen=True, slots=True)
class IntensityLaw:
    """An intensity law.

    Attributes:
        kind: which of the formulas of `intensity`.
        gain: factor of the physical and the reflectivity law; the value of the constant law.
        gamma: exponent of the reflectivity law.
        steps: the intensity is rounded to so many steps between 0 and 1; 0 for no rounding.
    """

    kind: int
    gain: float = 1.0
    gamma: float = 1.0
    steps: int = 0


LAWS = {
    'physical': IntensityLaw(_PHYSICAL),
    'gain_0.3': IntensityLaw(_PHYSICAL, 0.3),
    'gain_3': IntensityLaw(_PHYSICAL, 3.0),
    '8bit': IntensityLaw(_PHYSICAL, steps=255),
    'reflectivity': IntensityLaw(_REFLECTIVITY),
    'carla': IntensityLaw(_CARLA),
    'constant': IntensityLaw(_CONSTANT, 0.5),
    'zero': IntensityLaw(_CONSTANT, 0.0),
}
"""The laws that can be asked for, by name. `zero` is also what missing intensities are read as."""


def draw_law(rng: np.random.Generator) -> IntensityLaw:
    """Draw the law of a sensor.

    A quarter each of physical and reflectivity laws, with a gain of 0.3 to 3 and half of them in 8-bit steps;
    15 % CARLA's law, 10 % constant, 25 % zero.
    """
    pick, gain, gamma, level = rng.random(4)
    steps = 255 if rng.random() < 0.5 else 0
    gain = 0.3 * 10.0**gain
    if pick < 0.25:
        return replace(LAWS['physical'], gain=gain, steps=steps)
    if pick < 0.5:
        return replace(LAWS['reflectivity'], gain=gain, gamma=0.5 + gamma, steps=steps)
    if pick < 0.65:
        return LAWS['carla']
    if pick < 0.75:
        return replace(LAWS['constant'], gain=level)
    return LAWS['zero']


@kernel(inline='always')
def intensity(
    kind: int,
    gain: float,
    gamma: float,
    steps: int,
    reflectivity: float,
    cosine: float,
    distance: float,
    noise: float,
) -> float:
    """Intensity of a return, in [0, 1].

    Args:
        kind: physical: gain (reflectivity (0.2 + 0.8 cosine) / (1 + (distance / 80 m)^2) + noise);
            reflectivity: gain (reflectivity + noise)^gamma, as sensors report that correct for range and
            angle; CARLA: exp(-0.004 distance); constant: gain.
        gain: as in `IntensityLaw`.
        gamma: as in `IntensityLaw`.
        steps: as in `IntensityLaw`.
        reflectivity: of the surface, 0 to 1.
        cosine: of the angle between ray and surface normal.
        distance: metres.
        noise: added to the signal.
    """
    if kind == _PHYSICAL:
        signal = reflectivity * (0.2 + 0.8 * cosine) / (1 + distance * distance / _HALF_RANGE**2)
        value = gain * (signal + noise)
    elif kind == _REFLECTIVITY:
        value = gain * max(reflectivity + noise, 0.0) ** gamma
    elif kind == _CARLA:
        value = math.exp(-_CARLA_RATE * distance)
    else:
        value = gain
    value = min(max(value, 0.0), 1.0)
    return math.floor(value * steps + 0.5) / steps if steps else value
