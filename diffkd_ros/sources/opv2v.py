# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the folder layout of the OPV2V data set.

A set is a folder of splits (`SPLITS`), a split one of drives, and a drive has a `data_protocol.yaml` and
`<agent id>/<6-digit number>.{pcd,yaml}`; the number counts simulation steps. Everything in it is in CARLA's
left-handed convention and degrees, and is converted here, nowhere else. The cloud's intensity stands in a
field `intensity` or, as Open3D writes it, in the red channel of `rgb`. Cameras and planned trajectories are
not read.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from numpy.typing import NDArray
from pypcd4 import Encoding, PointCloud

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import count_points, transform_boxes
from diffkd_ros.geometry.carla import (
    box_from_carla,
    box_to_carla,
    flip_points,
    pose_from_carla,
    pose_to_carla,
)
from diffkd_ros.geometry.poses import Matrix, PoseError, inverse, transform_points, yaw_of
from diffkd_ros.sources.dataset import DatasetError, raised
from diffkd_ros.sources.pcd import PcdError, read_pcd, xyz

SPLITS = ('train', 'validate', 'test', 'test_culvercity')
COMMUNICATION_RANGE = 70.0
PoseSource = Literal['lidar_pose', 'true_ego_pos', 'predicted_ego_pos']
_FRAME_INTERVAL = 0.1  # seconds: the data set's 10 Hz, for a drive that does not tell its step
_OWN_BODY_X = (-1.95, 2.95)
_OWN_BODY_Y = 1.1
_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


class Opv2vError(DatasetError):
    """A folder or file that is not laid out as OPV2V has it; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class _Drive:
    folder: Path
    name: str
    ego: int
    frames: dict[int, frozenset[int]]  # agent -> the numbers of its yaml files
    clouds: dict[int, frozenset[int]]  # agent -> the numbers of its pcd files
    numbers: tuple[int, ...]  # the ego's frames, ascending


class Opv2vDataset:
    """Cooperative frames of a set, drive after drive; folders are listed now, files read when asked for.

    The ego is the vehicle whose folder comes first by name (road-side units have negative ids), as the
    published loaders have it: 1007 before 962. Agents out of `communication_range` of the ego are left out of
    a frame, as the published protocol has it, and ground truth is the union of the vehicles that the
    remaining agents' files list. An agent's own vehicle stands in the other agents' files only, so an ego
    alone has no box of its own. Returns within a car's length of a vehicle's sensor are removed: in the data
    set they lie on its own body.

    A scenario is named as its folder; folders of one name in several splits, as `split.folder`.

    Where an agent is stands in its files three times, and `pose` says which one places its cloud:

    - `lidar_pose`: the simulator's exact pose of the LiDAR.
    - `true_ego_pos`: the simulator's exact pose of the vehicle (of the unit, at the road side), whose origin
      is on the ground. Carried to the LiDAR by the mounting, which is true_ego_pos^-1 lidar_pose, it gives
      `lidar_pose` again.
    - `predicted_ego_pos`: the same pose as the vehicle's own localisation (satellites, inertia) had it, with
      its errors; carried to the LiDAR by that mounting. The frame's map is then the one that the ego takes
      for true: ground truth moves along with the ego's error, so in the ego's LiDAR frame it stays exact,
      and the neighbours are off by their error against the ego's. Files of drives recorded without
      localisation errors repeat `true_ego_pos`.

    Returns on a vehicle are those in its box, unless `write_opv2v` has noted how many there are and no agent
    is out of range. Who is in range, and which returns lie on a box, is told by the exact poses in each case.

    Args:
        root: the set's root, which holds splits, or a split, which holds drives.
        communication_range: metres between the sensors, in the map's plane.
        split: the only one to read under a set's root, one of `SPLITS`; all of them by default.
        pose: which of the recorded poses places the clouds.

    Raises:
        Opv2vError: if root is no folder, holds no drive or no such split, or `pose` is none of the three.
    """

    def __init__(
        self,
        root: str | Path,
        communication_range: float = COMMUNICATION_RANGE,
        split: str | None = None,
        pose: PoseSource = 'lidar_pose',
    ) -> None:
        self.root = Path(root)
        self.communication_range = communication_range
        if pose not in get_args(PoseSource):
            raise Opv2vError(f'pose must be one of {", ".join(get_args(PoseSource))}, got {pose!r}')
        self.pose = pose
        if not self.root.is_dir():
            raise Opv2vError(f'{self.root}: not a folder')
        if split is not None and not (split in SPLITS and (self.root / split).is_dir()):
            raise Opv2vError(f'{self.root}: has no split {split!r}; known are {", ".join(SPLITS)}')
        self._drives: list[_Drive] = []
        self._not_drives: list[Path] = []
        for folder in _subfolders(self.root if split is None else self.root / split):
            if folder.name in SPLITS and split is None:
                for inner in _subfolders(folder):
                    self._add(inner)
            else:
                self._add(folder)
        self._drives = _named_apart(self._drives)
        self._index = [(drive, k) for drive in self._drives for k in range(len(drive.numbers))]
        if not self._index:
            raise Opv2vError(f'{self.root}: holds no <scenario>/<agent id>/<6-digit number>.yaml')
        self._steps: dict[Path, float] = {}

    def _add(self, folder: Path) -> None:
        drive = _index_drive(folder)
        if drive is None:
            self._not_drives.append(folder)
        else:
            self._drives.append(drive)

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
        paths = {agent: _path(drive.folder, agent, number, 'yaml') for agent in documents}
        exact = {agent: _pose(documents[agent], 'lidar_pose', paths[agent]) for agent in documents}
        ego_xy = exact[drive.ego][:2, 3]
        heard = [
            agent
            for agent in sorted(documents)
            if np.hypot(*(exact[agent][:2, 3] - ego_xy)) <= self.communication_range
        ]
        agents = {
            agent: _read_sweep(drive.folder, agent, number, exact[agent], documents[agent]) for agent in heard
        }
        truth = _ground_truth({paths[agent]: documents[agent] for agent in heard}, agents)
        if len(heard) == len(documents) and (counts := _recorded_counts(truth, documents, paths)) is not None:
            truth = replace(truth, num_points=counts)
        if self.pose != 'lidar_pose':
            believed = {a: self._believed(documents[a], exact[a], paths[a]) for a in heard}
            moved = believed[drive.ego] @ inverse(exact[drive.ego])
            truth = truth.with_boxes(transform_boxes(moved, truth.boxes))
            agents = {agent: replace(sweep, pose=believed[agent]) for agent, sweep in agents.items()}
        stamp = round((number - drive.numbers[0]) * self._step(drive) * 1e9)
        return CoopFrame(agents, drive.ego, stamp, truth, drive.name, position)

    def drives(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each drive, in order."""
        ends = accumulate(len(drive.numbers) for drive in self._drives)
        return [
            (drive.name, range(end - len(drive.numbers), end))
            for drive, end in zip(self._drives, ends, strict=True)
        ]

    def files(self, rows: range) -> set[Path]:
        """The ego's description of each of these frames."""
        taken = (self._index[row] for row in rows)
        return {
            _path(drive.folder, drive.ego, drive.numbers[position], 'yaml').resolve()
            for drive, position in taken
        }

    def problems(self, index: int) -> list[DatasetError]:
        """What is wrong with each file of a frame, the files of agents out of range included."""
        drive, position = self._index[index]
        number = drive.numbers[position]
        reads: list[Callable[[], object]] = [partial(self._step, drive)]
        for agent in sorted(agent for agent, numbers in drive.frames.items() if number in numbers):
            reads.append(partial(self._read_document, _path(drive.folder, agent, number, 'yaml')))
            reads.append(partial(_read_sweep, drive.folder, agent, number, np.eye(4), {}))
        return [error for read in reads if (error := raised(read))]

    def _read_document(self, path: Path) -> None:
        """Read all that a frame's yaml file is used for."""
        document = _read_yaml(path)
        self._believed(document, _pose(document, 'lidar_pose', path), path)
        _velocity(document, np.eye(4), path)
        _vehicles(path, document)

    def strays(self) -> Iterator[DatasetError]:
        """Folders that are no drives, clouds without a yaml file, and what the ego has no frame for."""
        for folder in self._not_drives:
            yield Opv2vError(f'{folder}: not a drive: holds no <agent id>/<6-digit number>.yaml of a vehicle')
        for drive in self._drives:
            own = drive.frames[drive.ego]
            for agent, clouds in drive.clouds.items():
                yaml_files = drive.frames.get(agent, frozenset())
                for number in sorted(clouds - yaml_files):
                    path = _path(drive.folder, agent, number, 'pcd')
                    yield Opv2vError(f'{path}: in no frame: {number:06d}.yaml is missing beside it')
                for number in sorted(yaml_files - own):
                    path = _path(drive.folder, agent, number, 'yaml')
                    yield Opv2vError(
                        f'{path}: in no frame: the ego, agent {drive.ego}, has no {number:06d}.yaml'
                    )

    def _believed(self, document: dict[str, Any], exact: Matrix, path: Path) -> Matrix:
        """Map <- LiDAR by the chosen one of the recorded poses."""
        if self.pose == 'lidar_pose':
            return exact
        mounting = inverse(_pose(document, 'true_ego_pos', path)) @ exact
        return _pose(document, self.pose, path) @ mounting

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
    their own. A vehicle's number of returns, where known, becomes the key `num_points` of its entry, which
    the data set does not have. Planned trajectories, cameras and the vehicles' speeds are not written: a
    frame does not hold them.

    Raises:
        Opv2vError: if a frame has no ground truth or no track ids, its scenario is no plain folder name, its
            ego would not be read as such, or a drive's frames are not evenly spaced in time.
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
        if (first_by_name := _ego(frame.agents)) != frame.ego:
            raise Opv2vError(f'{where}: agent {first_by_name} would be read as the ego, which is {frame.ego}')
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
                    | ({} if truth.num_points is None else {'num_points': int(truth.num_points[k])})
                    for k, (track, box) in enumerate(zip(truth.track_ids, truth.boxes, strict=True))
                    if track != agent
                },
            }
            _write_yaml(_path(root / frame.scenario, agent, frame.index, 'yaml'), document)
    for scenario in first:
        step = interval.get(scenario, _FRAME_INTERVAL)
        _write_yaml(root / scenario / 'data_protocol.yaml', {'world': {'fixed_delta_seconds': step}})


def _path(folder: Path, agent: int, number: int, suffix: str) -> Path:
    return folder / str(agent) / f'{number:06d}.{suffix}'


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir())


def _index_drive(folder: Path) -> _Drive | None:
    """List a drive's files; None for a folder without a vehicle's frames."""
    frames, clouds = {}, {}
    for path in _subfolders(folder):
        if not path.name.removeprefix('-').isdecimal():
            continue
        numbers: dict[str, set[int]] = {'.yaml': set(), '.pcd': set()}
        for name in os.listdir(path):
            stem, suffix = os.path.splitext(name)
            if suffix in numbers and stem.isdecimal():
                numbers[suffix].add(int(stem))
        agent = int(path.name)
        if numbers['.yaml']:
            frames[agent] = frozenset(numbers['.yaml'])
        clouds[agent] = frozenset(numbers['.pcd'])
    ego = _ego(frames)
    if ego is None:
        return None
    return _Drive(folder, folder.name, ego, frames, clouds, tuple(sorted(frames[ego])))


def _ego(agents: Iterable[int]) -> int | None:
    """The first vehicle, sorted by the names of their folders; None without any."""
    return min((agent for agent in agents if agent >= 0), key=str, default=None)


def _named_apart(drives: list[_Drive]) -> list[_Drive]:
    """The drives, with the split before the name where several have the same."""
    times = Counter(drive.name for drive in drives)
    return [
        replace(drive, name=f'{drive.folder.parent.name}.{drive.name}') if times[drive.name] > 1 else drive
        for drive in drives
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open('rb') as file:
            document = yaml.load(file, _LOADER)
    except (DiffkdError, OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise Opv2vError(f'{path}: {error}') from error
    if not isinstance(document, dict):
        raise Opv2vError(f'{path}: expected a mapping, got {type(document).__name__}')
    return document


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    with path.open('w', encoding='utf-8') as file:
        yaml.dump(document, file, _DUMPER, sort_keys=False)


def _pose(document: dict[str, Any], name: str, path: Path) -> Matrix:
    values = document.get(name)
    try:
        if not isinstance(values, list) or len(values) != 6:
            raise ValueError(f'expected x, y, z, roll, yaw, pitch, got {values!r}')
        return pose_from_carla(*(float(value) for value in values))
    except (DiffkdError, PoseError, TypeError, ValueError) as error:
        raise Opv2vError(f'{path}: {name}: {error}') from error


def _read_sweep(folder: Path, agent: int, number: int, pose: Matrix, document: dict[str, Any]) -> AgentSweep:
    path = _path(folder, agent, number, 'pcd')
    try:
        columns = read_pcd(path)
    except PcdError as error:
        raise Opv2vError(str(error)) from error
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
        _velocity(document, pose, path.with_suffix('.yaml')),
    )


def _velocity(document: dict[str, Any], pose: Matrix, path: Path) -> NDArray[np.float64] | None:
    """(3,) metres per second in the map, along the LiDAR's x axis; None if the file has no speed."""
    speed = document.get('ego_speed')
    if speed is None:
        return None
    if not isinstance(speed, int | float) or not math.isfinite(speed):
        raise Opv2vError(f'{path}: ego_speed must be km/h, got {speed!r}')
    yaw = yaw_of(pose)
    return speed / 3.6 * np.array([np.cos(yaw), np.sin(yaw), 0.0])


def _intensity(columns: dict[str, NDArray], path: Path) -> NDArray[np.float32]:
    """(n,) in [0, 1], from `intensity` (bytes are scaled) or the red channel of `rgb`."""
    if 'intensity' in columns:
        recorded = columns['intensity']
        intensity = recorded.astype(np.float32) / np.float32(255 if recorded.dtype == np.uint8 else 1)
    elif 'rgb' in columns and columns['rgb'].itemsize == 4:
        packed = np.ascontiguousarray(columns['rgb'])
        intensity = (packed.view(np.uint32) >> 16 & 0xFF) / np.float32(255)
    else:
        raise Opv2vError(f'{path}: needs a field intensity or rgb (of 4 bytes), has {list(columns)}')
    known = intensity[np.isfinite(intensity)]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise Opv2vError(f'{path}: intensity must lie in [0, 1], got {known.min():g} to {known.max():g}')
    return intensity


def _write_sweep(path: Path, sweep: AgentSweep) -> None:
    points = flip_points(sweep.points)
    red = np.round(255 * np.clip(points[:, 3], 0, 1)).astype(np.uint32)
    # The red channel is for the set's other readers, which know no other place; it holds 8 bits only.
    columns = [*points[:, :3].T, (red << 16).view(np.float32), points[:, 3]]
    fields = ['x', 'y', 'z', 'rgb', 'intensity']
    types: list[type[np.generic]] = [np.float32] * 5
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


def _recorded_counts(
    truth: Boxes3D, documents: dict[int, dict[str, Any]], paths: dict[int, Path]
) -> NDArray[np.int64] | None:
    """(n,) returns on each vehicle as noted by `write_opv2v`; None if they are not noted for all."""
    noted: dict[int, Any] = {}
    for agent, document in documents.items():
        for track, entry in (document.get('vehicles') or {}).items():
            count = noted.setdefault(int(track), entry.get('num_points'))
            if count is not None and not (isinstance(count, int) and 0 <= count < 2**63):
                raise Opv2vError(
                    f'{paths[agent]}: vehicle {track!r}: num_points must be a count, got {count!r}'
                )
    assert truth.track_ids is not None
    counts = [noted[track] for track in truth.track_ids.tolist()]
    return None if None in counts else np.array(counts, np.int64)


def _vehicles(path: Path, document: dict[str, Any]) -> dict[int, NDArray[np.float64]]:
    """Boxes (7,) in the map that a frame file lists, by id."""
    vehicles = document.get('vehicles') or {}
    if not isinstance(vehicles, dict):
        raise Opv2vError(f'{path}: vehicles: expected a mapping, got {type(vehicles).__name__}')
    boxes, track = {}, None
    try:
        for track, entry in vehicles.items():
            fields = [[float(v) for v in entry[name]] for name in ('location', 'center', 'angle', 'extent')]
            box = box_from_carla(*fields)
            if not (box[3:6] > 0).all():
                raise ValueError(f'extent must be above 0, got {entry["extent"]!r}')
            boxes[int(track)] = box
    except KeyError as error:
        raise Opv2vError(f'{path}: vehicle {track!r}: has no {error}') from error
    except (DiffkdError, TypeError, ValueError) as error:
        raise Opv2vError(f'{path}: vehicle {track!r}: {error}') from error
    return boxes
