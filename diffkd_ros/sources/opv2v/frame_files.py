# SPDX-License-Identifier: Apache-2.0
"""Contents of the files of one OPV2V frame, converted to right-handed coordinates, metres and radians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import AgentSweep, Boxes3D
from diffkd_ros.geometry.carla import box_from_carla, flip_points, pose_from_carla
from diffkd_ros.geometry.poses import Matrix, yaw_of
from diffkd_ros.sources.dataset import DatasetError, located, returns_within
from diffkd_ros.sources.pcd import read_pcd, xyz

_MAX_ID = 2**63 - 1
_MAX_STEP = 60.0
# Metres around a vehicle's LiDAR in which returns lie on the vehicle itself.
_OWN_BODY_X = (-1.95, 2.95)
_OWN_BODY_Y = 1.1


def read_pose(document: dict[str, Any], name: str, path: Path) -> Matrix:
    """(4, 4) pose in the map: entry `name` (x, y, z, roll, yaw, pitch) of a frame's document.

    Raises:
        DatasetError: if it is missing or not a pose.
    """
    values = document.get(name)
    with located(f'{path}: {name}'):
        if not isinstance(values, list) or len(values) != 6:
            raise ValueError(f'expected x, y, z, roll, yaw, pitch, got {values!r}')
        return pose_from_carla(*(float(value) for value in values))


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
    points[:, 3] = _intensity(columns, path)
    kept = np.isfinite(points).all(axis=1)
    if agent >= 0:
        inside_x = (points[:, 0] >= _OWN_BODY_X[0]) & (points[:, 0] <= _OWN_BODY_X[1])
        kept &= ~(inside_x & (np.abs(points[:, 1]) <= _OWN_BODY_Y))
    ring, time = columns.get('ring'), columns.get('time')
    return AgentSweep(
        points[kept],
        pose,
        None if ring is None else ring[kept].astype(np.uint16),
        None if time is None else time[kept].astype(np.float32),
        velocity,
    )


def _intensity(columns: dict[str, NDArray], path: Path) -> NDArray[np.float32]:
    """(n,) in [0, 1], from `intensity` (bytes are scaled) or the red channel of `rgb`."""
    if 'intensity' in columns:
        recorded = columns['intensity']
        intensity = recorded.astype(np.float32) / np.float32(255 if recorded.dtype == np.uint8 else 1)
    elif 'rgb' in columns and columns['rgb'].itemsize == 4:
        packed = np.ascontiguousarray(columns['rgb'])
        intensity = (packed.view(np.uint32) >> 16 & 0xFF) / np.float32(255)
    else:
        raise DatasetError(f'{path}: needs a field intensity or rgb (of 4 bytes), has {list(columns)}')
    known = intensity[np.isfinite(intensity)]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise DatasetError(f'{path}: intensity must lie in [0, 1], got {known.min():g} to {known.max():g}')
    return intensity


def read_velocity(document: dict[str, Any], pose: Matrix, path: Path) -> NDArray[np.float64] | None:
    """(3,) metres per second in the map, along the LiDAR's x axis; None if the document has no speed.

    Raises:
        DatasetError: if the speed is not a finite number of km/h.
    """
    speed = document.get('ego_speed')
    if speed is None:
        return None
    if not isinstance(speed, int | float) or not -1e6 < speed < 1e6:
        raise DatasetError(f'{path}: ego_speed must be km/h, got {speed!r:.80}')
    yaw = yaw_of(pose)
    return speed / 3.6 * np.array([np.cos(yaw), np.sin(yaw), 0.0])


def read_vehicles(document: dict[str, Any], path: Path) -> dict[int, NDArray[np.float64]]:
    """Boxes (7,) in the map that a document lists, by vehicle id.

    Raises:
        DatasetError: if an entry is not a box.
    """
    vehicles = document.get('vehicles') or {}
    if not isinstance(vehicles, dict):
        raise DatasetError(f'{path}: vehicles: expected a mapping, got {type(vehicles).__name__}')
    boxes = {}
    for track, entry in vehicles.items():
        with located(f'{path}: vehicle {track!r}'):
            fields = [[float(v) for v in entry[name]] for name in ('location', 'center', 'angle', 'extent')]
            box = box_from_carla(*fields)
            if not (box[3:6] > 0).all():
                raise ValueError(f'extent must be above 0, got {entry["extent"]!r}')
            if not (np.isfinite(box).all() and abs(int(track)) <= _MAX_ID):
                raise ValueError('expected an id of 64 bits and finite numbers')
            boxes[int(track)] = box
    return boxes


def ground_truth(documents: dict[Path, dict[str, Any]], agents: dict[int, AgentSweep]) -> Boxes3D:
    """Union of the listed vehicles by id, with the number of returns inside each box.

    If several documents list a vehicle, the first one counts. A return that noise has moved out of its box is
    not counted, nor is a return of a vehicle's own LiDAR.

    Args:
        documents: of the agents, by path.
        agents: sweeps by id.

    Raises:
        DatasetError: if an entry is not a box.
    """
    boxes: dict[int, NDArray[np.float64]] = {}
    for path, document in documents.items():
        for track, box in read_vehicles(document, path).items():
            boxes.setdefault(track, box)
    ids = np.array(sorted(boxes), np.int64)
    rows = np.array([boxes[track] for track in ids.tolist()]).reshape(-1, 7)
    return Boxes3D(rows, track_ids=ids, num_points=returns_within(rows, ids, agents))


def recorded_counts(truth: Boxes3D, documents: dict[Path, dict[str, Any]]) -> NDArray[np.int64] | None:
    """(n,) returns on each vehicle as recorded by `write_opv2v`; None unless recorded for all.

    Raises:
        DatasetError: if a recorded value is not a count.
    """
    recorded: dict[int, Any] = {}
    for path, document in documents.items():
        for track, entry in (document.get('vehicles') or {}).items():
            count = recorded.setdefault(int(track), entry.get('num_points'))
            if count is not None and not (isinstance(count, int) and 0 <= count < 2**63):
                raise DatasetError(f'{path}: vehicle {track!r}: num_points must be a count, got {count!r}')
    assert truth.track_ids is not None
    counts = [recorded[track] for track in truth.track_ids.tolist()]
    return None if None in counts else np.array(counts, np.int64)


def seconds_per_step(document: dict[str, Any], path: Path) -> float | None:
    """Simulation step of a `data_protocol.yaml`, seconds; None if it is not recorded.

    Raises:
        DatasetError: if it is not a positive number.
    """
    world = document.get('world')
    step = world.get('fixed_delta_seconds') if isinstance(world, dict) else None
    if step is None:
        return None
    if not isinstance(step, int | float) or not 0 < step <= _MAX_STEP:
        raise DatasetError(f'{path}: world.fixed_delta_seconds must be seconds in (0, 60], got {step!r:.80}')
    return float(step)
