# SPDX-License-Identifier: Apache-2.0
"""Seeded cooperative traffic scenes with the boxes of all vehicles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import wrapped
from diffkd_ros.geometry.poses import (
    Matrix,
    inverse,
    pose_from_euler,
    rotations_from_euler,
    transform_points,
)
from diffkd_ros.sources.simulator.clutter import add_clutter, draw_pedestrians
from diffkd_ros.sources.simulator.config import SimulatorConfig
from diffkd_ros.sources.simulator.ground import HeightField, make_ground
from diffkd_ros.sources.simulator.lidar import Lidar, Scene, scan
from diffkd_ros.sources.simulator.mounting import Post, configured_lidar, draw_lidar, draw_post
from diffkd_ros.sources.simulator.raycast import Solids, face_planes
from diffkd_ros.sources.simulator.roads import RoadNetwork, make_roads
from diffkd_ros.sources.simulator.separation import ever_overlap
from diffkd_ros.sources.simulator.shapes import Vehicle, VehicleClass, draw_train, draw_vehicle
from diffkd_ros.sources.simulator.surroundings import Surroundings, make_surroundings
from diffkd_ros.sources.simulator.traffic import simulate_traffic
from diffkd_ros.sources.simulator.worlds import draw_layout, draw_setting

TRUTH_RANGE = 100.0  # metres from the nearest agent up to which a vehicle belongs to the ground truth
_SCENE_STREAM = 0
_SWEEP_STREAM = 1
_SENSOR_STREAM = 2
_ATTEMPTS = 64
_ROAD_SIDE = 0.3  # share of the scenarios of the world `varied` with a road-side unit
_STANCE = 1.5  # metres on which a body rests at least
_SPACING = 25.0  # metres between connected vehicles, on average over the drive


class Simulator:
    """Scenarios numbered from 0 without end, each determined by configuration, seed and number.

    Args:
        config: of the scenarios.
        seed: non-negative.
    """

    def __init__(self, config: SimulatorConfig | None = None, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f'seed must be a non-negative integer, got {seed}')
        self.config = SimulatorConfig() if config is None else config
        self.seed = seed

    def scenario(self, index: int) -> Scenario:
        """Draw a scenario: roads, surroundings and the motion of all vehicles.

        Raises:
            ValueError: if index is negative.
            DiffkdError: if no scene has that many connected vehicles within range of the ego.
        """
        if index < 0:
            raise ValueError(f'scenarios are numbered from 0, got {index}')
        for attempt in range(_ATTEMPTS):
            if (scenario := _draw_scenario(self.config, self.seed, index, attempt)) is not None:
                return scenario
        raise DiffkdError(
            f'scenario {index} of seed {self.seed}: none of {_ATTEMPTS} scenes kept {self.config.agents} '
            f'connected vehicles within {self.config.communication_range} m of the ego for '
            f'{self.config.frames_per_scenario} frames'
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """One drive, with random access to its frames.

    Attributes:
        config: of the simulator.
        seed: of the simulator.
        index: number of the scenario.
        vehicles: shapes; the connected vehicles come first, the ego before the others.
        motion: (frames, vehicles, 3) float64 map x, y and yaw of the centre of each vehicle.
        speed: (frames, vehicles) float64 metres per second.
        lidars: sensors of the agents.
        standing: solids that do not belong to vehicles.
        ground: the ground.
        post: of the road-side unit that is the last agent in place of a vehicle; None if there is none.
    """

    config: SimulatorConfig
    seed: int
    index: int
    vehicles: tuple[Vehicle, ...]
    motion: NDArray[np.float64]
    speed: NDArray[np.float64]
    lidars: tuple[Lidar, ...]
    standing: Solids
    ground: HeightField
    post: Post | None = None

    def __len__(self) -> int:
        return len(self.motion)

    @property
    def name(self) -> str:
        """`CoopFrame.scenario` of its frames."""
        return scenario_name(self.config, self.seed, self.index)

    def frame(self, index: int) -> CoopFrame:
        """The sweeps of all agents at one instant, and the boxes of all vehicles within `TRUTH_RANGE` of one.

        Agents are numbered from 1, the ego; the road-side unit is -1. The track id of a vehicle is its index
        in `vehicles` plus 1.

        Raises:
            IndexError: if the frame does not exist.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name} has frames 0 to {len(self) - 1}, got {index}')
        motion = self.motion[index]
        ground_z = self.ground.at(motion[:, 0], motion[:, 1])
        rotations = self._rotations(motion)
        scene = Scene(self._solids(motion, ground_z, rotations), self.ground, self._velocity(index))
        counts = np.zeros(len(self.vehicles), np.int64)
        agents: dict[int, AgentSweep] = {}
        at = motion[: len(self.lidars), :2].copy()
        for agent, lidar in enumerate(self.lidars):
            rng = np.random.default_rng(
                np.random.SeedSequence(self.seed, spawn_key=(_SWEEP_STREAM, self.index, index, agent))
            )
            if self.post is not None and agent == len(self.lidars) - 1:
                sweep, seen = scan(rng, lidar, self.config.rate, self.post.pose, np.zeros(3), 0.0, scene, -2)
                points = transform_points(inverse(self.post.levelled) @ self.post.pose, sweep.points)
                agents[-1] = replace(sweep, points=points, pose=self.post.levelled)
                at[agent] = self.post.pose[:2, 3]
            else:
                pose = self._lidar_pose(agent, motion[agent], ground_z[agent])
                velocity, yaw_rate = scene.velocity[agent], self._yaw_rate(index, agent)
                agents[agent + 1], seen = scan(
                    rng, lidar, self.config.rate, pose, velocity, yaw_rate, scene, agent
                )
            counts += seen
        distance = np.hypot(motion[:, None, 0] - at[:, 0], motion[:, None, 1] - at[:, 1]).min(axis=1)
        labelled = np.array([vehicle.kind.labelled for vehicle in self.vehicles])
        near = np.flatnonzero((distance <= TRUTH_RANGE) & labelled)
        boxes = np.empty((len(self.vehicles), 7))
        boxes[:, :2], boxes[:, 2] = motion[:, :2], ground_z
        boxes[:, :3] += rotations[:, :, 2] * np.array([[vehicle.centre_z] for vehicle in self.vehicles])
        boxes[:, 3:6] = [vehicle.size for vehicle in self.vehicles]
        boxes[:, 6] = motion[:, 2]
        return CoopFrame(
            agents=agents,
            ego=1,
            stamp=round(index * 1e9 / self.config.rate),
            ground_truth=Boxes3D(boxes[near], track_ids=near + 1, num_points=counts[near]),
            scenario=self.name,
            index=index,
        )

    def _lidar_pose(self, agent: int, at: NDArray[np.float64], ground_z: float) -> Matrix:
        """Pose map <- LiDAR of a connected vehicle."""
        vehicle, lidar = self.vehicles[agent], self.lidars[agent]
        roll, pitch = self.ground.tilt(at[0], at[1], at[2], vehicle.size[0] * 0.6, vehicle.size[1])
        foot = pose_from_euler([at[0], at[1], ground_z], float(roll), float(pitch), at[2])
        return foot @ pose_from_euler([0, 0, _roof(vehicle) + lidar.clearance], *lidar.tilt)

    def _rotations(self, motion: NDArray[np.float64]) -> NDArray[np.float64]:
        """(vehicles, 3, 3) map <- vehicle; vehicles lie on the slope of the ground in the world `varied`."""
        roll = pitch = np.zeros(len(motion))
        if self.config.world == 'varied':
            length, width = np.maximum(_footprints(self.vehicles) * [0.6, 1.0], _STANCE).T
            roll, pitch = self.ground.tilt(motion[:, 0], motion[:, 1], motion[:, 2], length, width)
        return rotations_from_euler(roll, pitch, motion[:, 2])

    def _solids(
        self, motion: NDArray[np.float64], ground_z: NDArray[np.float64], rotations: NDArray[np.float64]
    ) -> Solids:
        """All solids, with the vehicles at `motion` (vehicles, 3)."""
        parts = np.array([len(vehicle.corners) for vehicle in self.vehicles])
        owner = np.repeat(np.arange(len(self.vehicles)), parts)
        local = np.concatenate([vehicle.corners for vehicle in self.vehicles])
        place = np.column_stack([motion[:, :2], ground_z])
        corners = np.empty_like(local)
        for axis in range(3):
            corners[..., axis] = place[owner, axis, None]
            for other in range(3):
                corners[..., axis] += rotations[owner, axis, other, None] * local[..., other]
        reflectivity = np.concatenate([vehicle.reflectivity for vehicle in self.vehicles])
        return Solids(
            np.concatenate([face_planes(corners), self.standing.planes]),
            self.standing.rounds,
            np.concatenate([corners, self.standing.corners]),
            np.concatenate([owner, self.standing.owner]),
            np.concatenate([reflectivity, self.standing.reflectivity]),
            np.concatenate([np.zeros(len(owner), np.float32), self.standing.roughness]),
        )

    def _velocity(self, index: int) -> NDArray[np.float64]:
        """(vehicles, 3) in the map, metres per second."""
        yaw = self.motion[index, :, 2]
        direction = np.column_stack([np.cos(yaw), np.sin(yaw), np.zeros(len(yaw))])
        return self.speed[index][:, None] * direction

    def _yaw_rate(self, index: int, agent: int) -> float:
        """Of a connected vehicle, radians per second."""
        first, last = max(index - 1, 0), min(index + 1, len(self) - 1)
        turned = wrapped(self.motion[last, agent, 2] - self.motion[first, agent, 2])
        return float(turned) * self.config.rate / max(last - first, 1)


def _draw_scenario(config: SimulatorConfig, seed: int, index: int, attempt: int) -> Scenario | None:
    """Draw a scenario once; None if it does not meet the configuration."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SCENE_STREAM, index, attempt)))
    varied = config.world == 'varied'
    layout = draw_layout(rng, config)
    roads = make_roads(rng, layout)
    setting = draw_setting(rng, config, layout)
    driving = [draw_train(rng, setting.classes) for _ in range(setting.driving)]
    kept, motion, speed = simulate_traffic(
        rng,
        roads,
        setting.flow,
        [[vehicle.size[0] for vehicle in train] for train in driving],
        np.array([train[0].kind.agile for train in driving]),
        config.frames_per_scenario,
        config.rate,
    )
    moving = [vehicle for k in kept for vehicle in driving[k]]
    able = np.array([vehicle.kind.connects for vehicle in moving])
    connected = _choose_agents(rng, config, motion, able)
    if connected is None or ever_overlap(np.ascontiguousarray(motion), _footprints(moving), 0):
        return None
    order = np.concatenate([connected, np.setdiff1d(np.arange(len(moving)), connected)])
    motion, speed = motion[:, order], speed[:, order]
    ground = make_ground(rng, roads, varied)
    surroundings = make_surroundings(rng, roads, ground, setting.style)
    parked, places = _park(rng, surroundings, setting.vehicles - len(kept), setting.classes)
    if len(moving) + len(parked) < setting.fewest:
        return None
    vehicles = tuple(moving[k] for k in order) + parked
    still = np.broadcast_to(places, (len(motion), *places.shape))
    motion = np.concatenate([motion, still], axis=1)
    speed = np.concatenate([speed, np.zeros((len(motion), len(parked)))], axis=1)
    if ever_overlap(np.ascontiguousarray(motion), _footprints(vehicles), len(moving)):
        return None
    post = None
    if varied:
        add_clutter(surroundings, layout == 'straight')
        people, walks, paces = draw_pedestrians(rng, roads, len(motion), config.rate)
        vehicles += people
        motion, speed = np.concatenate([motion, walks], axis=1), np.concatenate([speed, paces], axis=1)
        post = _draw_post(rng, config, roads, ground, motion[:, 0])
        lidars = tuple(
            draw_lidar(_sensor_rng(seed, index, k), _roof(vehicles[k]), config.sensor, config.intensity)
            for k in range(config.agents)
        )
    else:
        tilts = np.radians(rng.normal(0, config.lidar.mount_tilt, (config.agents, 2)))
        lidars = tuple(
            configured_lidar(config.lidar, (roll, pitch), config.sensor, config.intensity)
            for roll, pitch in tilts
        )
    return Scenario(config, seed, index, vehicles, motion, speed, lidars, surroundings.solids(), ground, post)


def scenario_name(config: SimulatorConfig, seed: int, index: int) -> str:
    """`CoopFrame.scenario` of a scenario's frames."""
    return f'{"simulated" if config.world == "basic" else config.world}_{seed}_{index}'


def _sensor_rng(seed: int, index: int, agent: int) -> np.random.Generator:
    """The generator of an agent's sensor, which does not depend on how the scene was drawn."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SENSOR_STREAM, index, agent)))


def _footprints(vehicles: Sequence[Vehicle]) -> NDArray[np.float64]:
    """(n, 2) lengths and widths, metres."""
    return np.array([vehicle.size[:2] for vehicle in vehicles]).reshape(-1, 2)


def _roof(vehicle: Vehicle) -> float:
    """Height of the roof above the ground, metres."""
    return vehicle.centre_z + float(vehicle.size[2]) / 2


def _draw_post(
    rng: np.random.Generator,
    config: SimulatorConfig,
    roads: RoadNetwork,
    ground: HeightField,
    ego: NDArray[np.float64],
) -> Post | None:
    """Draw whether the last agent is a road-side unit, and where it stands; ego is (frames, 3) x, y, yaw."""
    wanted = rng.random() < _ROAD_SIDE
    arm, side = int(rng.integers(len(roads.directions))), float(rng.choice((-1.0, 1.0)))
    along = roads.stop_distance + rng.uniform(-2.0, 25.0)
    x, y = roads.place(arm, along, side * (roads.half_width + 1.0))
    # Facing along the road to the junction, turned towards the carriageway.
    yaw = roads.heading(arm, along) + np.pi + side * rng.uniform(0.0, np.pi / 2)
    post = draw_post(rng, x, y, yaw, ground.height(x, y))
    apart = np.hypot(ego[:, 0] - x, ego[:, 1] - y).max()
    if not wanted or config.agents < 2 or apart > config.communication_range - 0.5:
        return None
    return post


def _choose_agents(
    rng: np.random.Generator, config: SimulatorConfig, motion: NDArray[np.float64], able: NDArray[np.bool_]
) -> NDArray[np.int64] | None:
    """Indices of the connected vehicles, the ego first; None if there are not enough candidates.

    They are near the junction, and within range of the ego in all frames. If possible they are at least
    `_SPACING` apart on average. A vehicle with another heading than those chosen before is three times as
    likely to be chosen next.
    """
    from_centre = np.hypot(motion[..., 0], motion[..., 1])
    candidates = np.flatnonzero(able & (from_centre.mean(axis=0) < 50.0) & (from_centre.max(axis=0) < 90.0))
    rng.shuffle(candidates)
    # An ego that approaches or leaves the junction is preferred to one in its centre, which sees most.
    candidates = candidates[np.argsort(from_centre.mean(axis=0)[candidates] < 25.0, kind='stable')]
    x, y = motion[:, candidates, 0], motion[:, candidates, 1]
    apart = np.hypot(x[:, :, None] - x[:, None, :], y[:, :, None] - y[:, None, :])
    # Slightly less than the range: the tilt of the ground moves the sensors by a few centimetres.
    reachable = apart.max(axis=0) < config.communication_range - 0.5
    between = apart.mean(axis=0)
    heading = motion[len(motion) // 2, candidates, 2]
    for spacing in (_SPACING, 0.0):
        for ego in range(len(candidates)):
            chosen = [ego]
            while len(chosen) < config.agents:
                others = np.flatnonzero(reachable[ego] & (between[:, chosen].min(axis=1) > spacing))
                if len(others) == 0:
                    break
                other_way = np.cos(heading[others][:, None] - heading[chosen]).max(axis=1) < 0.7
                weights = np.cumsum(np.where(other_way, 3.0, 1.0))
                chosen.append(int(others[np.searchsorted(weights, rng.random() * weights[-1])]))
            else:
                return candidates[chosen]
    return None


def _park(
    rng: np.random.Generator, surroundings: Surroundings, count: int, classes: tuple[VehicleClass, ...]
) -> tuple[tuple[Vehicle, ...], NDArray[np.float64]]:
    """Park up to `count` vehicles; parking places near the junction are more likely."""
    slots = surroundings.slots
    nearness = np.array([np.exp(-np.hypot(x, y) / 30.0) for x, y, _, _ in slots])
    order = np.argsort(-(np.log(nearness + 1e-12) + rng.gumbel(size=len(slots))))[: max(count, 0)]
    vehicles, places = [], []
    for k in order:
        x, y, yaw, longest = slots[k]
        vehicles.append(draw_vehicle(rng, longest, classes))
        places.append((x, y, yaw))
    return tuple(vehicles), np.array(places).reshape(-1, 3)
