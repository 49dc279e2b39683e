# SPDX-License-Identifier: Apache-2.0
"""Data sets in folders: point clouds, frame files, indices, calibrations and labels."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import lzf
import numpy as np
import yaml
from cases import Files, Reader, frames_of
from changes import changed, damaged, json_case, yaml_case
from public_sets import write_v2v4real_like, write_v2xreal_like
from recorded_sets import write_dair, write_opv2v_frame

from diffkd_ros.documents import read_yaml
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.sources.source import Source


class Sets(Reader):
    """Folders that are valid sets. A case is the folder's name and the files that differ."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.contents: dict[str, Files] = {}

    def keep(self, kind: str) -> None:
        """Note the files of the folder of this kind as valid."""
        root = self.folder / kind
        files = (path for path in root.rglob('*') if path.is_file())
        self.contents[kind] = {str(path.relative_to(root)): path.read_bytes() for path in files}

    def valid(self) -> list[Any]:
        return [(kind, {}) for kind in self.contents]

    def read(self, case: Any) -> Any:
        kind, files = case
        for path, data in files.items():
            (self.folder / kind / path).write_bytes(data)
        try:
            return self.open(kind)
        finally:
            for path in files:
                (self.folder / kind / path).write_bytes(self.contents[kind][path])

    def open(self, kind: str) -> Any:
        """Read a folder's frames."""
        return frames_of(Source(f'{kind}:{self.folder / kind}'))


class Pcd(Sets):
    """The clouds of an OPV2V and of a DAIR-V2X set."""

    places = ('opv2v', 'drive/1/000000.pcd'), ('dair', 'vehicle-side/velodyne/000009.pcd')

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_opv2v_frame(folder / 'opv2v' / 'drive', 1, 0, points=5)
        write_dair(folder / 'dair', (('000009', '000500', '7'),))
        for kind, _ in self.places:
            self.keep(kind)

    def case(self, rng: Random) -> Any:
        kind, place = rng.choice(self.places)
        header, table = _cloud(rng)
        body = _packed(header['DATA'][0], table, rng)
        if rng.random() < 0.7:
            header = changed(header, rng, rng.choice((1, 1, 2)))
            header = header if isinstance(header, dict) else {'VERSION': [header]}
        if rng.random() < 0.1:
            header = dict(sorted(header.items(), key=lambda item: rng.random()))
        if rng.random() < 0.4:
            body = damaged(body, rng, rng.choice((1, 2)))
        lines = ['# .PCD v0.7']
        for key, values in header.items():
            lines.append(' '.join(map(str, [key, *(values if isinstance(values, list) else [values])])))
        end = rng.choice(('\n', '\n', '\n', '\r\n'))
        data = (end.join(lines) + end).encode('utf-8', 'replace') + body
        return kind, {place: damaged(data, rng) if rng.random() < 0.15 else data}


def _cloud(rng: Random) -> tuple[dict[str, list[Any]], np.ndarray]:
    """A valid header and the points that it describes."""
    names = ['x', 'y', 'z', 'intensity', *rng.choice(([], ['ring', 'time'], ['rgb'], ['_', 'timestamp']))]
    kinds = {'intensity': rng.choice(('f4', 'u1')), 'ring': 'u2', 'timestamp': 'f8', '_': 'u1'}
    count = rng.choice((0, 1, 5, 40))
    height = rng.choice((1, 1, 1, 5)) if count % 5 == 0 else 1
    table = np.zeros(count, [(name, kinds.get(name, 'f4')) for name in names])
    for name in names:
        table[name] = [rng.choice((0, 1, 5, 20.5, -7)) if name in 'xyz' else 1 for _ in range(count)]
    if count and rng.random() < 0.2:
        table[rng.choice('xyz')][rng.randrange(count)] = rng.choice((np.nan, np.inf, -1e38, 3e38, 1e30))
    types = [table.dtype[name] for name in names]
    header = {
        'VERSION': ['0.7'], 'FIELDS': names, 'SIZE': [kind.itemsize for kind in types],
        'TYPE': [kind.kind.upper() for kind in types], 'COUNT': [1] * len(types), 'WIDTH': [count // height],
        'HEIGHT': [height], 'VIEWPOINT': [0, 0, 0, 1, 0, 0, 0], 'POINTS': [count],
        'DATA': [rng.choice(('ascii', 'binary', 'binary', 'binary_compressed'))],
    }  # fmt: skip
    return header, table


def _packed(encoding: str, table: np.ndarray, rng: Random) -> bytes:
    """Points in an encoding of the format; sometimes with a wrong row or wrong sizes."""
    if encoding == 'ascii':
        rows = [list(row) for row in table.tolist()]
        if rows and rng.random() < 0.3:
            row = changed(rows[0], rng)
            rows[rng.randrange(len(rows))] = row if isinstance(row, list) else [row]
        return ''.join(' '.join(map(str, row)) + '\n' for row in rows).encode('utf-8', 'replace')
    if encoding == 'binary':
        return table.tobytes()
    columns = b''.join(table[name].tobytes() for name in table.dtype.names or ())
    packed = (lzf.compress(columns) if columns else None) or b''
    sizes = [len(packed), len(columns)]
    if rng.random() < 0.3:
        sizes[rng.randrange(2)] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, rng.randrange(2**32), sizes[0] + 1))
    return struct.pack('<II', *sizes) + packed


def _write_opv2v(root: Path) -> None:
    """Two agents, a frame each, and the protocol of the recording."""
    drive = root / 'drive'
    for agent in (1, -2):
        write_opv2v_frame(drive, agent, 0, x=agent, vehicles=(90, 91))
        path = drive / str(agent) / '000000.yaml'
        document = yaml.safe_load(path.read_text()) | {
            'true_ego_pos': [0.0, 0, 0, 0, 0, 0], 'predicted_ego_pos': [0.1, 0, 0, 0, 0, 0],
            'ego_speed': 36.0, 'camera0': {'cords': [1.0, 2], 'intrinsic': [[1, 0], [0, 1]]},
        }  # fmt: skip
        for entry in document['vehicles'].values():
            entry |= {'num_points': 3, 'speed': 1.0, 'obj_type': 'Car'}
        path.write_text(yaml.safe_dump(document))
    (drive / 'data_protocol.yaml').write_text('world: {fixed_delta_seconds: 0.05}\nadditional: {a: [1]}\n')


def _small_frames() -> list[CoopFrame]:
    """A frame of two vehicles with three points and two boxes."""
    points = np.array([[20.0, 0.0, 0.0, 0.5]] * 3, np.float32)
    sweeps = {agent: AgentSweep(points, pose_from_euler([agent, 0.0, 2.0], yaw=0.1)) for agent in (0, 1)}
    boxes = np.array([[10.0, 3, 1, 4, 2, 1.5, 0.2], [15.0, -3, 1, 4, 2, 1.5, 0.2]])
    return [CoopFrame(sweeps, 0, 0, Boxes3D(boxes, track_ids=np.array([30, 31])))]


class Opv2vYaml(Sets):
    """The frame files of OPV2V, V2V4Real and V2X-Real sets, and the clouds of the last, plain numbers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _write_opv2v(folder / 'opv2v')
        write_v2v4real_like(folder / 'v2v4real', _small_frames())
        write_v2xreal_like(folder / 'v2xreal', _small_frames())
        self.documents: dict[str, dict[str, Any]] = {}
        for kind in ('opv2v', 'v2v4real', 'v2xreal'):
            self.keep(kind)
            paths = sorted(path for path in self.contents[kind] if path.endswith(('.yaml', '.bin')))
            self.documents[kind] = {
                path: read_yaml(folder / kind / path) if path.endswith('.yaml') else None for path in paths
            }

    def case(self, rng: Random) -> Any:
        kind = rng.choice(('opv2v', 'opv2v', 'v2v4real', 'v2xreal'))
        path, document = rng.choice(list(self.documents[kind].items()))
        if document is None or rng.random() < 0.1:
            return kind, {path: damaged(self.contents[kind][path], rng, rng.choice((1, 3)))}
        return kind, {path: yaml_case(document, rng)}


class DairJson(Sets):
    """Index, calibration, label and split files of a DAIR-V2X set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        root = folder / 'dair'
        write_dair(root, (('000009', '000501', '7'),))
        (root / 'split.json').write_text('{"cooperative_split": {"train": ["000009"], "val": []}}')
        self.keep('dair')
        paths = (path for path in self.contents['dair'] if path.endswith('.json'))
        self.documents = {path: json.loads(self.contents['dair'][path]) for path in sorted(paths)}

    def case(self, rng: Random) -> Any:
        path = rng.choice(list(self.documents))
        return 'dair', {path: json_case(self.documents[path], rng)}

    def open(self, kind: str) -> Any:
        root = self.folder / kind
        return frames_of(Source(f'{kind}:{root}', split='train', split_file=root / 'split.json'))
