# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import numpy as np
import pytest

from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig


@pytest.fixture(scope='session')
def frame() -> CoopFrame:
    """Three vehicles in simulated traffic."""
    return Simulator(SimulatorConfig(agents=3, frames_per_scenario=1), seed=1).scenario(0).frame(0)


@pytest.fixture(scope='session')
def sweep(frame: CoopFrame) -> AgentSweep:
    return frame.agents[1]


@pytest.fixture
def frame_of() -> Callable[..., CoopFrame]:
    """A frame of sweeps, the ego's first, with ids from 1."""

    def build(*sweeps: AgentSweep, **fields: object) -> CoopFrame:
        return CoopFrame(dict(enumerate(sweeps, start=1)), ego=1, stamp=0, **fields)

    return build


@pytest.fixture
def road() -> AgentSweep:
    """A flat road of low reflectivity 1.93 m below a sensor of 64 rings, without noise.

    The intensity is that of a perfectly diffuse surface; the times number the returns.
    """
    elevation, azimuth = np.meshgrid(
        np.radians(np.linspace(-40.0, -1.5, 64)),
        np.linspace(-np.pi, np.pi, 900, endpoint=False),
        indexing='ij',
    )
    reach = 1.93 / -np.sin(elevation)
    points = np.stack(
        [
            reach * np.cos(elevation) * np.cos(azimuth),
            reach * np.cos(elevation) * np.sin(azimuth),
            reach * np.sin(elevation),
            0.5 * -np.sin(elevation),
        ],
        axis=-1,
    ).reshape(-1, 4)
    ring = np.repeat(np.arange(64), 900)
    return AgentSweep(points, np.eye(4), ring=ring, time=np.arange(len(points)))
