# SPDX-License-Identifier: Apache-2.0
"""Seeded cooperative traffic scenes with the boxes of all vehicles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.sources.simulator.config import SimulatorConfig
from diffkd_ros.sources.simulator.ground import HeightField, make_ground
from diffkd_ros.sources.simulator.lidar import scan
from diffkd_ros.sources.simulator.raycast import Solids, face_planes
from diffkd_ros.sources.simulator.roads import make_roads
from diffkd_ros.sources.simulator.separation import ever_overlap
from diffkd_ros.sources.simulator.shapes import Vehicle, draw_vehicle
from diffkd_ros.sources.simulator.surroundings import Surroundings, make_surroundings
from diffkd_ros.sources.simulator.traffic import simulate_traffic

TRUTH_RANGE = 100.0  # metres from the nearest agent up to which a vehicle belongs to the ground truth
_SCENE_STREAM = 0
_SWEEP_STREAM = 1
_ATTEMPTS = 64
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
        mount: (agents, 2) float64 roll and pitch of each sensor relative to its vehicle, radians.
        standing: solids that do not belong to vehicles.
        ground: the ground.
    """

    config: SimulatorConfig
    seed: int
    index: int
    vehicles: tuple[Vehicle, ...]
    motion: NDArray[np.float64]
    speed: NDArray[np.float64]
    mount: NDArray[np.float64]
    standing: Solids
    ground: HeightField

    def __len__(self) -> int:
        return len(self.motion)

    @property
    def name(self) -> str:
        """`CoopFrame.scenario` of its frames."""
        return f'simulated_{self.seed}_{self.index}'

    def frame(self, index: int) -> CoopFrame:
        """The sweeps of all agents at one instant, and the boxes of all vehicles within `TRUTH_RANGE` of one.

        Agents are numbered from 1, the ego. The track id of a vehicle is its index in `vehicles` plus 1.

        Raises:
            IndexError: if the frame does not exist.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name} has frames 0 to {len(self) - 1}, got {index}')
        motion = self.motion[index]
        ground_z = self.ground.at(motion[:, 0], motion[:, 1])
        solids = self._solids(motion, ground_z)
        counts = np.zeros(len(self.vehicles), np.int64)
        agents: dict[int, AgentSweep] = {}
        for agent in range(self.config.agents):
            rng = np.random.default_rng(
                np.random.SeedSequence(self.seed, spawn_key=(_SWEEP_STREAM, self.index, index, agent))
            )
            yaw = motion[agent, 2]
            agents[agent + 1], seen = scan(
                rng,
                self.config.lidar,
                self.config.rate,
                self._lidar_pose(agent, motion[agent], ground_z[agent]),
                self.speed[index, agent] * np.array([np.cos(yaw), np.sin(yaw), 0.0]),
                solids,
                self.ground,
                agent,
                len(self.vehicles),
            )
            counts += seen
        distance = np.hypot(
            motion[:, None, 0] - motion[None, : self.config.agents, 0],
            motion[:, None, 1] - motion[None, : self.config.agents, 1],
        ).min(axis=1)
        near = np.flatnonzero(distance <= TRUTH_RANGE)
        boxes = np.empty((len(self.vehicles), 7))
        boxes[:, :2] = motion[:, :2]
        boxes[:, 2] = ground_z + [vehicle.centre_z for vehicle in self.vehicles]
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

    def _solids(self, motion: NDArray[np.float64], ground_z: NDArray[np.float64]) -> Solids:
        """All solids, with the vehicles at `motion` (vehicles, 3)."""
        parts = np.array([len(vehicle.corners) for vehicle in self.vehicles])
        owner = np.repeat(np.arange(len(self.vehicles)), parts)
        local = np.concatenate([vehicle.corners for vehicle in self.vehicles])
        c, s = np.cos(motion[owner, 2])[:, None], np.sin(motion[owner, 2])[:, None]
        corners = np.empty_like(local)
        corners[..., 0] = motion[owner, 0][:, None] + c * local[..., 0] - s * local[..., 1]
        corners[..., 1] = motion[owner, 1][:, None] + s * local[..., 0] + c * local[..., 1]
        corners[..., 2] = ground_z[owner][:, None] + local[..., 2]
        reflectivity = np.concatenate([vehicle.reflectivity for vehicle in self.vehicles])
        return Solids(
            np.concatenate([face_planes(corners), self.standing.planes]),
            self.standing.rounds,
            np.concatenate([corners, self.standing.corners]),
            np.concatenate([owner, self.standing.owner]),
            np.concatenate([reflectivity, self.standing.reflectivity]),
            np.concatenate([np.zeros(len(owner), np.float32), self.standing.roughness]),
        )

    def _lidar_pose(self, agent: int, at: NDArray[np.float64], ground_z: float) -> NDArray[np.float64]:
        vehicle = self.vehicles[agent]
        roll, pitch = self.ground.tilt(at[0], at[1], at[2], vehicle.size[0] * 0.6, vehicle.size[1])
        roof = vehicle.centre_z + vehicle.size[2] / 2
        foot = pose_from_euler([at[0], at[1], ground_z], roll, pitch, at[2])
        return foot @ pose_from_euler([0, 0, roof + self.config.lidar.roof_clearance], *self.mount[agent])


def _draw_scenario(config: SimulatorConfig, seed: int, index: int, attempt: int) -> Scenario | None:
    """Draw a scenario once; None if it does not meet the configuration."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SCENE_STREAM, index, attempt)))
    layouts = sorted(config.layouts)
    weights = np.array([config.layouts[layout] for layout in layouts])
    roads = make_roads(rng, layouts[int(rng.choice(len(layouts), p=weights / weights.sum()))])
    total = int(rng.integers(config.vehicles[0], config.vehicles[1] + 1))
    driving = [draw_vehicle(rng) for _ in range(round(total * rng.uniform(0.45, 0.7)))]
    kept, motion, speed = simulate_traffic(
        rng,
        roads,
        np.array([vehicle.size[0] for vehicle in driving]),
        np.array([vehicle.kind.agile for vehicle in driving]),
        config.frames_per_scenario,
        config.rate,
    )
    driving = [driving[k] for k in kept]
    able = np.array([vehicle.kind.connects for vehicle in driving])
    connected = _choose_agents(rng, config, motion, able)
    if connected is None:
        return None
    order = np.concatenate([connected, np.setdiff1d(np.arange(len(driving)), connected)])
    ground = make_ground(rng, roads)
    surroundings = make_surroundings(rng, roads, ground)
    parked, places = _park(rng, surroundings, total - len(driving))
    if len(driving) + len(parked) < config.vehicles[0]:
        return None
    vehicles = tuple(driving[k] for k in order) + parked
    still = np.broadcast_to(places, (len(motion), *places.shape))
    motion = np.concatenate([motion[:, order], still], axis=1)
    sizes = np.array([vehicle.size[:2] for vehicle in vehicles])
    if ever_overlap(np.ascontiguousarray(motion), sizes):
        return None
    return Scenario(
        config,
        seed,
        index,
        vehicles,
        motion,
        np.concatenate([speed[:, order], np.zeros((len(motion), len(parked)))], axis=1),
        np.radians(rng.normal(0, config.lidar.mount_tilt, (config.agents, 2))),
        surroundings.solids(),
        ground,
    )


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
    rng: np.random.Generator, surroundings: Surroundings, count: int
) -> tuple[tuple[Vehicle, ...], NDArray[np.float64]]:
    """Park up to `count` vehicles; parking places near the junction are more likely."""
    slots = surroundings.slots
    nearness = np.array([np.exp(-np.hypot(x, y) / 30.0) for x, y, _, _ in slots])
    order = np.argsort(-(np.log(nearness + 1e-12) + rng.gumbel(size=len(slots))))[: max(count, 0)]
    vehicles, places = [], []
    for k in order:
        x, y, yaw, longest = slots[k]
        vehicles.append(draw_vehicle(rng, longest))
        places.append((x, y, yaw))
    return tuple(vehicles), np.array(places).reshape(-1, 3)
