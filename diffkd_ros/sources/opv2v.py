# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the folder layout of the OPV2V data set.

A set is a folder of drives, `<scenario>/<agent id>/<6-digit number>.{pcd,yaml}`, each drive with a
`data_protocol.yaml`; the number counts simulation steps. Everything in it is in CARLA's left-handed
convention and degrees, and is converted here, nowhere else. The cloud's intensity stands in a field
`intensity` or, as Open3D writes it, in the red channel of `rgb`. Cameras and planned trajectories are not
read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pypcd4 import Encoding, PointCloud

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import count_points
from diffkd_ros.geometry.carla import (
    box_from_carla,
    box_to_carla,
    flip_points,
    pose_from_carla,
    pose_to_carla,
)
from diffkd_ros.geometry.poses import PoseError, transform_points, yaw_of

COMMUNICATION_RANGE = 70.0
_FRAME_INTERVAL = 0.1  # seconds: the data set's 10 Hz, for a drive that does not tell its step
_OWN_BODY_X = (-1.95, 2.95)
_OWN_BODY_Y = 1.1
_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


class Opv2vError(ValueError):
    """A folder or file that is not laid out as OPV2V has it; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class _Drive:
    folder: Path
    ego: int
    frames: dict[int, frozenset[int]]  # agent -> its frame numbers
    numbers: tuple[int, ...]  # the ego's, ascending


class Opv2vDataset:
    """Cooperative frames of a set, drive after drive; files are read when a frame is asked for.

    The ego is the agent with the smallest id that is not negative (road-side units have negative ids). Agents
    out of `communication_range` of the ego are left out of a frame, as the published protocol has it, and
    ground truth is the union of the vehicles that the remaining agents' files list. An agent's own vehicle
    stands in the other agents' files only, so an ego alone has no box of its own. Returns within a car's
    length of a vehicle's sensor are removed: in the data set they lie on its own body.

    Args:
        root: the folder that holds the drives: `train`, `validate` or `test`, say.
        communication_range: metres between the sensors, in the map's plane.

    Raises:
        Opv2vError: if root is no folder or holds no drive.
    """

    def __init__(self, root: str | Path, communication_range: float = COMMUNICATION_RANGE) -> None:
        self.root = Path(root)
        self.communication_range = communication_range
        if not self.root.is_dir():
            raise Opv2vError(f'{self.root}: not a folder')
        self._drives = [
            drive for path in sorted(self.root.iterdir()) if path.is_dir() and (drive := _index_drive(path))
        ]
        self._index = [(drive, k) for drive in self._drives for k in range(len(drive.numbers))]
        if not self._index:
            raise Opv2vError(f'{self.root}: holds no <scenario>/<agent id>/<6-digit number>.yaml')
        self._steps: dict[Path, float] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> CoopFrame:
        """Read one frame.

        Raises:
            IndexError: if there is no such frame.
            Opv2vError: if one of its files is missing or damaged.
        """
        drive, position = self._index[index]
        number = drive.numbers[position]
        documents = {
            agent: _read_yaml(_path(drive.folder, agent, number, 'yaml'))
            for agent, numbers in drive.frames.items()
            if number in numbers
        }
        poses = {
            agent: _pose(documents[agent], _path(drive.folder, agent, number, 'yaml')) for agent in documents
        }
        ego_xy = poses[drive.ego][:2, 3]
        heard = [
            agent
            for agent in sorted(documents)
            if np.hypot(*(poses[agent][:2, 3] - ego_xy)) <= self.communication_range
        ]
        agents = {
            agent: _read_sweep(drive.folder, agent, number, poses[agent], documents[agent]) for agent in heard
        }
        truth = _ground_truth(
            {_path(drive.folder, agent, number, 'yaml'): documents[agent] for agent in heard}, agents
        )
        stamp = round((number - drive.numbers[0]) * self._step(drive) * 1e9)
        return CoopFrame(agents, drive.ego, stamp, truth, drive.folder.name, position)

    def _step(self, drive: _Drive) -> float:
        """Seconds between two numbers of a drive."""
        if drive.folder not in self._steps:
            path = drive.folder / 'data_protocol.yaml'
            world = _read_yaml(path).get('world') if path.is_file() else None
            step = world.get('fixed_delta_seconds') if isinstance(world, dict) else None
            if step is None:
                gaps = np.diff(drive.numbers)
                step = _FRAME_INTERVAL / (int(gaps.min()) if len(gaps) else 1)
            elif not isinstance(step, int | float) or not 0 < step < math.inf:
                raise Opv2vError(f'{path}: world.fixed_delta_seconds must be seconds above 0, got {step!r}')
            self._steps[drive.folder] = float(step)
        return self._steps[drive.folder]


def write_opv2v(frames: Iterable[CoopFrame], root: str | Path) -> None:
    """Write frames with ground truth in the layout `Opv2vDataset` reads, a drive per `CoopFrame.scenario`.

    Intensity goes to 8 bits in the red channel, as in the data set; `ring` and `time` follow as fields of
    their own. Planned trajectories, cameras and the vehicles' speeds are not written: a frame does not hold
    them.

    Raises:
        Opv2vError: if a frame has no ground truth or no track ids, its scenario is no plain folder name, or a
            drive's frames are not evenly spaced in time.
    """
    root = Path(root)
    first: dict[str, CoopFrame] = {}
    interval: dict[str, float] = {}
    for frame in frames:
        where = f'frame {frame.index} of scenario {frame.scenario!r}'
        if not frame.scenario or Path(frame.scenario).name != frame.scenario:
            raise Opv2vError(f'{where}: the scenario must be a plain folder name')
        truth = frame.ground_truth
        if truth is None or truth.track_ids is None:
            raise Opv2vError(f'{where}: ground truth with track ids is needed, got {truth!r}')
        start = first.setdefault(frame.scenario, frame)
        if frame.index != start.index:
            spacing = (frame.stamp - start.stamp) / (frame.index - start.index) / 1e9
            known = interval.setdefault(frame.scenario, spacing)
            if spacing <= 0 or abs(spacing - known) > 0.01 * known:
                raise Opv2vError(f'{where}: stamps {spacing:.6g} s apart, {known:.6g} s before')
        for agent, sweep in frame.agents.items():
            (root / frame.scenario / str(agent)).mkdir(parents=True, exist_ok=True)
            _write_sweep(_path(root / frame.scenario, agent, frame.index, 'pcd'), sweep)
            pose = pose_to_carla(sweep.pose)
            speed = 0.0 if sweep.velocity is None else 3.6 * float(np.linalg.norm(sweep.velocity))
            document = {
                'lidar_pose': pose,
                'true_ego_pos': list(pose),
                'predicted_ego_pos': list(pose),
                'ego_speed': speed,
                'vehicles': {
                    int(track): dict(box_to_carla(box))
                    for track, box in zip(truth.track_ids, truth.boxes, strict=True)
                    if track != agent
                },
            }
            _write_yaml(_path(root / frame.scenario, agent, frame.index, 'yaml'), document)
    for scenario in first:
        step = interval.get(scenario, _FRAME_INTERVAL)
        _write_yaml(root / scenario / 'data_protocol.yaml', {'world': {'fixed_delta_seconds': step}})


def _path(folder: Path, agent: int, number: int, suffix: str) -> Path:
    return folder / str(agent) / f'{number:06d}.{suffix}'


def _index_drive(folder: Path) -> _Drive | None:
    """List a drive's files; None for a folder without agents."""
    frames = {}
    for path in folder.iterdir():
        if path.is_dir() and path.name.removeprefix('-').isdigit():
            numbers = frozenset(
                int(file.stem) for file in path.iterdir() if file.suffix == '.yaml' and file.stem.isdigit()
            )
            if numbers:
                frames[int(path.name)] = numbers
    vehicles = [agent for agent in frames if agent >= 0]
    if not vehicles:
        return None
    ego = min(vehicles)
    return _Drive(folder, ego, frames, tuple(sorted(frames[ego])))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open('rb') as file:
            document = yaml.load(file, _LOADER)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise Opv2vError(f'{path}: {error}') from error
    if not isinstance(document, dict):
        raise Opv2vError(f'{path}: expected a mapping, got {type(document).__name__}')
    return document


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    with path.open('w', encoding='utf-8') as file:
        yaml.dump(document, file, _DUMPER, sort_keys=False)


def _pose(document: dict[str, Any], path: Path) -> NDArray[np.float64]:
    values = document.get('lidar_pose')
    try:
        if not isinstance(values, list) or len(values) != 6:
            raise ValueError(f'expected x, y, z, roll, yaw, pitch, got {values!r}')
        pose = pose_from_carla(*(float(value) for value in values))
        if not np.isfinite(pose).all():
            raise ValueError(f'not finite: {values!r}')
    except (PoseError, TypeError, ValueError) as error:
        raise Opv2vError(f'{path}: lidar_pose: {error}') from error
    return pose


def _read_sweep(
    folder: Path, agent: int, number: int, pose: NDArray[np.float64], document: dict[str, Any]
) -> AgentSweep:
    path = _path(folder, agent, number, 'pcd')
    columns = _read_pcd(path)
    points = flip_points(columns['points'])
    kept = np.isfinite(points).all(axis=1)
    if agent >= 0:
        inside_x = (points[:, 0] >= _OWN_BODY_X[0]) & (points[:, 0] <= _OWN_BODY_X[1])
        kept &= ~(inside_x & (np.abs(points[:, 1]) <= _OWN_BODY_Y))
    velocity = None
    speed = document.get('ego_speed')
    if isinstance(speed, int | float):
        yaw = yaw_of(pose)
        velocity = float(speed) / 3.6 * np.array([np.cos(yaw), np.sin(yaw), 0.0])
    ring, time = columns.get('ring'), columns.get('time')
    return AgentSweep(
        points[kept],
        pose,
        None if ring is None else ring[kept],
        None if time is None else time[kept],
        velocity,
    )


def _read_pcd(path: Path) -> dict[str, NDArray]:
    """Columns as they stand in a file: `points` (n, 4) float32, and `ring` and `time` if it has them."""
    try:
        cloud = PointCloud.from_path(path)
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, struct.error) as error:
        raise Opv2vError(f'{path}: not a readable point cloud: {error}') from error
    data, fields = np.atleast_1d(cloud.pc_data), cloud.fields
    if len(data) != cloud.points:
        raise Opv2vError(f'{path}: cut short: the header promises points that the file does not hold')
    missing = [name for name in ('x', 'y', 'z') if name not in fields]
    if missing or not {'intensity', 'rgb'} & set(fields):
        raise Opv2vError(f'{path}: needs fields x, y, z and intensity or rgb, has {list(fields)}')
    points = np.empty((len(data), 4), np.float32)
    for column, name in enumerate(('x', 'y', 'z')):
        points[:, column] = data[name]
    if 'intensity' in fields:
        points[:, 3] = data['intensity']
    else:
        packed = np.ascontiguousarray(data['rgb'])
        points[:, 3] = (packed.view(np.uint32) >> 16 & 0xFF) / np.float32(255)
    intensity = points[:, 3]
    if not (np.nan_to_num(intensity) >= 0).all() or not (np.nan_to_num(intensity) <= 1).all():
        raise Opv2vError(
            f'{path}: intensity must lie in [0, 1], got {intensity.min():g} to {intensity.max():g}'
        )
    columns: dict[str, NDArray] = {'points': points}
    for name, dtype in (('ring', np.uint16), ('time', np.float32)):
        if name in fields:
            columns[name] = data[name].astype(dtype)
    return columns


def _write_sweep(path: Path, sweep: AgentSweep) -> None:
    points = flip_points(sweep.points)
    red = np.round(255 * np.clip(points[:, 3], 0, 1)).astype(np.uint32)
    columns = [points[:, 0], points[:, 1], points[:, 2], (red << 16).view(np.float32)]
    fields = ['x', 'y', 'z', 'rgb']
    types: list[type[np.generic]] = [np.float32] * 4
    for name, dtype in (('ring', np.uint16), ('time', np.float32)):
        column = getattr(sweep, name)
        if column is not None:
            columns.append(column)
            fields.append(name)
            types.append(dtype)
    PointCloud.from_points(columns, fields, types).save(path, Encoding.BINARY)


def _ground_truth(documents: dict[Path, dict[str, Any]], agents: dict[int, AgentSweep]) -> Boxes3D:
    """Union of the listed vehicles by id, the first file's word counting, and the returns within each box.

    A return that its noise has moved out of the box is not counted, nor is one of a vehicle's own sensor.
    """
    boxes: dict[int, NDArray[np.float64]] = {}
    for path, document in documents.items():
        for track, box in _vehicles(path, document).items():
            boxes.setdefault(track, box)
    ids = np.array(sorted(boxes), np.int64)
    rows = np.array([boxes[track] for track in ids.tolist()]).reshape(-1, 7)
    counts = np.zeros(len(rows), np.int64)
    for agent, sweep in agents.items():
        seen = count_points(transform_points(sweep.pose, sweep.points), rows)
        counts += np.where(ids == agent, 0, seen)
    return Boxes3D(rows, track_ids=ids, num_points=counts)


def _vehicles(path: Path, document: dict[str, Any]) -> dict[int, NDArray[np.float64]]:
    """Boxes (7,) in the map that a frame file lists, by id."""
    vehicles = document.get('vehicles') or {}
    if not isinstance(vehicles, dict):
        raise Opv2vError(f'{path}: vehicles: expected a mapping, got {type(vehicles).__name__}')
    boxes, track = {}, None
    try:
        for track, entry in vehicles.items():
            fields = [[float(v) for v in entry[name]] for name in ('location', 'center', 'angle', 'extent')]
            boxes[int(track)] = box_from_carla(*fields)
    except KeyError as error:
        raise Opv2vError(f'{path}: vehicle {track!r}: has no {error}') from error
    except (TypeError, ValueError) as error:
        raise Opv2vError(f'{path}: vehicle {track!r}: {error}') from error
    return boxes
