# SPDX-License-Identifier: Apache-2.0
"""Reads V2V4Real and V2X-Real: recordings of real sensors in the layout of OPV2V.

Coordinates are those of the sensors, right-handed. Object ids do not name agents: the box around a vehicle's
LiDAR is taken for the vehicle itself and gets its id, and all other ids are moved above those of the agents.
Speeds are not read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffkd_ros.documents import integer, numbers, read_bytes
from diffkd_ros.frame import AgentSweep, Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import Matrix, pose_from_euler, rigid
from diffkd_ros.sources.dataset import DatasetError, located, returns_within, vehicle_at
from diffkd_ros.sources.opv2v.frame_files import (
    Objects,
    colour_intensity,
    pose_values,
    read_objects,
    truth_of,
    union,
    usable_sweep,
)
from diffkd_ros.sources.opv2v.reading import FolderDataset
from diffkd_ros.sources.pcd import read_pcd, xyz

# A box (7,) mirrored at the plane y = 0: between left-handed and right-handed coordinates.
_MIRROR = np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0])
_MOST_OBJECTS = 10**9
_ROW = 16  # bytes of a return in a .bin file
_MAX_FILE = 256 * 2**20


class _RealDataset(FolderDataset):
    def _truth(
        self, listed: list[Objects], agents: dict[int, AgentSweep], complete: bool, last: int
    ) -> Boxes3D:
        boxes = {max(last, 0) + 1 + track: box for track, box in union(o.boxes for o in listed).items()}
        truth = truth_of(boxes)
        assert truth.track_ids is not None
        ids = truth.track_ids.copy()
        for agent, sweep in agents.items():
            own = vehicle_at(truth.boxes, sweep.pose[:2, 3]) if agent >= 0 else None
            if own is not None:
                ids[own] = agent
        return replace(truth, track_ids=ids, num_points=returns_within(truth.boxes, ids, agents))


class V2xRealDataset(_RealDataset):
    """V2X-Real: vehicles and road-side units; the ego is a vehicle, as in its mode `vc`.

    A cloud is a `.bin` of four float32 a return, or a PCD file. Its intensity is read as 0, as in the
    published loader. Poses and objects are in the map, as in OPV2V. Cars, vans, trucks and buses are
    vehicles, in one class; the other types are ignored.
    """

    published_range = 50.0

    def _pose(self, document: dict[str, Any], path: Path) -> Matrix:
        # The published matrix is that of CARLA, applied to right-handed coordinates as it is.
        x, y, z, roll, yaw, pitch = pose_values(document, 'lidar_pose', path).tolist()
        return pose_from_euler((x, y, z), *np.radians((-roll, -pitch, yaw)).tolist())

    def _sweep(
        self, cloud: Path, agent: int, pose: Matrix, document: dict[str, Any], path: Path
    ) -> AgentSweep:
        if cloud.suffix == '.bin':
            with located(cloud):
                content = read_bytes(cloud, _MAX_FILE)
                if len(content) % _ROW:
                    raise ValueError(f'{len(content)} bytes are not rows of four float32')
                points = np.frombuffer(content, '<f4').reshape(-1, 4).astype(np.float32)
        else:
            points = xyz(read_pcd(cloud))
        points[:, 3] = 0.0
        return usable_sweep(AgentSweep(points, pose), agent)

    def _objects(self, document: dict[str, Any], agent: int, pose: Matrix, path: Path) -> Objects:
        objects = read_objects(document, path, lambda key, entry: integer(key, 0, _MOST_OBJECTS))
        objects.boxes = {track: box * _MIRROR for track, box in objects.boxes.items()}
        return objects


class V2v4RealDataset(_RealDataset):
    """V2V4Real: two vehicles.

    A pose is a 4 x 4 matrix map <- LiDAR. Objects are in the LiDAR frame of the agent that lists them, and
    are the same object where they have the same `ass_id`; one with an `ass_id` of -1 is an object of its own.
    """

    published_range = 70.0

    def _pose(self, document: dict[str, Any], path: Path) -> Matrix:
        values = document.get('lidar_pose')
        if isinstance(values, list) and len(values) == 6:
            raise DatasetError(f'{path}: lidar_pose has 6 values, as in OPV2V: read opv2v:DIR')
        with located(f'{path}: lidar_pose'):
            return rigid(numbers(values, 4, 4))

    def _sweep(
        self, cloud: Path, agent: int, pose: Matrix, document: dict[str, Any], path: Path
    ) -> AgentSweep:
        columns = read_pcd(cloud)
        points = xyz(columns)
        with located(cloud):
            points[:, 3] = colour_intensity(columns)
        return usable_sweep(AgentSweep(points, pose), agent)

    def _objects(self, document: dict[str, Any], agent: int, pose: Matrix, path: Path) -> Objects:
        def id_of(key: Any, entry: dict[str, Any]) -> int:
            own = integer(key, 0, _MOST_OBJECTS)
            shared = integer(entry.get('ass_id', own), -1, _MOST_OBJECTS)
            return (2 + abs(agent)) * _MOST_OBJECTS + own if shared == -1 else shared

        objects = read_objects(document, path, id_of)
        objects.boxes = {
            track: transform_boxes(pose, [box * _MIRROR])[0] for track, box in objects.boxes.items()
        }
        return objects
