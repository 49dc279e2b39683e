# SPDX-License-Identifier: Apache-2.0
"""The world of the CARLA stand-in: actors and time, and the messages of its sensor streams.

Everything is in CARLA's convention: left-handed, metres, degrees; a transform is x, y, z, pitch, yaw, roll.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.carla import flip_points, pose_from_carla, pose_to_carla
from diffkd_ros.geometry.poses import Matrix, inverse, transform_points

# Indices in the sensor registry of CARLA 0.9.16.
LIDAR, WORLD_OBSERVER = 11, 17
LIDAR_TYPE = 'sensor.lidar.ray_cast'
_ACTOR_STATE_BYTES = 119
_CHANNELS = 32
_POINTS_PER_VEHICLE = 600

Transform = tuple[float, float, float, float, float, float]


def pose_of_transform(transform: Sequence[float]) -> Matrix:
    """A CARLA transform as a REP-103 pose."""
    x, y, z, pitch, yaw, roll = transform
    return pose_from_carla(x, y, z, roll, yaw, pitch)


def transform_of_pose(pose: Matrix) -> Transform:
    """A REP-103 pose as a CARLA transform."""
    x, y, z, roll, yaw, pitch = pose_to_carla(pose)
    return x, y, z, pitch, yaw, roll


@dataclass
class Actor:
    """A vehicle, a sensor or the spectator.

    Attributes:
        number: actor id.
        type_id: of the blueprint.
        attributes: (id, type code, value) of each.
        transform: relative to the parent, if any.
        parent: id of the actor it is attached to; 0: none.
        extent: half length, width and height; zero without a body.
        stream: number of the sensor stream; 0: none.
        velocity: metres per second along the map's axes.
        yaw_rate: degrees per second.
        sweep: (n, 4) the present sweep of a LiDAR; None: `synthetic_sweep`.
    """

    number: int
    type_id: str
    attributes: Sequence[tuple[str, int, str]]
    transform: Transform
    parent: int = 0
    extent: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stream: int = 0
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_rate: float = 0.0
    sweep: NDArray[np.float32] | None = None

    @property
    def is_vehicle(self) -> bool:
        """Whether the actor is a vehicle."""
        return self.type_id.startswith('vehicle.')

    def attribute(self, name: str) -> str:
        """Value of an attribute; empty if it does not exist."""
        return next((text for key, _, text in self.attributes if key == name), '')


@dataclass
class World:
    """Actors and time.

    Attributes:
        step: seconds.
        frame: number of the present step.
        seconds: since the episode has begun.
        episode: its number; a new map begins a new one.
        own_body: rays that meet the vehicle of their LiDAR return from it, as in CARLA.
        carla_intensity: a return at r metres has the intensity exp(-rate r), whatever reflects it, as in
            CARLA; the rate is the LiDAR's `atmosphere_attenuation_rate`.
        actors: by number.
    """

    step: float = 0.05
    frame: int = 1
    seconds: float = 0.0
    episode: int = field(default_factory=lambda: secrets.randbits(31))
    own_body: bool = False
    carla_intensity: bool = False
    actors: dict[int, Actor] = field(default_factory=dict)
    _last_number: int = 0
    _last_stream: int = 1

    def add(
        self,
        type_id: str,
        attributes: Sequence[tuple[str, int, str]],
        transform: Transform,
        parent: int = 0,
        extent: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Actor:
        """Spawn an actor."""
        self._last_number += 1
        stream = 0
        if type_id.startswith('sensor.'):
            self._last_stream += 1
            stream = self._last_stream
        actor = Actor(self._last_number, type_id, attributes, transform, parent, extent, stream)
        self.actors[actor.number] = actor
        return actor

    def remove(self, number: int) -> bool:
        """Destroy an actor and those attached to it; returns whether it existed."""
        for child in [actor.number for actor in self.actors.values() if actor.parent == number]:
            self.remove(child)
        return self.actors.pop(number, None) is not None

    def begin_episode(self) -> None:
        """Begin a new episode without actors, as a server does that loads a map."""
        self.actors.clear()
        self.episode += 1
        self.frame += 100
        self.seconds = 0.0

    def pose(self, actor: Actor) -> Matrix:
        """REP-103 pose in the map."""
        own = pose_of_transform(actor.transform)
        parent = self.actors.get(actor.parent)
        return own if parent is None else self.pose(parent) @ own

    def advance(self) -> None:
        """Advance time by one step; vehicles keep their velocity."""
        self.frame += 1
        self.seconds += self.step
        for actor in self.actors.values():
            x, y, z, pitch, yaw, roll = actor.transform
            vx, vy, vz = actor.velocity
            step = self.step
            actor.transform = (
                x + vx * step, y + vy * step, z + vz * step, pitch, yaw + actor.yaw_rate * step, roll,
            )  # fmt: skip

    def _header(self, sensor: int, transform: Sequence[float]) -> bytes:
        return struct.pack('<QQd6f', sensor, self.frame, self.seconds, *transform)

    def snapshot(self) -> bytes:
        """A message of the world observer: the states of all actors."""
        parts = [
            self._header(WORLD_OBSERVER, (0.0,) * 6),
            struct.pack('<QdfiiiI', self.episode, time.time(), self.step, 0, 0, 0, 0),
        ]
        for actor in self.actors.values():
            state = struct.pack(
                '<IB6f3f3f3f', actor.number, 1, *transform_of_pose(self.pose(actor)),
                *actor.velocity, 0.0, 0.0, actor.yaw_rate, 0.0, 0.0, 0.0,
            )  # fmt: skip
            parts.append(state.ljust(_ACTOR_STATE_BYTES, b'\0'))
        return b''.join(parts)

    def measurement(self, sensor: Actor) -> bytes:
        """A message of a LiDAR: the present measurement."""
        points = self.synthetic_sweep(sensor) if sensor.sweep is None else sensor.sweep.copy()
        vehicle = self.actors.get(sensor.parent)
        if self.own_body and vehicle is not None:
            points[:, :3] *= self._reach(sensor, vehicle, points)[:, None]
        if self.carla_intensity:
            rate = float(sensor.attribute('atmosphere_attenuation_rate'))
            points[:, 3] = np.exp(-rate * np.linalg.norm(points[:, :3], axis=1))
        counts = np.full(_CHANNELS, len(points) // _CHANNELS, '<u4')
        counts[: len(points) % _CHANNELS] += 1
        head = self._header(LIDAR, transform_of_pose(self.pose(sensor))) + struct.pack('<fI', 0.0, _CHANNELS)
        return head + counts.tobytes() + np.ascontiguousarray(points, '<f4').tobytes()

    def _reach(self, sensor: Actor, vehicle: Actor, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """The fraction (n,) of the way from the sensor to each point at which it meets the body; 1: never."""
        half = np.asarray(vehicle.extent)
        to_body = inverse(self.pose(vehicle)) @ self.pose(sensor)
        start = to_body[:3, 3] - (0.0, 0.0, half[2])
        ray = flip_points(points[:, :3]) @ to_body[:3, :3].T
        enters, leaves = np.full(len(ray), -np.inf), np.full(len(ray), np.inf)
        # Where the rays cross the two planes of each axis of the box.
        with np.errstate(divide='ignore', invalid='ignore'):
            for along, begin, size in zip(ray.T, start, half, strict=True):
                first, second = (-size - begin) / along, (size - begin) / along
                enters = np.maximum(enters, np.minimum(first, second))
                leaves = np.minimum(leaves, np.maximum(first, second))
        return np.where((enters > 0.0) & (enters < np.minimum(leaves, 1.0)), enters, 1.0)

    @staticmethod
    def _ground(pose: Matrix) -> NDArray[np.float64]:
        """(n, 3) points around a sensor, just below z = 0, the ground under the vehicles."""
        azimuth = np.arange(-180.0, 180.0, 2.0)[:, None]
        reach = np.array([5.0, 8.0, 12.0, 18.0])
        x, y = reach * np.cos(np.radians(azimuth)), reach * np.sin(np.radians(azimuth))
        points = np.stack([x, y, np.full_like(x, -0.02)], axis=-1).reshape(-1, 3)
        return points + np.array([pose[0, 3], pose[1, 3], 0.0])

    def synthetic_sweep(self, sensor: Actor) -> NDArray[np.float32]:
        """Points on the ground and on the surfaces of all other vehicles, without occlusion.

        Returns:
            (n, 4) float32 in the sensor's frame, CARLA's convention.
        """
        generator = np.random.default_rng((self.frame, sensor.number))
        sensor_from_map = inverse(self.pose(sensor))
        sweeps = [transform_points(sensor_from_map, self._ground(self.pose(sensor)))]
        for vehicle in self.actors.values():
            if not vehicle.is_vehicle or vehicle.number == sensor.parent:
                continue
            size = 2.0 * np.asarray(vehicle.extent)
            surface = generator.uniform(-0.5, 0.5, (_POINTS_PER_VEHICLE, 3))
            side = generator.integers(0, 3, _POINTS_PER_VEHICLE)
            row = np.arange(_POINTS_PER_VEHICLE)
            # Slightly inside, so that rounding does not move a point out of its vehicle's box.
            surface[row, side] = np.copysign(0.499, surface[row, side])
            lifted = surface * size + (0.0, 0.0, 0.5 * size[2])
            sweeps.append(transform_points(sensor_from_map @ self.pose(vehicle), lifted))
        points = np.concatenate(sweeps)
        return flip_points(np.c_[points, np.full(len(points), 0.5)]).astype(np.float32)


def vehicle_attributes(role: str) -> list[tuple[str, int, str]]:
    """Attributes of a four-wheeled vehicle."""
    return [('role_name', 4, role), ('number_of_wheels', 2, '4')]
