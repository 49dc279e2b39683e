# SPDX-License-Identifier: Apache-2.0
"""Reads frames from recorded rosbag2 files (MCAP or sqlite3) without ROS."""

from __future__ import annotations

import bisect
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.lidar_pose import pose_at, supporting_stamps
from diffkd_ros.messages.clouds import read_cloud
from diffkd_ros.messages.names import AGENT_PATTERN, TRUTH_TOPIC, agent_name, agent_number
from diffkd_ros.messages.poses import pose_of_odometry
from diffkd_ros.messages.reading import NANOSECONDS, boxes_of
from diffkd_ros.sources.bag_files import open_bags, recorded_stamp
from diffkd_ros.sources.dataset import DatasetError, located, raised

_TOPIC = re.compile(rf'/({AGENT_PATTERN})/(points|odometry)')
# The key of the ground truth among those of the agents' clouds and poses.
_TRUTH = 0, 'truth'
# A neighbour's sweep belongs to the ego's if they are less than half a revolution at 10 Hz apart.
_SWEEP_TOLERANCE = NANOSECONDS // 20 - 1
# As the nodes' default `pose_tolerance`.
_POSE_TOLERANCE = NANOSECONDS // 20
# A recording is cut into scenarios, the unit of parallel work and of resampling, at gaps longer than this
# and at this length.
_GAP = 1 * NANOSECONDS
_LENGTH = 10 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class _Message:
    """A message's stamp, the number of its connection, and when it was recorded, nanoseconds."""

    stamp: int
    connection: int
    logged: int


@dataclass(frozen=True, slots=True)
class _Row:
    """The messages of a frame by agent: clouds, the odometry their poses are computed from, nearest first,
    and all odometry since the frame before.
    """

    stamp: int
    clouds: dict[int, _Message]
    poses: dict[int, list[_Message]]
    odometry: dict[int, list[_Message]]
    truth: _Message | None


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """The messages of a frame as they were recorded.

    Attributes:
        stamp: of the ego's cloud, nanoseconds.
        ego: agent that fuses.
        stamps: of the clouds, by agent.
        clouds: CDR bytes of the `sensor_msgs/PointCloud2` by agent.
        odometry: of every `nav_msgs/Odometry` since the frame before, up to those the cloud's pose needs.
        ground_truth: of the `diffkd_ros/Boxes3D` with the ego's stamp, or None.
    """

    stamp: int
    ego: int
    stamps: dict[int, int]
    clouds: dict[int, bytes]
    odometry: dict[int, list[bytes]]
    ground_truth: bytes | None


@dataclass(slots=True)
class _Track:
    """The messages of one topic by stamp."""

    messages: dict[int, _Message] = field(default_factory=dict)
    stamps: list[int] = field(default_factory=list)

    def sort(self) -> None:
        self.stamps = sorted(self.messages)

    def around(self, stamp: int, tolerance: int) -> list[_Message]:
        """The messages from which `pose_at` computes the pose at a stamp, nearest first."""
        return [self.messages[known] for known in supporting_stamps(self.stamps, stamp, tolerance)]

    def until(self, stamp: int, after: int) -> list[_Message]:
        """The messages after one stamp and up to another."""
        rows = slice(bisect.bisect_right(self.stamps, after), bisect.bisect_right(self.stamps, stamp))
        return [self.messages[known] for known in self.stamps[rows]]


class RosbagDataset:
    """The frames of one or several bags, in the order of their stamps; a `FrameDataset`.

    A frame is a cloud of the ego with a pose, every other agent's cloud less than 0.05 s away, and the ground
    truth with the same stamp. A cloud's pose is computed from the odometry by
    `diffkd_ros.geometry.lidar_pose.pose_at`, as in the nodes; the nearest odometry must be at most 0.05 s
    away, and its child frame must be the cloud's frame. Topics are `/cav_<n>/points`, `/cav_<n>/odometry`
    (road-side units: `/rsu_<n>/...`) and `/ground_truth`.

    The stamps of all messages are read once, when the bags are opened; the rest is read frame by frame.

    The recorded ground truth does not include the ego's own box.

    Attributes:
        root: the first bag.
        agents: those with clouds and odometry.
        ego: agent that fuses.
        incomplete: number of instants at which an agent or the ground truth is missing; without the ego there
            is no frame.

    Args:
        paths: a bag's folder or .mcap file, or several that are read as one, such as one of each vehicle and
            one with the ground truth.
        ego: agent that fuses; if None, the one in whose LiDAR frame the ground truth is given, else the
            lowest number.

    Raises:
        DatasetError: if one is not a bag, or they contain no frame.
    """

    def __init__(self, paths: Path | str | Iterable[Path | str], ego: int | None = None) -> None:
        listed = [paths] if isinstance(paths, Path | str) else list(paths)
        self._paths = [Path(path).expanduser() for path in listed]
        self.root = self._paths[0]
        self._name = ', '.join(map(str, self._paths))
        self._opened: AnyReader | None = None
        tracks = self._tracks()
        found = {part: {a for a, p in tracks if p == part} for part in ('points', 'odometry')}
        self.agents = sorted(found['points'] & found['odometry'])
        if not self.agents:
            topics = ', '.join(sorted({c.topic for c in self._reader.connections})) or 'no topics'
            raise DatasetError(
                f'{self._name} has no agent with both /cav_<n>/points and /cav_<n>/odometry; it has {topics}'
            )
        truth = tracks.get(_TRUTH, _Track())
        self.ego = self._truth_agent(truth) if ego is None else ego
        if self.ego not in self.agents:
            raise DatasetError(f'ego {self.ego} is not among the agents of {self._name}: {self.agents}')
        self._rows: list[_Row] = []
        self.incomplete = 0
        self._assemble(tracks, truth)
        if not self._rows:
            raise DatasetError(
                f'{self._name} has no frame: no cloud of {agent_name(self.ego)} has odometry '
                f'within {_POSE_TOLERANCE / NANOSECONDS:g} s of it'
            )
        self._drives = self._cut()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_opened': None}

    @property
    def _reader(self) -> AnyReader:
        """The reader; each process opens its own."""
        if self._opened is None:
            self._opened = open_bags(self._paths)
        return self._opened

    def _tracks(self) -> dict[tuple[int, str], _Track]:
        """The messages of frames by agent and part."""
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
            track.sort()
        return tracks

    def _messages(
        self, connections: Sequence[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterable[tuple[Connection, int, bytes]]:
        with located(f'{self._name} is damaged'):
            yield from self._reader.messages(connections, start, stop)

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
                near = tracks[agent, 'points'].around(stamp, 0 if agent == self.ego else _SWEEP_TOLERANCE)
                support = near and tracks[agent, 'odometry'].around(near[0].stamp, _POSE_TOLERANCE)
                if support:
                    clouds[agent], poses[agent] = near[0], support
            if self.ego in clouds:
                for agent, support in poses.items():
                    last = max(message.stamp for message in support)
                    since = tracks[agent, 'odometry'].until(last, played[agent])
                    # A message that two frames need belongs to both.
                    odometry[agent] = sorted({*since, *support}, key=lambda message: message.stamp)
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
                or row.stamp - self._rows[starts[-1]].stamp >= _LENGTH
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
        return len(self._rows)

    @property
    def rate(self) -> float:
        """Frames per second, from the median step between two frames; 10 if there is only one."""
        steps = np.diff([row.stamp for row in self._rows])
        return float(NANOSECONDS / np.median(steps)) if len(steps) else 10.0

    def scenarios(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each scenario: the recording is cut at gaps and every 10 s."""
        return self._drives

    def files(self, rows: range) -> set[Path]:
        """All bags, as each may contain a part of any frame."""
        return {path.resolve() for path in self._paths}

    def recorded(self, index: int) -> RecordedFrame:
        """The messages of a frame as they were recorded.

        Raises:
            IndexError: if there is no such frame.
            DatasetError: if a message cannot be read.
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
            raise DatasetError(f'{self._name} has changed since it was opened')
        return found

    def _decoded(self, message: _Message, data: dict[_Message, bytes]) -> Any:
        connection = self._reader.connections[message.connection]
        with located(f'{self._name}: {connection.topic} at {message.logged}'):
            return self._reader.deserialize(data[message], connection.msgtype)

    def __getitem__(self, index: int) -> CoopFrame:
        row = self._rows[index]
        index %= len(self._rows)
        support = itertools.chain.from_iterable(row.poses.values())
        data = self._read([*row.clouds.values(), *support, *filter(None, [row.truth])])
        agents: dict[int, AgentSweep] = {}
        maps: set[str] = set()
        for agent, cloud in row.clouds.items():
            odometry = {message.stamp: self._decoded(message, data) for message in row.poses[agent]}
            maps.update(message.header.frame_id for message in odometry.values())
            where = f'{self._name}: {agent_name(agent)} at {row.stamp}'
            agents[agent] = _sweep(cloud.stamp, self._decoded(cloud, data), odometry, where)
        if len(maps) > 1:
            raise DatasetError(f'{self._name} at {row.stamp}: poses in different frames: {sorted(maps)}')
        truth: Boxes3D | None = None
        if row.truth is not None:
            with located(f'{self._name}: {TRUTH_TOPIC} at {row.stamp}'):
                truth = boxes_of(self._decoded(row.truth, data))
            truth = truth.with_boxes(transform_boxes(agents[self.ego].pose, truth.boxes))
        name, rows = next((name, rows) for name, rows in self._drives if index in rows)
        return CoopFrame(agents, self.ego, row.stamp, truth, name, index - rows.start)

    def problems(self, index: int) -> list[DatasetError]:
        """The first error in a frame, if any."""
        error = raised(lambda: self[index])
        return [error] if error else []

    def strays(self) -> list[DatasetError]:
        """The number of incomplete frames, if any, as one error."""
        if not self.incomplete:
            return []
        return [DatasetError(f'{self._name}: {self.incomplete} frames are incomplete')]


def _sweep(stamp: int, cloud: Any, odometry: dict[int, Any], where: str) -> AgentSweep:
    for message in odometry.values():
        if message.child_frame_id != cloud.header.frame_id:
            raise DatasetError(
                f'{where}: odometry gives the pose of {message.child_frame_id!r}, '
                f'but the cloud is in {cloud.header.frame_id!r}'
            )
    with located(where):
        points = read_cloud(cloud)
        lidar = pose_at(stamp, list(odometry), lambda chosen: pose_of_odometry(odometry[chosen]))
        velocity = None if lidar.linear is None else lidar.pose[:3, :3] @ lidar.linear
        return AgentSweep(points.points, lidar.pose, points.ring, points.time, velocity)
