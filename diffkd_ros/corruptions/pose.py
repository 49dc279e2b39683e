# SPDX-License-Identifier: Apache-2.0
"""Errors of an agent's pose, that is, of its localisation.

All act on `AgentSweep.pose`, map <- LiDAR: the position is shifted in the map, the heading is rotated about
the map's vertical axis. The points do not change. Ground truth must be taken from the *clean* frame:
`geometry.boxes.ground_truth_in` on the corrupted one would move the truth with a corrupted ego.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.frame import AgentSweep
from diffkd_ros.geometry.poses import pose_from_euler

Distribution = Literal['gaussian', 'laplace']


def displaced(pose: NDArray[np.float64], offset: ArrayLike, turn: float) -> NDArray[np.float64]:
    """Shift a pose by (3,) metres in the map and turn it in place, radians about the map's vertical axis."""
    result = pose.copy()
    result[:3, :3] = pose_from_euler([0.0, 0.0, 0.0], yaw=turn)[:3, :3] @ pose[:3, :3]
    result[:3, 3] += np.asarray(offset, np.float64)
    return result


def pose_error(
    sweep: AgentSweep,
    rng: np.random.Generator,
    *,
    position: float,
    heading: float,
    distribution: Distribution,
) -> AgentSweep:
    """Add a random error in x, y and heading.

    `position` (in x and in y, metres) and `heading` (radians) are the standard deviations of the
    distribution, `gaussian` or `laplace`.

    Raises:
        CorruptionError: if a standard deviation is negative or the distribution unknown.
    """
    require_within(0.0, position=position, heading=heading)
    if distribution == 'gaussian':
        x, y, turn = rng.standard_normal(3)
    elif distribution == 'laplace':
        x, y, turn = rng.laplace(0.0, np.sqrt(0.5), 3)
    else:
        raise CorruptionError(f"distribution must be 'gaussian' or 'laplace', got {distribution!r}")
    offset = [position * x, position * y, 0.0]
    return replace(sweep, pose=displaced(sweep.pose, offset, heading * float(turn)))


def constant_draw(seed: int) -> NDArray[np.float64]:
    """The standard normal draws of `constant_offset`: x, y, z and yaw in CARLA's left-handed frame.

    They come from NumPy's legacy generator: three for the position, then three angles, of which the second is
    the yaw. Seed 20 gives 0.884, 0.196, 0.358 and -1.085.
    """
    # As in the published code; NumPy's new generators give other numbers.
    legacy = np.random.RandomState(seed % 2**32)
    return legacy.standard_normal(6)[[0, 1, 2, 4]]


def constant_offset(sweep: AgentSweep, seed: int, *, position: float, heading: float) -> AgentSweep:
    """The pose noise of OPV2V's published code: one offset for all agents, frames and scenarios.

    That code seeds the generator at every call, so that its noise is a constant offset, in a left-handed
    frame. Here y and yaw change sign, so that OPV2V's scenes are displaced in the same way. `position` and
    `heading` are metres and radians for a draw of 1.
    """
    require_within(0.0, position=position, heading=heading)
    x, y, z, yaw = constant_draw(seed)
    offset = position * np.array([x, -y, z])
    return replace(sweep, pose=displaced(sweep.pose, offset, -heading * float(yaw)))
