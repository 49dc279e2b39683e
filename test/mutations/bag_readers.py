# SPDX-License-Identifier: Apache-2.0
"""Recordings: their files and the messages in them."""

from __future__ import annotations

import contextlib
import copy
import shutil
import sqlite3
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from cases import Files, Reader, frames_of
from changes import damaged, number_of_type, yaml_case
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import StoragePlugin, Writer

from diffkd_ros.bags.answers import read_answers, read_area
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.messages.building import boxes_message, frame_messages, header_message, make_from
from diffkd_ros.sources.bag_files import message_types
from diffkd_ros.sources.source import Source

STEP = 100_000_000
TYPES = (
    'std_msgs/msg/String', 'sensor_msgs/msg/LaserScan', 'geometry_msgs/msg/PoseStamped', 'std_msgs/msg/Bool',
    'sensor_msgs/msg/PointCloud2', 'diffkd_ros/msg/Boxes3D', 'nav_msgs/msg/Odometry',
)  # fmt: skip
Row = tuple[str, str, int, Any]
"""Topic, type, time of recording and message."""


class Bags(Reader):
    """Recordings of one vehicle."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.types = message_types()
        self.make = make_from(self.types.types)

    def drive(self, frames: int) -> list[Row]:
        """Clouds, poses and ground truth of so many frames."""
        rows: list[Row] = []
        for index in range(frames):
            points = np.random.default_rng(index).uniform(0.1, 1, (6, 4)).astype(np.float32)
            stamp = (index + 1) * STEP
            sweep = AgentSweep(points, np.eye(4), np.arange(6), np.zeros(6), np.ones(3))
            truth = Boxes3D(np.ones((1, 7)), track_ids=np.array([7]), num_points=np.array([1]))
            built = frame_messages(CoopFrame({1: sweep}, 1, stamp, truth), self.make)
            rows += [
                ('/cav_1/odometry', 'nav_msgs/msg/Odometry', stamp, *built.odometry.values()),
                ('/cav_1/points', 'sensor_msgs/msg/PointCloud2', stamp, *built.clouds.values()),
                ('/ground_truth', 'diffkd_ros/msg/Boxes3D', stamp, built.ground_truth),
            ]
        return rows

    def serialised(self, rows: list[Row]) -> list[Row]:
        """The rows with the messages' bytes."""
        return [(t, kind, stamp, bytes(self.types.serialize_cdr(m, kind))) for t, kind, stamp, m in rows]

    def write(self, rows: list[Row], storage: StoragePlugin) -> Path:
        """Write a bag of serialised messages."""
        path = self.folder / 'bag'
        shutil.rmtree(path, ignore_errors=True)
        with Writer(path, version=8, storage_plugin=storage) as bag:
            connections = {}
            for topic, kind, stamp, data in rows:
                if topic not in connections:
                    connections[topic] = bag.add_connection(topic, kind, typestore=self.types)
                bag.write(connections[topic], stamp, data)
        return path

    def everything(self, path: Path) -> Any:
        """All that is read of a bag."""
        results = [frames_of(Source(f'bag:{path}'))]
        for read in (lambda: read_area([path]), lambda: read_answers([path], 1)):
            with contextlib.suppress(DiffkdError):
                results.append(read())
        return results


class BagMessage(Bags):
    """Recordings in which twenty of fifty messages are damaged; a case is the serialised messages."""

    parts = 20

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows = self.drive(10)
        for stamp in range(STEP, 11 * STEP, STEP):
            header = header_message(stamp, 'cav_1/lidar', self.make)
            boxes = boxes_message(
                header, Boxes3D(np.ones((1, 7)), scores=np.ones(1, np.float32)), ['vehicle'], self.make
            )
            neighbour = self.make(
                'diffkd_ros/msg/NeighbourStatus', agent_id='cav_2', accepted=True, reason='', age=0.1,
                gate_weight=0.2, bytes=60, sequence=1, rate=10.0, kilobytes_per_s=0.6, messages_received=1,
                messages_lost=0, messages_fused=1, messages_refused=0, messages_overwritten=0, sweep_chunks=2,
                sweep_chunks_received=1, boxes_bytes=20, coarse_bytes=20, fine_bytes=20, restored=0.5,
                tiles=np.array([0, 1, 2, 3, 3, 3, 0, 1], np.uint8), chunks_received=1, chunks_lost=1,
                chunks_refused=0,
            )  # fmt: skip
            status = self.make(
                'diffkd_ros/msg/FusionStatus', header=header, model_id='', ego_reliability=0.5,
                neighbours=[neighbour], stages=['fuse'], latency_ms=np.array([7], np.float32),
                sweeps_received=1, sweeps_fused=1, sweeps_overwritten=0, sweeps_refused=0,
                grid_range=np.array([-8, -4, -1, 8, 4, 1], np.float32), height=8, width=16,
                seen_by=np.array([1], np.uint8), sensor_faults=['frozen: x'], own_map_used=False,
                degradation=4, degradation_cause='own sensors: frozen: x',
            )  # fmt: skip
            self.rows.append(('/cav_1/detections', 'diffkd_ros/msg/Boxes3D', stamp, boxes))
            self.rows.append(('/cav_1/fusion_status', 'diffkd_ros/msg/FusionStatus', stamp, status))

    def valid(self) -> list[Any]:
        return [self.serialised(self.rows)]

    def case(self, rng: Random) -> Any:
        rows = self.serialised(self.rows)
        for index in rng.sample(range(len(rows)), self.parts):
            topic, kind, stamp, message = self.rows[index]
            message = copy.deepcopy(message)
            for _ in range(rng.choice((1, 1, 2))):
                self._change(message, rng)
            data = bytes(self.types.serialize_cdr(message, kind))
            data = damaged(data, rng) if rng.random() < 0.3 else data
            rows[index] = topic, kind, rng.choice((stamp,) * 9 + (0, 1, 2**62)), data
        if rng.random() < 0.2:
            wrong, kind = rng.choice(rows)[0], rng.choice(TYPES)
            rows = [(topic, kind if topic == wrong else known, *rest) for topic, known, *rest in rows]
        return rows

    def _change(self, message: Any, rng: Random) -> None:
        """Change a field in place to another value of its type."""
        name, kind = rng.choice(self.types.get_msgdef(message.__msgtype__).fields)
        value = getattr(message, name)
        if hasattr(value, '__msgtype__'):
            self._change(value, rng)
        elif isinstance(value, list) and value and hasattr(value[0], '__msgtype__') and rng.random() < 0.7:
            self._change(rng.choice(value), rng)
        elif isinstance(value, list):
            setattr(message, name, rng.choice((value[:-1], value * 2, [])))
        elif isinstance(value, np.ndarray):
            if rng.random() < 0.5 and value.size:
                value = value.copy()
                value[rng.randrange(value.size)] = _scalar(value.dtype.name, rng)
            elif kind[0] is Nodetype.SEQUENCE:
                value = np.resize(value, rng.choice((0, 1, value.size + 1, 2 * value.size)))
            setattr(message, name, value)
        elif isinstance(value, str):
            texts = ('', 'x', 'y', 'map', 'cav_1/lidar', 'cav_99/lidar', 'é', 'x' * 300)
            setattr(message, name, rng.choice(texts))
        else:
            setattr(message, name, _scalar(kind[1][0], rng))

    def read(self, case: Any) -> Any:
        return self.everything(self.write(case, StoragePlugin.MCAP) / 'bag.mcap')


def _scalar(kind: str, rng: Random) -> Any:
    if kind == 'bool':
        return rng.random() < 0.5
    if kind.startswith('float'):
        largest = 1e38 if kind == 'float32' else 1e308
        return rng.choice((np.nan, np.inf, -np.inf, 0.0, -1.0, largest, 1e-40, 1e20))
    limits = np.iinfo(kind)
    return number_of_type(rng, int(limits.min), int(limits.max))


class BagFile(Bags):
    """The files of a recording: MCAP or sqlite3, and `metadata.yaml`. A case: what is opened, its files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = self.serialised(self.drive(2))
        self.bags: dict[str, Files] = {}
        for storage, suffix in ((StoragePlugin.MCAP, '.mcap'), (StoragePlugin.SQLITE3, '.db3')):
            path = self.write(rows, storage)
            if storage is StoragePlugin.SQLITE3:
                with contextlib.closing(sqlite3.connect(path / 'bag.db3')) as connection, connection:
                    # Bags of ROS 2 Humble have no definitions.
                    connection.execute('delete from message_definitions')
            self.bags[suffix] = {file.name: file.read_bytes() for file in path.iterdir()}
        self.metadata = {suffix: yaml.safe_load(bag['metadata.yaml']) for suffix, bag in self.bags.items()}

    def valid(self) -> list[Any]:
        return [('bag', files) for files in self.bags.values()] + [('bag/bag.mcap', self.bags['.mcap'])]

    def case(self, rng: Random) -> Any:
        suffix = rng.choice(sorted(self.bags))
        files, name = dict(self.bags[suffix]), f'bag{suffix}'
        if rng.random() < 0.25:
            files['metadata.yaml'] = yaml_case(self.metadata[suffix], rng)
        elif rng.random() < 0.3:
            files[name] = damaged(files[name], rng, rng.choice((1, 2, 10)))
        elif suffix == '.mcap':
            files[name] = _mcap(files[name], rng)
        else:
            files[name] = self._sqlite(files[name], rng)
        if rng.random() < 0.05:
            del files[rng.choice(list(files))]
        return rng.choice(('bag', f'bag/{name}')), files

    def _sqlite(self, data: bytes, rng: Random) -> bytes:
        """Change rows or the schema of a database."""
        path = self.folder / 'changed.db3'
        path.write_bytes(data)
        values = (None, -1, 0, 1, 2**62, 'x', '', b'', b'\0' * 3, 1.5, '/cav_1/points', TYPES[1])
        table, columns = rng.choice(
            (('topics', ('id', 'name', 'type', 'serialization_format', 'offered_qos_profiles')),
             ('messages', ('id', 'topic_id', 'timestamp', 'data')),
             ('schema', ('schema_version', 'ros_distro')), ('message_definitions', ('encoding',)))
        )  # fmt: skip
        column, where = rng.choice(columns), rng.choice(('1', 'rowid = 1', 'rowid % 2'))
        update = f'update {table} set {column} = ? where {where}', (rng.choice(values),)
        statement = rng.choice(
            (update, update, update, (f'drop table {table}',), (f'delete from {table} where {where}',),
             (f'alter table {table} rename column {column} to other',))
        )  # fmt: skip
        connection = sqlite3.connect(path)
        with contextlib.closing(connection), contextlib.suppress(sqlite3.Error), connection:
            connection.execute(*statement)
        return path.read_bytes()

    def read(self, case: Any) -> Any:
        place, files = case
        bag = self.folder / 'bag'
        shutil.rmtree(bag, ignore_errors=True)
        bag.mkdir()
        for name, data in files.items():
            (bag / name).write_bytes(data)
        return self.everything(self.folder / place)


def _mcap(data: bytes, rng: Random) -> bytes:
    """Change records of an MCAP file: their types, lengths, contents or order."""
    magic, records, at = data[:8], [], 8
    while at + 9 <= len(data) - 8:
        (size,) = struct.unpack_from('<Q', data, at + 1)
        records.append([data[at : at + 1], size, data[at + 9 : at + 9 + size]])
        at += 9 + size
    for _ in range(rng.choice((1, 1, 2))):
        record, what = rng.choice(records), rng.randrange(5)
        if what == 0:
            record[0] = bytes([rng.randrange(20)])
        elif what == 1:
            fewer, more = max(record[1], 1) - 1, min(record[1] + 1, 2**64 - 1)
            record[1] = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, more, fewer))
        elif what == 2:
            record[2] = damaged(record[2], rng)
            record[1] = len(record[2])
        elif what == 3 and len(records) > 1:
            records.remove(record)
        else:
            records.insert(rng.randrange(len(records)), list(record))
    parts = [kind + struct.pack('<Q', size) + content for kind, size, content in records]
    return magic + b''.join(parts) + data[-8:]
