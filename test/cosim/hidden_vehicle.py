# SPDX-License-Identifier: Apache-2.0
"""A scene at a corner, where the ego cannot see a crossing vehicle that its neighbour sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffkd_ros.frame import CoopFrame
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.ground import HALF_EXTENT, HeightField
from diffkd_ros.sources.simulator.mounting import configured_lidar
from diffkd_ros.sources.simulator.raycast import Solids, face_planes
from diffkd_ros.sources.simulator.shapes import draw_vehicle, upright_box

EGO, NEIGHBOUR, HIDDEN = 1, 2, 3
# x, y (to the left) and yaw in the map.
PLACES = {EGO: (0.0, 0.0, 0.0), NEIGHBOUR: (35.0, 3.5, np.pi), HIDDEN: (20.0, 9.0, -np.pi / 2)}
BUILDING = upright_box((11.0, 14.0), 0.0, 10.0, 20.0, (0.0, 8.0))


def frames(count: int) -> list[CoopFrame]:
    """Frames of the scene, in which nothing moves."""
    config = SimulatorConfig(agents=2, frames_per_scenario=count)
    drawn = Simulator(config, seed=0).scenario(0)
    generator = np.random.default_rng(0)
    sedans = (
        vehicle for vehicle in iter(lambda: draw_vehicle(generator), None) if vehicle.kind.name == 'sedan'
    )
    scene = replace(
        drawn,
        vehicles=tuple(next(sedans) for _ in PLACES),
        motion=np.tile(np.array(list(PLACES.values())), (count, 1, 1)),
        speed=np.zeros((count, len(PLACES))),
        lidars=(configured_lidar(config.lidar, (0.0, 0.0), None, None),) * config.agents,
        standing=Solids(
            face_planes(BUILDING[None]),
            np.zeros((0, 6)),
            BUILDING[None],
            np.array([-1]),
            np.array([0.4], np.float32),
            np.zeros(1, np.float32),
        ),
        ground=HeightField(np.zeros((round(2 * HALF_EXTENT) + 1,) * 2, np.float32)),
    )
    return [scene.frame(index) for index in range(count)]
