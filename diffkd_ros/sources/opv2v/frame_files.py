# SPDX-License-Identifier: Apache-2.0
"""Contents of the files of one OPV2V frame, converted to right-handed coordinates, metres and radians."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.documents import integer, number, numbers, shown
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D
from diffkd_ros.geometry.carla import box_from_carla, flip_points, pose_from_carla
from diffkd_ros.geometry.poses import Matrix, yaw_of
from diffkd_ros.sources.dataset import NO_SIZE, DatasetError, located
from diffkd_ros.sources.pcd import read_pcd, unit_intensity, xyz

Box = NDArray[np.float64]
_LARGEST_EXTENT = 100.0
_FASTEST = 1000.0  # km/h
_LONGEST_STEP = 60.0
_VEHICLE_WORDS = frozenset({'bus', 'car', 'pickup', 'suv', 'truck', 'van', 'vehicle'})
# Metres around a vehicle's LiDAR in which returns lie on the vehicle itself.
_OWN_BODY_X = (-1.95, 2.95)
_OWN_BODY_Y = 1.1


@dataclass(slots=True)
class Objects:
    """The vehicles that a document lists.

    Attributes:
        boxes: (7,) each, by id.
        returns: number of LiDAR returns as recorded by `write_opv2v`, by id; None if not recorded.
        left_out: objects that are not used, by reason, with counts.
    """

    boxes: dict[int, Box] = field(default_factory=dict)
    returns: dict[int, int | None] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def pose_values(document: dict[str, Any], name: str, path: Path) -> NDArray[np.float64]:
    """(6,) x, y, z in metres and roll, yaw, pitch in degrees: entry `name` of a frame's document.

    Raises:
        DatasetError: if it is missing or is anything else.
    """
    values = document.get(name)
    if isinstance(values, list) and len(values) == 4 and isinstance(values[0], list):
        raise DatasetError(f'{path}: {name} is a 4 x 4 matrix, as in V2V4Real: read v2v4real:DIR')
    with located(f'{path}: {name}: expected x, y, z, roll, yaw, pitch'):
        return numbers(values, 6)


def read_pose(document: dict[str, Any], name: str, path: Path) -> Matrix:
    """(4, 4) pose in the map: entry `name` (x, y, z, roll, yaw, pitch) of a frame's document.

    Raises:
        DatasetError: if it is missing or not a pose.
    """
    return pose_from_carla(*pose_values(document, name, path).tolist())


def read_sweep(path: Path, agent: int, pose: Matrix, velocity: NDArray[np.float64] | None) -> AgentSweep:
    """Read a cloud, without invalid returns and without those on the agent's own vehicle.

    Args:
        path: PCD file.
        agent: negative for a road-side unit, which has no vehicle.
        pose: (4, 4) map <- LiDAR.
        velocity: (3,) metres per second in the map, or None.

    Raises:
        DatasetError: if the file is missing or damaged.
    """
    columns = read_pcd(path)
    points = flip_points(xyz(columns))
    with located(path):
        points[:, 3] = colour_intensity(columns)
        ring, time = optional_columns(columns)
    return usable_sweep(AgentSweep(points, pose, ring, time, velocity), agent)


def colour_intensity(columns: dict[str, NDArray]) -> NDArray[np.float32]:
    """(n,) in [0, 1], from `intensity` (bytes are scaled) or the red channel of `rgb`.

    Raises:
        DiffkdError: if there is neither, or a value is out of range.
    """
    if 'intensity' in columns:
        return unit_intensity(columns['intensity'])
    if 'rgb' in columns and columns['rgb'].itemsize == 4:
        packed = np.ascontiguousarray(columns['rgb'])
        return (packed.view(np.uint32) >> 16 & 0xFF).astype(np.float32) / np.float32(255)
    raise DiffkdError(f'needs a field intensity or rgb (of 4 bytes), has {list(columns)}')


def optional_columns(columns: dict[str, NDArray]) -> tuple[NDArray | None, NDArray | None]:
    """`ring` (n,) uint16 and `time` (n,) float32 where a cloud has them.

    Raises:
        DiffkdError: if a ring is not an index.
    """
    ring, time = columns.get('ring'), columns.get('time')
    if ring is not None and len(ring) and not (ring.min() >= 0 and ring.max() <= 65535):
        raise DiffkdError(f'ring must lie in [0, 65535], got {ring.min()} to {ring.max()}')
    return ring, time


def usable_sweep(sweep: AgentSweep, agent: int) -> AgentSweep:
    """The finite returns that are not on the agent's own vehicle; a road-side unit has a negative id."""
    points = sweep.points
    kept = np.logical_and.reduce(np.isfinite(points), axis=1)
    if sweep.time is not None:
        kept &= np.isfinite(sweep.time)
    if agent >= 0:
        inside_x = (points[:, 0] >= _OWN_BODY_X[0]) & (points[:, 0] <= _OWN_BODY_X[1])
        kept &= ~(inside_x & (np.abs(points[:, 1]) <= _OWN_BODY_Y))
    return sweep[kept]


def read_velocity(document: dict[str, Any], pose: Matrix, path: Path) -> NDArray[np.float64] | None:
    """(3,) metres per second in the map, along the LiDAR's x axis; None if the document has no speed.

    Raises:
        DatasetError: if the speed is not a number of km/h.
    """
    speed = document.get('ego_speed')
    if speed is None:
        return None
    with located(f'{path}: ego_speed, km/h'):
        metres = number(speed, -_FASTEST, _FASTEST) / 3.6
    yaw = yaw_of(pose)
    return metres * np.array([np.cos(yaw), np.sin(yaw), 0.0])


def is_vehicle(kind: object) -> bool:
    """Whether the name of an object's type, such as PoliceCar or concrete_truck, is that of a vehicle."""
    words = re.findall('[A-Z]?[a-z]+|[A-Z]+', kind) if isinstance(kind, str) else ['vehicle']
    return not _VEHICLE_WORDS.isdisjoint(word.lower() for word in words)


def read_objects(
    document: dict[str, Any],
    path: Path,
    id_of: Callable[[Any, dict[str, Any]], int] = lambda key, entry: integer(key),
) -> Objects:
    """The vehicles that a document lists, in the coordinates of OPV2V.

    Objects that are not vehicles by their `obj_type` or `class`, where an entry has one, are ignored. Those
    with an extent of 0, as CARLA writes it for two-wheelers, are counted as left out.

    Args:
        document: of a frame.
        path: of the document.
        id_of: the id of an entry and its key.

    Raises:
        DatasetError: if an entry is not a box.
    """
    listed = document.get('vehicles') or {}
    if not isinstance(listed, dict):
        raise DatasetError(f'{path}: vehicles: expected a mapping, got {type(listed).__name__}')
    objects = Objects()
    for key, entry in listed.items():
        with located(f'{path}: vehicle {shown(key)}'):
            if not isinstance(entry, dict):
                raise ValueError(f'expected a mapping, got {type(entry).__name__}')
            kind = entry.get('obj_type', entry.get('class'))
            if kind is not None and not is_vehicle(kind):
                continue
            extent, *placed = (numbers(entry[name], 3) for name in ('extent', 'location', 'center', 'angle'))
            if (extent < 0).any() or (extent > _LARGEST_EXTENT).any():
                raise ValueError(f'extent must be in [0, {_LARGEST_EXTENT:g}] m, got {extent.tolist()}')
            if not extent.all():
                objects.left_out[NO_SIZE] += 1
                continue
            track, count = id_of(key, entry), entry.get('num_points')
            if count is not None and not (type(count) is int and 0 <= count < 2**63):
                raise ValueError(f'num_points must be a count, got {shown(count)}')
            objects.boxes[track] = box_from_carla(*(part.tolist() for part in (*placed, extent)))
            objects.returns[track] = count
    return objects


def union(listings: Iterable[dict[int, Any]]) -> dict[int, Any]:
    """What several agents list, by ascending id. If several list an id, the first one counts."""
    merged: dict[int, Any] = {}
    for listing in listings:
        merged = listing | merged
    return dict(sorted(merged.items()))


def truth_of(boxes: dict[int, Box], num_points: NDArray[np.int64] | None = None) -> Boxes3D:
    """Ground truth of boxes by id."""
    ids = np.array(list(boxes), np.int64)
    return Boxes3D(np.array(list(boxes.values())).reshape(-1, 7), track_ids=ids, num_points=num_points)


def seconds_per_step(document: dict[str, Any], path: Path) -> float | None:
    """Simulation step of a `data_protocol.yaml`, seconds; None if it is not recorded.

    Raises:
        DatasetError: if it is not a positive number.
    """
    world = document.get('world')
    step = world.get('fixed_delta_seconds') if isinstance(world, dict) else None
    if step is None:
        return None
    with located(f'{path}: world.fixed_delta_seconds'):
        return number(step, 1e-6, _LONGEST_STEP)
