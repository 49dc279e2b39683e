# SPDX-License-Identifier: Apache-2.0
"""Reads frames from recorded rosbag2 files (MCAP or sqlite3) without ROS."""

from __future__ import annotations

import bisect
import itertools
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame, FrameError
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.motion import between, moved
from diffkd_ros.geometry.poses import PoseError
from diffkd_ros.messages.point_cloud import PointCloudError, read_cloud
from diffkd_ros.messages.reading import (
    BOXES3D_DEFINITION,
    BOXES3D_TYPE,
    TRUTH_TOPIC,
    MessageError,
    agent_name,
    agent_number,
    boxes_of,
    pose_of,
)
from diffkd_ros.sources.dataset import DatasetError, raised

_TOPIC = re.compile(r'/((?:cav|rsu)_\d+)/(points|odometry)')
_SECOND = 1_000_000_000
# Where the ground truth stands among the agents' clouds and poses.
_TRUTH = 0, 'truth'
# A neighbour's sweep belongs to the ego's if it is nearer in time than half a revolution at 10 Hz.
_SWEEP_TOLERANCE = _SECOND // 20 - 1
# As the nodes' default `pose_tolerance`.
_POSE_TOLERANCE = _SECOND // 20
# A recording is cut where nothing was recorded for so long, and at this length in any case: what follows is
# another scenario, which several processes can work on and over which intervals are drawn.
_GAP = 1 * _SECOND
_DRIVE = 10 * _SECOND


class BagError(DatasetError):
    """A bag that cannot be read as frames, or one of its messages."""


@dataclass(frozen=True, slots=True)
class _Message:
    """A message's stamp and where it stands: its connection, by number, and when it was recorded."""

    stamp: int
    connection: int
    logged: int


@dataclass(frozen=True, slots=True)
class _Row:
    """What makes up a frame.

    Of each agent there are the cloud, the odometry nearest to it and, if that has another stamp, the nearest
    on the other side of the cloud; `odometry` is all there is since the frame before.
    """

    stamp: int
    clouds: dict[int, _Message]
    poses: dict[int, tuple[_Message, _Message | None]]
    odometry: dict[int, list[_Message]]
    truth: _Message | None


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame's messages as they were recorded.

    Attributes:
        stamp: of the ego's cloud, nanoseconds.
        ego: agent that fuses.
        stamps: of the clouds, by agent.
        clouds: CDR bytes of the `sensor_msgs/PointCloud2` by agent.
        odometry: of every `nav_msgs/Odometry` since the frame before, until one gives the cloud's pose.
        ground_truth: of the `diffkd_ros/Boxes3D` with the ego's stamp, or None.
    """

    stamp: int
    ego: int
    stamps: dict[int, int]
    clouds: dict[int, bytes]
    odometry: dict[int, list[bytes]]
    ground_truth: bytes | None


def _stamp(message: _Message) -> int:
    return message.stamp


@dataclass(slots=True)
class _Track:
    """The messages of one topic by stamp."""

    messages: dict[int, _Message] = field(default_factory=dict)
    stamps: list[int] = field(default_factory=list)

    def settle(self) -> None:
        self.stamps = sorted(self.messages)

    def around(self, stamp: int, tolerance: int) -> tuple[_Message, _Message | None] | None:
        """The message nearest in time, if it is within the tolerance, and the one beyond the stamp.

        There is no such second one if the first has the very stamp, or is the first or last of all.
        """
        place = bisect.bisect_left(self.stamps, stamp)
        near = sorted(self.stamps[max(0, place - 1) : place + 1], key=lambda other: abs(other - stamp))
        if not near or abs(near[0] - stamp) > tolerance:
            return None
        exact = near[0] == stamp or len(near) < 2
        return self.messages[near[0]], None if exact else self.messages[near[1]]

    def until(self, stamp: int, after: int) -> list[_Message]:
        """The messages after one stamp and up to another."""
        rows = slice(bisect.bisect_right(self.stamps, after), bisect.bisect_right(self.stamps, stamp))
        return [self.messages[known] for known in self.stamps[rows]]


def open_bags(paths: Sequence[Path], types: Typestore | None = None) -> AnyReader:
    """An open reader of one or several bags, whose messages come merged in the order of their recording.

    Args:
        paths: folders of bags, or their .mcap files.
        types: for bags that carry no message definitions, as those of ROS 2 Humble; default: those that make
            up frames.

    Raises:
        BagError: if one is missing or no bag.
    """
    for path in paths:
        if not path.exists():
            raise BagError(f'no bag at {path}')
    told = ', '.join(map(str, paths))
    try:
        reader = AnyReader(list(paths), default_typestore=types or _frame_types())
        reader.open()
    except (AnyReaderError, ReaderError, OSError, AssertionError, struct.error) as error:
        raise BagError(f'{told} is no bag: {error}') from error
    return reader


def _frame_types() -> Typestore:
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(BOXES3D_DEFINITION, BOXES3D_TYPE))
    return store


def recorded_stamp(data: bytes) -> int:
    """The stamp, nanoseconds, of a serialised message that begins with a header."""
    # Four bytes of encapsulation, the second of which tells the byte order; then std_msgs/Header.
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return seconds * _SECOND + nanoseconds


class RosbagDataset:
    """The frames of one or several bags, by number, in the order of their stamps.

    A frame is each cloud of the ego that has a pose, with every other agent's cloud less than 0.05 s away and
    the ground truth of the same stamp. A cloud's pose is that of the odometry with its stamp; else it lies
    between the nearest before and after it, one of them at most 0.05 s away; before the first or after the
    last it is moved on by its twist, if that is known. Odometry must give the pose of the cloud's own frame.
    Topics are `/cav_<n>/points`, `/cav_<n>/odometry` (road-side units: `/rsu_<n>/...`) and `/ground_truth`.

    Of each message the stamp is read once, when the set is opened; the rest when a frame is asked for.

    The recorded ground truth holds the vehicles around the ego but not the ego itself: its box is unknown.

    Attributes:
        root: the first bag.
        agents: those with clouds and odometry.
        ego: agent that fuses.
        incomplete: instants at which something is missing: an agent, the ground truth or, so that there is no
            frame, the ego.

    Args:
        paths: a bag's folder or .mcap file, or several that are read as one: each vehicle's own, say, and
            one that holds the ground truth.
        ego: agent that fuses; if None, the one in whose LiDAR frame the ground truth is given, else the
            lowest number.

    Raises:
        BagError: if one is no bag, or together they make up no frame.
    """

    def __init__(self, paths: Path | str | Iterable[Path | str], ego: int | None = None) -> None:
        listed = [paths] if isinstance(paths, Path | str) else list(paths)
        self._paths = [Path(path).expanduser() for path in listed]
        self.root = self._paths[0]
        self._told = ', '.join(map(str, self._paths))
        self._opened: AnyReader | None = None
        tracks = self._tracks()
        found = {part: {a for a, p in tracks if p == part} for part in ('points', 'odometry')}
        self.agents = sorted(found['points'] & found['odometry'])
        if not self.agents:
            topics = ', '.join(sorted({c.topic for c in self._reader.connections})) or 'no topics'
            raise BagError(
                f'{self._told} has no agent with both /cav_<n>/points and /cav_<n>/odometry; it has {topics}'
            )
        truth = tracks.get(_TRUTH, _Track())
        self.ego = self._truth_agent(truth) if ego is None else ego
        if self.ego not in self.agents:
            raise BagError(f'ego {self.ego} is not among the agents of {self._told}: {self.agents}')
        self._rows: list[_Row] = []
        self.incomplete = 0
        self._assemble(tracks, truth)
        if not self._rows:
            raise BagError(
                f'{self._told} has no frame: no cloud of {agent_name(self.ego)} has odometry '
                f'within {_POSE_TOLERANCE / _SECOND:g} s of it'
            )
        self._drives = self._cut()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_opened': None}

    @property
    def _reader(self) -> AnyReader:
        """The reader, which each process opens for itself."""
        if self._opened is None:
            self._opened = open_bags(self._paths)
        return self._opened

    def _tracks(self) -> dict[tuple[int, str], _Track]:
        """Every message of interest by agent and part."""
        connections = self._reader.connections
        keys: dict[int, tuple[int, str]] = {}
        for number, connection in enumerate(connections):
            if connection.topic == TRUTH_TOPIC:
                keys[number] = _TRUTH
            elif match := _TOPIC.fullmatch(connection.topic):
                keys[number] = agent_number(match[1]), match[2]
        numbers = {id(connections[number]): number for number in keys}
        tracks: dict[tuple[int, str], _Track] = defaultdict(_Track)
        if keys:
            for connection, logged, data in self._messages([connections[number] for number in keys]):
                number = numbers[id(connection)]
                stamp = recorded_stamp(data)
                tracks[keys[number]].messages[stamp] = _Message(stamp, number, logged)
        for track in tracks.values():
            track.settle()
        return tracks

    def _messages(
        self, connections: Sequence[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterable[tuple[Connection, int, bytes]]:
        try:
            yield from self._reader.messages(connections, start, stop)
        except (ReaderError, OSError, struct.error, UnicodeDecodeError) as error:
            raise BagError(f'{self._told} is damaged: {error}') from error

    def _truth_agent(self, truth: _Track) -> int:
        names = {agent_name(agent): agent for agent in self.agents}
        for stamp in truth.stamps:
            message = truth.messages[stamp]
            frame_id = self._decoded(message, self._read([message])).header.frame_id
            return names.get(frame_id.partition('/')[0], self.agents[0])
        return self.agents[0]

    def _assemble(self, tracks: dict[tuple[int, str], _Track], truth: _Track) -> None:
        missing: set[int] = set()
        played = dict.fromkeys(self.agents, -1)
        for stamp in tracks[self.ego, 'points'].stamps:
            clouds, poses, odometry = {}, {}, {}
            for agent in self.agents:
                cloud = tracks[agent, 'points'].around(stamp, 0 if agent == self.ego else _SWEEP_TOLERANCE)
                pose = cloud and tracks[agent, 'odometry'].around(cloud[0].stamp, _POSE_TOLERANCE)
                if cloud and pose:
                    clouds[agent], poses[agent] = cloud[0], pose
            if self.ego in clouds:
                for agent, around in poses.items():
                    last = max(message.stamp for message in around if message)
                    odometry[agent] = tracks[agent, 'odometry'].until(last, played[agent])
                    # Of two frames that need the same message, both have it.
                    odometry[agent] = sorted({*odometry[agent], *filter(None, around)}, key=_stamp)
                    played[agent] = last
                self._rows.append(_Row(stamp, clouds, poses, odometry, truth.messages.get(stamp)))
            if len(clouds) < len(self.agents) or (truth.stamps and stamp not in truth.messages):
                missing.add(stamp)
        missing |= truth.messages.keys() - tracks[self.ego, 'points'].messages.keys()
        self.incomplete = len(missing)

    def _cut(self) -> list[tuple[str, range]]:
        starts: list[int] = []
        for number, row in enumerate(self._rows):
            if not starts or (
                row.stamp - self._rows[number - 1].stamp > _GAP
                or row.stamp - self._rows[starts[-1]].stamp >= _DRIVE
            ):
                starts.append(number)
        root = self.root.resolve()
        name = root.stem if root.suffix in ('.mcap', '.db3') else root.name
        ends = [*starts[1:], len(self._rows)]
        return [
            (f'{name}_{k:03d}', range(start, end))
            for k, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._rows)

    @property
    def rate(self) -> float:
        """Frames per second: of the median step from one to the next; 10 if there is only one."""
        steps = np.diff([row.stamp for row in self._rows])
        return float(_SECOND / np.median(steps)) if len(steps) else 10.0

    def drives(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each stretch: cut at gaps, and every 10 s."""
        return self._drives

    def files(self, rows: range) -> set[Path]:
        """All the bags: any of them may hold a part of each frame."""
        return {path.resolve() for path in self._paths}

    def recorded(self, index: int) -> RecordedFrame:
        """The frame's messages as they were recorded.

        Raises:
            IndexError: if there is no such frame.
            BagError: if a message cannot be read.
        """
        row = self._rows[index]
        odometry = itertools.chain.from_iterable(row.odometry.values())
        data = self._read([*row.clouds.values(), *odometry, *filter(None, [row.truth])])
        return RecordedFrame(
            row.stamp,
            self.ego,
            {agent: message.stamp for agent, message in row.clouds.items()},
            {agent: data[message] for agent, message in row.clouds.items()},
            {agent: [data[message] for message in messages] for agent, messages in row.odometry.items()},
            data[row.truth] if row.truth else None,
        )

    def _read(self, wanted: Sequence[_Message]) -> dict[_Message, bytes]:
        connections = self._reader.connections
        numbers = {id(connections[message.connection]): message.connection for message in wanted}
        start, stop = min(m.logged for m in wanted), max(m.logged for m in wanted) + 1
        chosen = [connections[number] for number in numbers.values()]
        found: dict[_Message, bytes] = {}
        sought = set(wanted)
        for connection, logged, data in self._messages(chosen, start, stop):
            message = _Message(recorded_stamp(data), numbers[id(connection)], logged)
            if message in sought:
                found[message] = bytes(data)
        if len(found) < len(sought):
            raise BagError(f'{self._told} has changed since it was opened')
        return found

    def _decoded(self, message: _Message, data: dict[_Message, bytes]) -> Any:
        connection = self._reader.connections[message.connection]
        try:
            return self._reader.deserialize(data[message], connection.msgtype)
        except (DiffkdError, AnyReaderError, ValueError, KeyError, IndexError, struct.error) as error:
            raise BagError(f'{self._told}: {connection.topic} at {message.logged}: {error}') from error

    def __getitem__(self, index: int) -> CoopFrame:
        """Read a frame.

        Raises:
            IndexError: if there is no such frame.
            BagError: if a message in it is damaged, or its frames contradict each other.
        """
        row = self._rows[index]
        index %= len(self._rows)
        around = [message for pair in row.poses.values() for message in pair if message]
        data = self._read([*row.clouds.values(), *around, *filter(None, [row.truth])])
        agents: dict[int, AgentSweep] = {}
        maps: set[str] = set()
        for agent, cloud in row.clouds.items():
            odometry = [(m.stamp, self._decoded(m, data)) for m in row.poses[agent] if m]
            maps.update(message.header.frame_id for _, message in odometry)
            where = f'{self._told}: {agent_name(agent)} at {row.stamp}'
            agents[agent] = _sweep(cloud.stamp, self._decoded(cloud, data), odometry, where)
        if len(maps) > 1:
            raise BagError(f'{self._told} at {row.stamp}: poses in different frames: {sorted(maps)}')
        truth: Boxes3D | None = None
        if row.truth is not None:
            try:
                truth = boxes_of(self._decoded(row.truth, data))
            except (MessageError, FrameError) as error:
                raise BagError(f'{self._told}: {TRUTH_TOPIC} at {row.stamp}: {error}') from error
            truth = truth.with_boxes(transform_boxes(agents[self.ego].pose, truth.boxes))
        name, rows = next((name, rows) for name, rows in self._drives if index in rows)
        return CoopFrame(agents, self.ego, row.stamp, truth, name, index - rows.start)

    def problems(self, index: int) -> list[DatasetError]:
        """What is wrong with a frame: the first of it."""
        error = raised(lambda: self[index])
        return [error] if error else []

    def strays(self) -> list[DatasetError]:
        """Instants that are incomplete, in one line."""
        return [BagError(f'{self._told}: {self.incomplete} frames are incomplete')] if self.incomplete else []


def _sweep(stamp: int, cloud: Any, odometry: Sequence[tuple[int, Any]], where: str) -> AgentSweep:
    for _, message in odometry:
        if message.child_frame_id != cloud.header.frame_id:
            raise BagError(
                f'{where}: odometry gives the pose of {message.child_frame_id!r}, '
                f'but the cloud is in {cloud.header.frame_id!r}'
            )
    try:
        points = read_cloud(cloud)
        poses = [pose_of(message.pose.pose) for _, message in odometry]
    except (PointCloudError, PoseError) as error:
        raise BagError(f'{where}: {error}') from error
    pose = poses[0]
    first, nearest = odometry[0]
    twist = nearest.twist.twist
    linear, angular = ([v.x, v.y, v.z] for v in (twist.linear, twist.angular))
    known = nearest.twist.covariance[0] >= 0 and np.isfinite([*linear, *angular]).all()
    if len(poses) > 1:
        pose = between(pose, poses[1], (stamp - first) / (odometry[1][0] - first))
    elif known and first != stamp:
        pose = moved(pose, linear, angular, (stamp - first) / _SECOND)
    velocity = pose[:3, :3] @ linear if known else None
    return AgentSweep(points.points, pose, points.ring, points.time, velocity)
