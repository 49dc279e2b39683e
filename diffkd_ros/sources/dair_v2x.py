# SPDX-License-Identifier: Apache-2.0
"""Reads the cooperative part of DAIR-V2X-C: one vehicle and one road-side unit, both real.

The folder holds `vehicle-side`, `infrastructure-side` and `cooperative`. `cooperative/data_info.json` lists
pairs of clouds, and each side's own `data_info.json` the times at which they were taken. Poses are products
of the transforms in calibration files; ground truth is read from `cooperative/label_world`. All coordinates
are right-handed and in metres. Images and single-side labels are not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.documents import integer, numbers, read_json, shown
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import corners
from diffkd_ros.geometry.poses import Matrix, rigid
from diffkd_ros.sources.dataset import NO_SIZE, DatasetError, located, raised, returns_within, vehicle_at
from diffkd_ros.sources.pcd import read_pcd, unit_intensity, xyz

VEHICLE = 1
INFRASTRUCTURE = -1
TYPES = ('car', 'truck', 'van', 'bus')  # all of them class 0, `vehicle`
ORIGINAL = 'original'
"""Stands for the original labels in place of a folder."""

_BACKUP = 'label_world_backup'
_WRAPPER = 'cooperative-vehicle-infrastructure'
_SIDES = {VEHICLE: 'vehicle', INFRASTRUCTURE: 'infrastructure'}
# Calibrations whose product is map <- LiDAR.
_LINKS = {VEHICLE: ('novatel_to_world', 'lidar_to_novatel'), INFRASTRUCTURE: ('virtuallidar_to_world',)}
# Metres. A label is an upright box in a LiDAR's frame, hence tilted with the vehicle in the map: 3 degrees
# move the corners of a bus by 0.3 m. Corners in another order than the format's are off by a car's width.
_CORNER_TOLERANCE = 1.0


@dataclass(frozen=True, slots=True)
class _Pair:
    """The files of a cooperative frame."""

    frame: str  # number of the vehicle's cloud
    clouds: Mapping[int, Path]
    calibrations: Mapping[int, tuple[Path, ...]]  # factors of map <- LiDAR
    labels: Path
    offset: Any  # as recorded
    time: Any  # of the vehicle's cloud, as recorded
    scenario: str


class DairV2xDataset:
    """Cooperative frames of DAIR-V2X-C, by segment (`batch_id`) and frame number; a `FrameDataset`.

    The vehicle is agent 1 and the ego; the road-side unit is agent -1. Poses are map <- LiDAR, where the map
    is the set's `world`:

    - vehicle: novatel_to_world · lidar_to_novatel,
    - infrastructure: virtuallidar_to_world, its translation shifted by the frame's `system_error_offset`,
      which is empty, and counts as zero, for frames that were not corrected by hand.

    The two clouds were taken at different instants. A frame's stamp is that of the vehicle's cloud; the
    difference is not compensated. Rows with NaN are removed. Intensities are bytes, which are scaled to
    [0, 1], or in this range already, as those of the road-side unit. Sweeps have no rings, since the
    road-side cloud is not ordered by them.

    Ground truth are the labelled cars, trucks, vans and buses, all of class 0. The set does not track
    vehicles, so track ids only number the boxes of one frame, from 2. A box around the vehicle's LiDAR is the
    vehicle itself and gets its id, 1.

    Args:
        root: folder of the three sides, or the folder that holds it under its published name.
        split_file: a JSON file with vehicle frame numbers: a list, or the set's own
            `cooperative-split-data.json` with a list per split. All frames by default.
        split: name of a list of the latter: train, val, ...
        labels: folder with `<vehicle frame>.json` used instead of `cooperative/label_world`, for example the
            complemented labels of the CoAlign project; or `original` for the labels of the data set itself,
            which are in `cooperative/label_world_backup` where the complemented ones have replaced them.

    Raises:
        DatasetError: if the folder is not a DAIR-V2X-C set, or an index file or the split is missing or
            damaged.
    """

    def __init__(
        self,
        root: str | Path,
        split_file: str | Path | None = None,
        split: str | None = None,
        labels: str | Path | None = None,
    ) -> None:
        root = Path(root)
        self.root = root / _WRAPPER if (root / _WRAPPER).is_dir() else root
        parts = ('vehicle-side', 'infrastructure-side', 'cooperative')
        if missing := [name for name in parts if not (self.root / name).is_dir()]:
            raise DatasetError(f'{root}: not a folder of DAIR-V2X-C: has no {", ".join(missing)}')
        if labels is not None:
            labels = _original(self.root) if str(labels) == ORIGINAL else Path(labels)
            if not labels.is_dir():
                raise DatasetError(f'{labels}: not a folder of labels')
        if split is not None and split_file is None:
            raise DatasetError(f'split {split!r} needs a split file')
        wanted = None if split_file is None else _split(Path(split_file), split)
        self._pairs = _pairs(self.root, wanted, labels)
        if not self._pairs:
            raise DatasetError(f'{root}: holds no cooperative frame, or none of the split')
        names = [pair.scenario for pair in self._pairs]
        self._starts = {name: names.index(name) for name in dict.fromkeys(names)}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> CoopFrame:
        pair = self._pairs[index]
        agents = {agent: AgentSweep(_cloud(pair.clouds[agent]), _pose(pair, agent)) for agent in _SIDES}
        boxes, left_out = _labels(pair.labels)
        truth = _ground_truth(boxes, agents)
        position = index % len(self) - self._starts[pair.scenario]
        return CoopFrame(agents, VEHICLE, _stamp(pair), truth, pair.scenario, position, left_out)

    def scenarios(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each segment, in order."""
        ends = [*self._starts.values(), len(self)][1:]
        return [
            (name, range(start, end)) for (name, start), end in zip(self._starts.items(), ends, strict=True)
        ]

    def files(self, rows: range) -> set[Path]:
        """The vehicle's cloud of each of these frames."""
        return {self._pairs[row].clouds[VEHICLE].resolve() for row in rows}

    def problems(self, index: int) -> list[DatasetError]:
        """The error of each file of a frame."""
        pair = self._pairs[index]
        reads: list[Callable[[], object]] = []
        for agent in _SIDES:
            reads.append(partial(_cloud, pair.clouds[agent]))
            reads += [partial(_calibration, path) for path in pair.calibrations[agent]]
        reads += [partial(_offset, pair), partial(_labels, pair.labels), partial(_stamp, pair)]
        return [error for read in reads if (error := raised(read))]

    def strays(self) -> Iterator[DatasetError]:
        """Nothing, since the two sides regularly hold more clouds than the frames use."""
        return iter(())


def _json(path: Path) -> Any:
    with located(path):
        return read_json(path)


def _original(root: Path) -> Path:
    """Folder of the labels of the data set itself."""
    backup = root / 'cooperative' / _BACKUP
    return backup if backup.is_dir() else backup.with_name('label_world')


def _split(path: Path, split: str | None) -> frozenset[str]:
    document = _json(path)
    if isinstance(document, dict):
        splits = document.get('cooperative_split', document)
        if not isinstance(splits, dict) or split not in splits:
            known = ', '.join(splits) if isinstance(splits, dict) else 'none'
            raise DatasetError(f'{path}: has no split {split!r}; it has {known}')
        document = splits[split]
    if not isinstance(document, list) or not all(isinstance(frame, str) for frame in document):
        raise DatasetError(f'{path}: expected a list of vehicle frame numbers, got {document!r:.80}')
    return frozenset(document)


def _side(root: Path, side: str) -> dict[str, dict[str, Any]]:
    """A side's index by frame number."""
    path = root / f'{side}-side' / 'data_info.json'
    entries = _json(path)
    with located(f'{path}: expected a list of entries with a pointcloud_path'):
        return {Path(entry['pointcloud_path']).stem: entry for entry in entries}


def _pairs(root: Path, wanted: frozenset[str] | None, labels: Path | None) -> list[_Pair]:
    path = root / 'cooperative' / 'data_info.json'
    sides = {agent: _side(root, name) for agent, name in _SIDES.items()}
    pairs = []
    entries = _json(path)
    with located(
        f'{path}: expected a list of entries with vehicle_pointcloud_path, infrastructure_pointcloud_path '
        'and cooperative_label_path'
    ):
        for entry in entries:
            clouds = {
                agent: root / _inside(entry[f'{name}_pointcloud_path']) for agent, name in _SIDES.items()
            }
            frame = clouds[VEHICLE].stem
            if wanted is not None and frame not in wanted:
                continue
            label = root / _inside(entry['cooperative_label_path'])
            own = {agent: sides[agent].get(cloud.stem, {}) for agent, cloud in clouds.items()}
            pair = _Pair(
                frame,
                clouds,
                {agent: _chain(root, agent, own[agent], cloud.stem) for agent, cloud in clouds.items()},
                label if labels is None else labels / label.name,
                entry.get('system_error_offset', ''),
                own[VEHICLE].get('pointcloud_timestamp'),
                _scenario(own[VEHICLE].get('batch_id', 'unknown')),
            )
            pairs.append(pair)
    if wanted is not None and (absent := wanted - {pair.frame for pair in pairs}):
        raise DatasetError(
            f"{path}: lacks {len(absent)} of the split's {len(wanted)} frames, for example {min(absent)}"
        )
    return sorted(pairs, key=lambda pair: (len(pair.scenario), pair.scenario, pair.frame))


def _inside(path: Any) -> str:
    """A path that stays in the folder of the set."""
    if not isinstance(path, str) or '..' in PurePosixPath(path).parts or path.startswith('/'):
        raise ValueError(f'not a path in the set: {shown(path)}')
    return path


def _scenario(batch: Any) -> str:
    """The name of a segment, which is also used for files of results."""
    if not re.fullmatch(r'[\w.-]{1,64}', str(batch)):
        raise ValueError(f'not a batch_id: {shown(batch)}')
    return f'batch_{batch}'


def _chain(root: Path, agent: int, entry: dict[str, Any], frame: str) -> tuple[Path, ...]:
    """An agent's calibration files: those named by the index, else those at the usual place of the format."""
    folder = root / f'{_SIDES[agent]}-side'
    return tuple(
        folder / _inside(entry.get(f'calib_{link}_path', f'calib/{link}/{frame}.json'))
        for link in _LINKS[agent]
    )


def _pose(pair: _Pair, agent: int) -> Matrix:
    """(4, 4) map <- LiDAR."""
    pose = np.eye(4)
    for path in pair.calibrations[agent]:
        pose = pose @ _calibration(path)
    if agent == INFRASTRUCTURE:
        pose[:2, 3] += _offset(pair)
    return pose


def _offset(pair: _Pair) -> NDArray[np.float64]:
    """(2,) correction of the road-side unit's recorded position, metres in the map."""
    if pair.offset == '':
        return np.zeros(2)
    with located(
        f'cooperative/data_info.json: vehicle frame {pair.frame}: system_error_offset: '
        f'expected delta_x and delta_y, got {shown(pair.offset)}'
    ):
        return numbers([pair.offset[name] for name in ('delta_x', 'delta_y')], 2)


def _calibration(path: Path) -> Matrix:
    """The transform of a calibration file; its rotation, recorded with few digits, is orthonormalised."""
    document = _json(path)
    if isinstance(document, dict):
        document = document.get('transform', document)
    with located(f'{path}: expected a rotation and a translation'):
        pose = np.eye(4)
        pose[:3, :3] = numbers(document['rotation'], 3, 3)
        # A column or a row.
        parts = [
            part for row in document['translation'] for part in (row if isinstance(row, list) else [row])
        ]
        pose[:3, 3] = numbers(parts, 3)
        return rigid(pose)


def _cloud(path: Path) -> NDArray[np.float32]:
    """(n, 4) points of a file, without the rows that hold NaN, intensity in [0, 1]."""
    columns = read_pcd(path)
    if 'intensity' not in columns:
        raise DatasetError(f'{path}: needs a field intensity, has {list(columns)}')
    points = xyz(columns)
    with located(path):
        points[:, 3] = unit_intensity(columns['intensity'])
    return points[np.isfinite(points).all(axis=1)]


def _labels(path: Path) -> tuple[NDArray[np.float64], dict[str, int]]:
    """(n, 7) boxes in the map of a label file's vehicles, and what is left out, with counts."""
    entries = _json(path)
    if not isinstance(entries, list):
        raise DatasetError(f'{path}: expected a list of objects, got {type(entries).__name__}')
    boxes, left_out = [], Counter[str]()
    for k, entry in enumerate(entries):
        with located(f'{path}: object {k}'):
            if str(entry['type']).lower() in TYPES:
                if (box := _box(entry['world_8_points'])) is None:
                    left_out[NO_SIZE] += 1
                else:
                    boxes.append(box)
    return np.array(boxes).reshape(-1, 7), dict(left_out)


def _box(values: Any) -> NDArray[np.float64] | None:
    """(7,) upright box of eight corners (8, 3); None if it has no size.

    Four corners of the lower or upper face, then the same four of the other; in each face the front two, then
    the rear two, in order around it. The original labels start at the lower front left; complemented labels
    may go around in the other direction.
    """
    try:
        points = numbers(values, 8, 3)
    except DiffkdError as problem:
        raise ValueError(f'world_8_points must be eight finite corners: {problem}') from problem
    faces = points.reshape(2, 4, 3)
    forward = (faces[:, 0] + faces[:, 1] - faces[:, 2] - faces[:, 3]).mean(axis=0) / 2
    aside = (faces[:, 0] + faces[:, 3] - faces[:, 1] - faces[:, 2]).mean(axis=0) / 2
    up = (faces[1] - faces[0]).mean(axis=0)
    size = np.linalg.norm([forward, aside, up], axis=1)
    if size.min() < 1e-3:
        return None
    box = np.array([*points.mean(axis=0), *size, np.arctan2(forward[1], forward[0])])
    begins_left = forward[0] * aside[1] - forward[1] * aside[0] > 0
    expected = corners(box[None])[0].reshape(2, 4, 3)[:, [0, 3, 2, 1] if begins_left else [3, 0, 1, 2]]
    if up[2] < 0:
        expected = expected[::-1]
    if (error := np.linalg.norm(expected - faces, axis=2).max()) > _CORNER_TOLERANCE:
        raise ValueError(f'world_8_points are off an upright box by {error:.2f} m: {points.tolist()}')
    return box


def _ground_truth(boxes: NDArray[np.float64], agents: Mapping[int, AgentSweep]) -> Boxes3D:
    """The boxes with ids and the number of returns inside each."""
    ids = np.arange(2, 2 + len(boxes))
    own = vehicle_at(boxes, agents[VEHICLE].pose[:2, 3])
    if own is not None:
        ids[own] = VEHICLE
    return Boxes3D(boxes, track_ids=ids, num_points=returns_within(boxes, ids, agents))


def _stamp(pair: _Pair) -> int:
    """Nanoseconds, from microseconds recorded as text."""
    with located(
        f'vehicle-side/data_info.json: frame {pair.frame}: pointcloud_timestamp: '
        f'expected microseconds, got {shown(pair.time)}'
    ):
        return 1000 * integer(pair.time, 0, 2**63 // 1000)
