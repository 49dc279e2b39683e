# SPDX-License-Identifier: Apache-2.0
"""Plays the first drive of a source of frames in the stand-in's world, repeatedly."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from diffkd_ros.cosim.testing.world import LIDAR_TYPE, Actor, World, transform_of_pose, vehicle_attributes
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.carla import box_to_carla, flip_points
from diffkd_ros.geometry.poses import Matrix, inverse, pose_from_euler, yaw_of
from diffkd_ros.messages.names import agent_name

VEHICLE_TYPE = 'vehicle.tesla.model3'
# For a connected vehicle without a label: a medium car below its LiDAR.
_EXTENT = (2.4, 0.95, 0.75)
_LIDAR_HEIGHT = 1.9


class PlayedDrive:
    """Moves the actors of a world along a drive.

    Agent n is the vehicle with role name `agent_name(n)`; road-side units are left out. A vehicle's LiDAR
    delivers the sweep of the frame, at the pose of the frame, wherever the LiDAR was mounted.

    Args:
        world: the world.
        frames: of the source.

    Raises:
        ValueError: if the source is empty.
    """

    def __init__(self, world: World, frames: Iterable[CoopFrame]) -> None:
        self._world = world
        self._actors: dict[tuple[str, int], Actor] = {}
        # From the second round on the frames come from memory.
        self._frames = itertools.cycle(self._first_drive(frames))
        self._executor = ThreadPoolExecutor(1)
        self._frame = next(self._frames)
        self._next = self._executor.submit(next, self._frames)
        self._show()

    def _first_drive(self, frames: Iterable[CoopFrame]) -> Iterator[CoopFrame]:
        first: CoopFrame | None = None
        for frame in frames:
            first = first or frame
            if frame.scenario != first.scenario:
                return
            yield frame
        if first is None:
            raise ValueError('the source has no frames')

    def advance(self) -> None:
        """Show the next frame."""
        self._frame = self._next.result()
        self._next = self._executor.submit(next, self._frames)
        self._show()

    def _show(self) -> None:
        """Set the vehicles and the LiDARs to the present frame."""
        boxes = self._boxes()
        for key in set(self._actors) - set(boxes):
            self._world.remove(self._actors.pop(key).number)
        for key, (pose, extent) in boxes.items():
            actor = self._actors.get(key)
            if actor is None or actor.number not in self._world.actors:
                role = agent_name(key[1]) if key[0] == 'agent' else 'autopilot'
                actor = self._world.add(
                    VEHICLE_TYPE, vehicle_attributes(role), transform_of_pose(pose), extent=extent
                )
                self._actors[key] = actor
            actor.transform = transform_of_pose(pose)
            actor.extent = extent
            sweep = self._frame.agents.get(key[1]) if key[0] == 'agent' else None
            if sweep is not None and sweep.velocity is not None:
                x, y, z = map(float, sweep.velocity)
                actor.velocity = (x, -y, z)
        self.aim()

    def aim(self) -> None:
        """Give the LiDARs of the connected vehicles the sweeps of the present frame."""
        agents = {actor.number: key[1] for key, actor in self._actors.items() if key[0] == 'agent'}
        for sensor in self._world.actors.values():
            if sensor.type_id == LIDAR_TYPE and sensor.parent in agents:
                sweep = self._frame.agents[agents[sensor.parent]]
                vehicle = self._world.pose(self._world.actors[sensor.parent])
                sensor.transform = transform_of_pose(inverse(vehicle) @ sweep.pose)
                sensor.sweep = flip_points(sweep.points)

    def _boxes(self) -> dict[tuple[str, int], tuple[Matrix, tuple[float, float, float]]]:
        """('agent', number) or ('other', track) -> pose of the origin and extent of the vehicle."""
        frame = self._frame
        found: dict[tuple[str, int], tuple[Matrix, tuple[float, float, float]]] = {}
        truth = frame.ground_truth
        if truth is not None:
            tracks = np.arange(len(truth)) if truth.track_ids is None else truth.track_ids
            for track, box in zip(tracks, truth.boxes, strict=True):
                connected = truth.track_ids is not None and int(track) in frame.agents
                length, width, height = box_to_carla(box)['extent']
                pose = pose_from_euler(box[:3] - (0.0, 0.0, 0.5 * box[5]), yaw=box[6])
                found['agent' if connected else 'other', int(track)] = pose, (length, width, height)
        for agent, sweep in frame.agents.items():
            if agent >= 0 and ('agent', agent) not in found:
                ground = sweep.pose[:3, 3] - (0.0, 0.0, _LIDAR_HEIGHT)
                found['agent', agent] = pose_from_euler(ground, yaw=yaw_of(sweep.pose)), _EXTENT
        return found
