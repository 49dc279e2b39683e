# SPDX-License-Identifier: Apache-2.0
"""A street with standing vehicles, on the road of the stand-in's map."""

from __future__ import annotations

import numpy as np

from diffkd_ros.frame import CoopFrame
from diffkd_ros.sources.simulator.config import SimulatorConfig
from diffkd_ros.sources.simulator.ground import HALF_EXTENT, HeightField
from diffkd_ros.sources.simulator.mounting import configured_lidar
from diffkd_ros.sources.simulator.raycast import Solids, face_planes
from diffkd_ros.sources.simulator.scenario import Scenario
from diffkd_ros.sources.simulator.shapes import draw_vehicle, upright_box

# Centre of the driving lane, metres; traffic keeps to the right.
_LANE = -1.75
_GAP = 12.0
_ONCOMING, _PARKED = 8, 10
_SEED = 0


def street(agents: int) -> CoopFrame:
    """A frame of connected vehicles that queue in the lane, between other vehicles and buildings.

    Args:
        agents: number of connected vehicles, 1 to 5; the ego is the last in the queue.
    """
    draw = np.random.default_rng(_SEED)
    places = [(-40.0 + _GAP * number, _LANE, 0.0) for number in range(agents)]
    places += [(-70.0 + 2 * _GAP * number, -_LANE, np.pi) for number in range(_ONCOMING)]
    places += [(-75.0 + 1.3 * _GAP * number, 5.5, 0.0) for number in range(_PARKED)]
    cars = (vehicle for vehicle in iter(lambda: draw_vehicle(draw), None) if vehicle.kind.connects)
    buildings = np.array(
        [
            upright_box((x, side * 18.0), 0.0, 22.0, 12.0, (0.0, 8.0))
            for x in range(-90, 100, 30)
            for side in (-1, 1)
        ]
    )
    count = len(buildings)
    config = SimulatorConfig(agents=agents, frames_per_scenario=1)
    scene = Scenario(
        config=config,
        seed=_SEED,
        index=0,
        vehicles=tuple(next(cars) for _ in places),
        motion=np.array([places]),
        speed=np.zeros((1, len(places))),
        lidars=(configured_lidar(config.lidar, (0.0, 0.0), None, None),) * agents,
        standing=Solids(
            face_planes(buildings),
            np.zeros((0, 6)),
            buildings,
            np.full(count, -1),
            np.full(count, 0.4, np.float32),
            np.zeros(count, np.float32),
        ),
        ground=HeightField(np.zeros((round(2 * HALF_EXTENT) + 1,) * 2, np.float32)),
    )
    return scene.frame(0)
