# SPDX-License-Identifier: Apache-2.0
"""The vehicles of a CARLA world: role and size, requested once each, and their boxes in every frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.cosim.bodies import Body
from diffkd_ros.cosim.sweeps import Measured, pose_of
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import count_points
from diffkd_ros.geometry.poses import Matrix, transform_points, yaw_of

# Vehicles farther than this from every agent are left out of the ground truth, metres.
_TRUTH_RANGE = 100.0
# Added to actor ids to give track ids that differ from all agent numbers.
_TRACK = 1_000_000


@dataclass(frozen=True)
class Vehicle:
    """The constant properties of a vehicle.

    Attributes:
        actor: the `carla.Actor`.
        role: its role name.
        body_from_box: (4, 4) vehicle <- centre of its bounding box.
        size: length, width, height in metres.
    """

    actor: Any
    role: str
    body_from_box: Matrix
    size: NDArray[np.float64]

    def outside(self, measured: Measured, pose: Matrix) -> Measured:
        """A sweep without the returns on this vehicle itself.

        Args:
            measured: sweep of a LiDAR on this vehicle.
            pose: map <- vehicle.
        """
        body = Body(pose @ self.body_from_box, self.size)
        return Measured(body.outside(measured.points, measured.pose), measured.pose)


class Vehicles:
    """The four-wheeled vehicles of the latest snapshot.

    Args:
        world: `carla.World`.
    """

    def __init__(self, world: Any) -> None:
        self._world = world
        self._known: dict[int, Vehicle | None] = {}

    def __iter__(self) -> Iterator[Vehicle]:
        return (vehicle for vehicle in self._known.values() if vehicle is not None)

    def update(self, snapshot: Any) -> Iterator[Vehicle]:
        """Request the actors that are new in a snapshot, and yield the vehicles among them.

        In CARLA 0.9.16 every access to `bounding_box` is a call to the server, hence the cache.
        """
        present = {state.id for state in snapshot}
        for gone in self._known.keys() - present:
            del self._known[gone]
        new = sorted(present - self._known.keys())
        if not new:
            return
        for actor in self._world.get_actors(new):
            vehicle = None
            # The models' only class is vehicles with more than two wheels.
            if actor.type_id.startswith('vehicle.') and actor.attributes.get('number_of_wheels') != '2':
                box = actor.bounding_box
                vehicle = Vehicle(
                    actor,
                    actor.attributes.get('role_name', ''),
                    pose_of(box),
                    2.0 * np.array([box.extent.x, box.extent.y, box.extent.z]),
                )
            self._known[actor.id] = vehicle
            if vehicle is not None:
                yield vehicle

    def boxes(self, snapshot: Any, agents: dict[int, int], sweeps: dict[int, Measured] | None) -> Boxes3D:
        """Ground truth: the boxes of all vehicles within range of an agent, map frame.

        Args:
            snapshot: `carla.WorldSnapshot`.
            agents: actor id of each connected vehicle -> its agent number.
            sweeps: of this frame, to count the returns on each vehicle in; None: returns are not counted.
        """
        tracks, rows = [], []
        for number, vehicle in self._known.items():
            state = snapshot.find(number)
            if vehicle is None or state is None:
                continue
            pose = pose_of(state.get_transform()) @ vehicle.body_from_box
            tracks.append(agents.get(number, _TRACK + number))
            rows.append([*pose[:3, 3], *vehicle.size, yaw_of(pose)])
        boxes = np.array(rows, np.float64).reshape(-1, 7)
        own = boxes[[track < _TRACK for track in tracks]]
        if len(own):
            apart = np.linalg.norm(boxes[:, None, :2] - own[None, :, :2], axis=2).min(axis=1)
            near = apart <= _TRUTH_RANGE
        else:
            near = np.zeros(len(boxes), bool)
        counts = None
        if sweeps is not None:
            counts = np.zeros(len(boxes), np.int64)
            for measured in sweeps.values():
                counts += count_points(transform_points(measured.pose, measured.points), boxes)
            counts = counts[near]
        return Boxes3D(boxes[near], track_ids=np.array(tracks, np.int64)[near], num_points=counts)
