# SPDX-License-Identifier: Apache-2.0
"""Fog: far returns are replaced by returns of the fog near the sensor.

The model is that of Hahner et al., 'Fog Simulation on Real LiDAR Point Clouds' (ICCV 2021), implemented from
its equations. A return of intensity i at range r is attenuated to i exp(-2 alpha r). The fog in front of it
returns i r^2 (beta / beta0) I(alpha), where

    I(alpha) = max over R of
        integral over t in [0, 2 tau] of  sin^2(pi t / 2 tau) exp(-2 alpha s) xi(s) / s^2

with s = R - c t / 2, tau the pulse's half width and xi the share of the beam in the receiver's view. The
stronger of the two returns is measured. Since the target's intensity cancels, only the range of the target
decides: the fog is measured beyond the threshold range r*, at which both are equal (derived here). The
integral ends at the target; this matters only for targets nearer than the peak of the fog's return, 4.7 m,
and r* is beyond the peak in all fog that is accepted here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.corruptions.sweeps import ranges, with_points
from diffkd_ros.frame import AgentSweep

_SPEED_OF_LIGHT = 299792458.0
_HALF_PULSE = 20e-9  # seconds, tau
_OVERLAP = (0.9, 1.0)  # metres between which the receiver's view of the beam rises from none to all
_TARGET_BACKSCATTER = 1e-6 / np.pi  # beta0 of a target of reflectivity 1e-6, as in the paper
_JITTER = 10.0  # metres of target range; spreads the fog's return along the ray


@lru_cache(maxsize=64)
def soft_response(alpha: float) -> tuple[float, float]:
    """Peak of the fog's response to a pulse, given the attenuation coefficient in 1/m.

    Returns:
        I(alpha) in s/m^2, and the range R of the peak in metres, at which the fog is measured.

    Raises:
        CorruptionError: if alpha is out of range.
    """
    require_within(0.0, 1.0, alpha=alpha)
    pulse = np.linspace(0.0, 2 * _HALF_PULSE, 2001)
    shape = np.sin(np.pi * pulse / (2 * _HALF_PULSE)) ** 2
    seen_from = np.arange(_OVERLAP[0], 10.0, 0.01)
    depth = seen_from[:, None] - _SPEED_OF_LIGHT * pulse / 2
    overlap = np.clip((depth - _OVERLAP[0]) / (_OVERLAP[1] - _OVERLAP[0]), 0.0, 1.0)
    near = np.maximum(depth, _OVERLAP[0])
    values = shape * np.exp(-2 * alpha * near) * overlap / near**2
    response = (values[:, 1:] + values[:, :-1]).sum(axis=1) * (pulse[1] / 2)
    peak = int(response.argmax())
    return float(response[peak]), float(seen_from[peak])


@lru_cache(maxsize=64)
def threshold_range(alpha: float, beta: float) -> float:
    """Range r* in metres at which the returns of a target and of the fog in front of it are equally strong.

    Args:
        alpha: attenuation coefficient, 1/m.
        beta: backscattering coefficient, 1/(m sr).

    Raises:
        CorruptionError: if a coefficient is out of range, or r* is nearer than the peak of the fog's own
            return, where the model is not valid.
    """
    require_within(1e-9, beta=beta)
    response, peak = soft_response(alpha)
    gain = beta / _TARGET_BACKSCATTER * response
    near, far = 0.0, 1.0 / np.sqrt(gain)  # r* is at `far` without attenuation, and nearer with it
    while far - near > 1e-9 * far:
        middle = 0.5 * (near + far)
        if np.exp(-2 * alpha * middle) > gain * middle**2:
            near = middle
        else:
            far = middle
    if far <= peak:
        raise CorruptionError(
            f'fog of alpha {alpha:g} and beta {beta:g} hides all beyond {far:.1f} m, nearer than the peak of '
            f'its own return at {peak:.1f} m; use a smaller beta'
        )
    return float(far)


def fog(sweep: AgentSweep, rng: np.random.Generator, *, alpha: float, beta: float) -> AgentSweep:
    """Attenuate returns nearer than `threshold_range` and replace farther ones by returns of the fog.

    A return of the fog lies on its ray at the range of the fog's peak times r / U(r - 10 m, r + 10 m), with r
    the target's range, and never behind the target. Returns nearer than the threshold do not move.

    Intensities are assumed to be corrected for range. Coefficients and errors are those of `threshold_range`.
    """
    response, peak = soft_response(alpha)
    threshold = threshold_range(alpha, beta)
    spread = rng.uniform(-_JITTER, _JITTER, len(sweep.points))
    reach = ranges(sweep.points).astype(np.float64)
    hidden = reach > threshold
    points = sweep.points.copy()
    points[:, 3] *= np.exp(-2 * alpha * reach)
    far = reach[hidden]
    # For targets nearer than the jitter the quotient is not meaningful; the target's range limits it.
    seen_at = np.minimum(peak * far / np.maximum(far + spread[hidden], 1e-3), far)
    points[hidden, :3] *= (seen_at / far)[:, None]
    points[hidden, 3] = sweep.points[hidden, 3] * far**2 * (beta / _TARGET_BACKSCATTER * response)
    return with_points(sweep, points)
