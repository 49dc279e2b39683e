# SPDX-License-Identifier: Apache-2.0
"""Jobs of the simulator and of the suppression, none of which runs the model."""

from __future__ import annotations

import itertools

import numpy as np

from diffkd_ros.benchmark.clock import Job
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.raycast import Solids, cast, face_planes
from diffkd_ros.sources.simulator.shapes import upright_box
from diffkd_ros.sources.source import Scenario

SEED = 3
AGENTS = 5
TRAINED_AGENTS = SimulatorConfig().agents


def simulated() -> Scenario:
    """The scenario of `AGENTS` agents whose first frame is timed."""
    return Simulator(SimulatorConfig(agents=AGENTS), SEED).scenario(0)


def jobs(scenario: Scenario) -> dict[str, Job]:
    """All jobs by name; each computes in one thread."""
    return {
        'cast 64 x 1800 rays, 100 boxes': _ray_casting(),
        f'simulate a frame of {AGENTS} agents': lambda: scenario.frame(1),
        # Every training sample is from another scenario.
        f'create a scenario of {TRAINED_AGENTS} agents and simulate a frame': _drawing(),
        'suppress 1,000 boxes': _suppression(),
    }


def _ray_casting() -> Job:
    """64 x 1800 rays against 100 vehicle-sized boxes on flat ground."""
    draw = np.random.default_rng(SEED)
    corners = np.array(
        [
            upright_box((x, y), yaw, 4.5, 1.8, (0.0, 1.6))
            for x, y, yaw in draw.uniform([-60, -60, -3], [60, 60, 3], (100, 3))
            if np.hypot(x, y) > 4
        ]
    )
    count = len(corners)
    solids = Solids(
        face_planes(corners),
        np.zeros((0, 6)),
        corners,
        np.arange(count),
        np.full(count, 0.5, np.float32),
        np.zeros(count, np.float32),
    )
    pose = pose_from_euler([0, 0, 1.9])
    ground = HeightField(np.zeros((2, 2), np.float32))
    elevations = np.radians(np.linspace(-25, 5, 64))
    return lambda: cast(pose, -np.pi, 1800, elevations, 100.0, solids, ground)


def _suppression() -> Job:
    """1,000 boxes over the range of the shipped grid."""
    draw = np.random.default_rng(SEED)
    boxes = draw.uniform([-51, -25, -1, 3.5, 1.6, 1.4, -3], [51, 25, 0, 5.5, 2.2, 2.0, 3], (1000, 7))
    scores = draw.random(1000)
    return lambda: nms(boxes, scores, 0.15)


def _drawing() -> Job:
    """A new scenario and one frame of it, with the default settings of the recipes."""
    simulator, numbers = Simulator(SimulatorConfig(agents=TRAINED_AGENTS), SEED), itertools.count(1)
    return lambda: simulator.scenario(next(numbers)).frame(50)
