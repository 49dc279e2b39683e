# SPDX-License-Identifier: Apache-2.0
"""Reads frames from recorded rosbag2 files (MCAP or sqlite3) without ROS.

Damage costs what it is in, an agent's sweep, a pose or the ground truth of one frame, and is reported in
`CoopFrame.left_out` and by `RosbagDataset.strays`. Without the ego there is no frame.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.documents import user_path
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.lidar_pose import LidarPose, mounted, pose_at
from diffkd_ros.geometry.poses import Matrix, euler_from_pose
from diffkd_ros.messages.building import make_from, stamped_as_odometry
from diffkd_ros.messages.clouds import INTENSITY_SCALES, CloudPoints, EmptyCloudError, read_cloud
from diffkd_ros.messages.intensity import IntensityScale
from diffkd_ros.messages.names import TRUTH_TOPIC, agent_name
from diffkd_ros.messages.poses import POSE_READERS
from diffkd_ros.messages.reading import NANOSECONDS, boxes_of
from diffkd_ros.sources.bag_contents import Mountings, find_contents
from diffkd_ros.sources.bag_files import Recording, open_bags, recorded_stamp
from diffkd_ros.sources.bag_frames import (
    POSE_TOLERANCE,
    Message,
    Row,
    Track,
    assemble,
    read_tracks,
    scenario_starts,
)
from diffkd_ros.sources.dataset import DatasetError, located, raised

_ODOMETRY = 'nav_msgs/msg/Odometry'
# Clouds of each agent, evenly spaced, from which the range of its intensities is found.
_SAMPLED = 5


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """The messages of a frame as they were recorded.

    Attributes:
        stamp: of the ego's cloud, nanoseconds.
        ego: agent that fuses.
        stamps: of the clouds, by agent.
        clouds: CDR bytes of the `sensor_msgs/PointCloud2` by agent.
        odometry: of every `nav_msgs/Odometry` since the frame before, up to those the cloud's pose needs;
            poses of another type are converted, with an unknown twist.
        ground_truth: of the `diffkd_ros/Boxes3D` with the ego's stamp, or None.
        left_out: agents that are not in the frame, as in `CoopFrame`.
    """

    stamp: int
    ego: int
    stamps: dict[int, int]
    clouds: dict[int, bytes]
    odometry: dict[int, list[bytes]]
    ground_truth: bytes | None
    left_out: dict[str, int]


class RosbagDataset:
    """The frames of one or several bags, in the order of their stamps; a `FrameDataset`.

    A frame is a cloud of the ego with a pose, every other agent's cloud less than 0.05 s away, and the ground
    truth with the same stamp. A cloud's pose is computed from the recorded poses by
    `diffkd_ros.geometry.lidar_pose.pose_at`, as in the nodes; the nearest must be at most 0.05 s away. If
    they are poses of another frame than the cloud's, the mounting comes from an option or from `/tf_static`.
    `bag_contents` says which topics are read.

    The stamps of all messages are read once, when the bags are opened; the rest is read frame by frame.

    Attributes:
        root: the first bag.
        agents: those with clouds and poses.
        ego: agent that fuses.
        incomplete: number of instants at which an agent or the ground truth is missing; without the ego there
            is no frame.
        standard: whether all topics have their standard names, and all poses are odometry.

    Args:
        paths: a bag's folder or .mcap file, or several that are read as one, such as one of each vehicle and
            one with the ground truth.
        ego: agent that fuses; if None, the one in whose LiDAR frame the ground truth is given, else the
            lowest number.
        topics: other names of topics, as of `find_contents`.
        base_to_lidar: mountings of the LiDARs, as of `Mountings`.
        intensity_scale: range of the intensities, one of `INTENSITY_SCALES`.

    Raises:
        DatasetError: if one is not a bag, an option is invalid, or they contain no frame.
    """

    def __init__(
        self,
        paths: Path | str | Iterable[Path | str],
        ego: int | None = None,
        topics: Sequence[str] = (),
        base_to_lidar: Sequence[str] = (),
        intensity_scale: str = 'auto',
    ) -> None:
        listed = [paths] if isinstance(paths, Path | str) else list(paths)
        self._paths = [user_path(path) for path in listed]
        self.root = self._paths[0]
        if intensity_scale not in INTENSITY_SCALES:
            raise DatasetError(
                f'intensity_scale {intensity_scale!r} is none of {", ".join(INTENSITY_SCALES)}'
            )
        self._intensities = intensity_scale
        self._ranges: dict[int, tuple[str, str]] = {}
        self._opened: Recording | None = None
        self._name = self._recording.name
        self._channels = self._recording.channels
        contents = find_contents(self._recording, topics)
        self.standard = contents.standard
        self._mountings = Mountings(base_to_lidar, self._recording, contents)
        tracks = read_tracks(self._recording, contents)
        self.agents = sorted(tracks.clouds)
        if not self.agents:
            found = ', '.join(sorted({channel.topic for channel in self._channels}))
            reasons = ''.join(f'; {agent_name(agent)}: {reason}' for agent, reason in tracks.unusable.items())
            raise DatasetError(
                f'{self._name} has no agent with both /cav_<n>/points and /cav_<n>/odometry; '
                f'it has {found}{reasons}'
            )
        self.ego = self._truth_agent(tracks.truth) if ego is None else ego
        if self.ego not in self.agents:
            because = f' ({tracks.unusable[self.ego]})' if self.ego in tracks.unusable else ''
            raise DatasetError(
                f'ego {self.ego} is not among the agents of {self._name}: {self.agents}{because}'
            )
        self._found = assemble(self.ego, tracks)
        self._rows, self.incomplete = self._found.rows, self._found.incomplete
        if not self._rows:
            apart = tracks.poses[self.ego].apart(tracks.clouds[self.ego])
            raise DatasetError(
                f'{self._name} has no frame: no cloud of {agent_name(self.ego)} has odometry within '
                f'{POSE_TOLERANCE / NANOSECONDS:g} s of it{apart}'
            )
        self._remarks = [*self._recording.remarks, *(f'{self._name}: {line}' for line in contents.remarks)]
        self._drives = self._cut()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_opened': None}

    @property
    def _recording(self) -> Recording:
        """The open bags; each process opens its own."""
        if self._opened is None:
            self._opened = open_bags(self._paths)
        return self._opened

    def _truth_agent(self, truth: Track) -> int:
        names = {agent_name(agent): agent for agent in self.agents}
        for stamp in truth.stamps:
            message = truth.messages[stamp]
            try:
                with located(TRUTH_TOPIC):
                    frame_id = self._decoded(message, self._read([message])).header.frame_id
            except DatasetError:
                continue  # reported with its frame
            return names.get(frame_id.partition('/')[0], self.agents[0])
        return self.agents[0]

    def _cut(self) -> list[tuple[str, range]]:
        starts = scenario_starts([row.stamp for row in self._rows])
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
        every_pose = itertools.chain.from_iterable(row.poses_since.values())
        data = self._read([*row.clouds.values(), *every_pose, *filter(None, [row.truth])])
        odometry = {
            agent: list(filter(None, (self._as_odometry(pose, row.clouds[agent], data) for pose in poses)))
            for agent, poses in row.poses_since.items()
        }
        return RecordedFrame(
            row.stamp,
            self.ego,
            {agent: message.stamp for agent, message in row.clouds.items()},
            {agent: data[message] for agent, message in row.clouds.items()},
            odometry,
            data[row.truth] if row.truth else None,
            dict.fromkeys(row.left_out, 1),
        )

    def _as_odometry(self, pose: Message, cloud: Message, data: dict[Message, bytes]) -> bytes | None:
        """A recorded pose as a serialised `nav_msgs/Odometry` of the frame of a cloud.

        Odometry is not read; of another type, a damaged message is None.
        """
        kind = self._channels[pose.channel].message_type
        if kind == _ODOMETRY:
            return data[pose]
        types = self._recording.types
        with suppress(DatasetError), located(kind):
            frame_id = self._decoded(cloud, data).header.frame_id
            odometry = stamped_as_odometry(self._decoded(pose, data), frame_id, make_from(types.types))
            return bytes(types.serialize_cdr(odometry, _ODOMETRY))
        return None

    def _read(self, wanted: Sequence[Message]) -> dict[Message, bytes]:
        found: dict[Message, bytes] = {}
        sought = set(wanted)
        # File by file: one may have been recorded long after another, such as labels after the drive.
        of_file: dict[int, list[Message]] = defaultdict(list)
        for message in sought:
            of_file[self._channels[message.channel].file].append(message)
        for messages in of_file.values():
            start, stop = min(m.logged for m in messages), max(m.logged for m in messages) + 1
            numbers = {self._channels[message.channel]: message.channel for message in messages}
            for channel, logged, data in self._recording.messages(numbers.keys(), start, stop):
                stamp = recorded_stamp(data)
                # Shorter messages were reported when the bags were opened.
                message = Message(-1 if stamp is None else stamp, numbers[channel], logged)
                if message in sought:
                    found[message] = bytes(data)
        if len(found) < len(sought):
            raise DatasetError(f'{self._name} has changed since it was opened')
        return found

    def _decoded(self, message: Message, data: dict[Message, bytes]) -> Any:
        return self._recording.deserialize(data[message], self._channels[message.channel])

    def __getitem__(self, index: int) -> CoopFrame:
        row = self._rows[index]
        index %= len(self._rows)
        support = itertools.chain.from_iterable(row.poses.values())
        data = self._read([*row.clouds.values(), *support, *filter(None, [row.truth])])
        left_out = list(row.left_out)
        with located(f'{self._name}: {agent_name(self.ego)} at {row.stamp}'):
            ego, map_frame = self._sweep(row, self.ego, data)
        agents = {self.ego: ego}
        for agent in row.clouds.keys() - agents.keys():
            sweep, reason = self._neighbour(row, agent, data, map_frame)
            if sweep is None:
                left_out.append(reason)
            else:
                agents[agent] = sweep
        truth = None
        if row.truth is not None:
            try:
                with located(TRUTH_TOPIC):
                    truth, unsized = _truth(self._decoded(row.truth, data), ego.pose)
                if unsized:
                    left_out.append(f'{TRUTH_TOPIC}: boxes whose length, width or height is not positive')
            except DatasetError as error:
                left_out.append(str(error))
        name, rows = next((name, rows) for name, rows in self._drives if index in rows)
        ordered = {agent: agents[agent] for agent in row.clouds if agent in agents}
        return CoopFrame(
            ordered, self.ego, row.stamp, truth, name, index - rows.start, dict.fromkeys(left_out, 1)
        )

    def _neighbour(
        self, row: Row, agent: int, data: dict[Message, bytes], map_frame: str
    ) -> tuple[AgentSweep | None, str]:
        """A neighbour's sweep, or why it is left out."""
        try:
            with located(agent_name(agent)):
                sweep, its_map = self._sweep(row, agent, data)
        except DatasetError as error:
            return None, str(error)
        if its_map != map_frame:
            return None, f"{agent_name(agent)}: its poses are in {its_map!r}, the ego's in {map_frame!r}"
        return sweep, ''

    def _sweep(self, row: Row, agent: int, data: dict[Message, bytes]) -> tuple[AgentSweep, str]:
        """An agent's sweep, and the frame that its pose is given in."""
        cloud = self._decoded(row.clouds[agent], data)
        poses = {message.stamp: message for message in row.poses[agent]}

        def read(stamp: int) -> LidarPose:
            message = self._decoded(poses[stamp], data)
            base = getattr(message, 'child_frame_id', '')
            mount = self._mountings.of(agent, base, cloud.header.frame_id)
            pose = POSE_READERS[self._channels[poses[stamp].channel].message_type](message)
            return pose if mount is None else mounted(pose, mount)

        try:
            points = read_cloud(cloud, self._range(agent)[0])
        except EmptyCloudError:
            points = CloudPoints.empty()
        lidar = pose_at(row.clouds[agent].stamp, list(poses), read)
        velocity = None if lidar.linear is None else lidar.pose[:3, :3] @ lidar.linear
        sweep = AgentSweep(points.points, lidar.pose, points.ring, points.time, velocity)
        return sweep, lidar.map_frame

    def _range(self, agent: int) -> tuple[str, str]:
        """The range of an agent's intensities, and why it may be wrong.

        It is found from a few clouds, the same in every process, as frames are read in any order.
        """
        if agent not in self._ranges:
            intensity, doubt = IntensityScale(self._intensities), ''
            clouds = [row.clouds[agent] for row in self._rows if agent in row.clouds]
            chosen = np.linspace(0, len(clouds) - 1, min(_SAMPLED, len(clouds))).round().astype(int)
            for cloud in [clouds[index] for index in chosen]:
                try:
                    with located(agent_name(agent)):
                        points = intensity.read(self._decoded(cloud, self._read([cloud])))
                except DatasetError:
                    continue  # reported with its frame
                doubt = doubt or intensity.doubt(points)
            self._ranges[agent] = intensity.scale, doubt
        return self._ranges[agent]

    def mounted_at(self, agent: int) -> tuple[float, ...] | None:
        """x, y, z (m), roll, pitch, yaw (rad) of an agent's LiDAR in the frame whose pose is recorded.

        It is that of the agent's first frame; None if the recorded pose is that of the LiDAR, or the agent is
        in no frame.

        Raises:
            DatasetError: if nothing connects the two frames, or a message cannot be read.
        """
        row = next((row for row in self._rows if agent in row.clouds), None)
        if row is None:
            return None
        messages = row.clouds[agent], row.poses[agent][0]
        with located(agent_name(agent)):
            cloud, pose = (self._decoded(message, self._read([message])) for message in messages)
            base = getattr(pose, 'child_frame_id', '')
            mount = self._mountings.of(agent, base, cloud.header.frame_id)
        return None if mount is None else (*map(float, mount[:3, 3]), *euler_from_pose(mount))

    def problems(self, index: int) -> list[DatasetError]:
        """The first error in a frame, if any."""
        error = raised(lambda: self[index])
        return [error] if error else []

    def strays(self) -> list[DatasetError]:
        """What is missing in the bags, or not used of them."""
        name, now = agent_name(self.ego), self._opened.remarks if self._opened else []
        # Bags that were opened again have seen less of the damage.
        lines = list(dict.fromkeys([*self._remarks, *now]))
        for count, what in (
            (self._found.without_pose, f'clouds of {name} are in no frame: no pose within 0.05 s'),
            (
                self._found.truth_alone,
                f'messages on {TRUTH_TOPIC} are in no frame: no cloud of {name} has their stamp',
            ),
            (self.incomplete, 'frames are incomplete'),
        ):
            if count:
                lines.append(f'{self._name}: {count} {what}')
        doubts = {agent_name(agent): self._range(agent)[1] for agent in self.agents}
        lines += [f'{self._name}: {agent}: {doubt}' for agent, doubt in doubts.items() if doubt]
        return [DatasetError(line) for line in lines]


def _truth(message: Any, ego_pose: Matrix) -> tuple[Boxes3D, bool]:
    """The ground truth in the map, and whether it has boxes without a size, which are left out."""
    truth = boxes_of(message)
    sized: NDArray[np.bool_] = np.all(truth.boxes[:, 3:6] > 0, axis=1)
    truth = truth[sized]
    return truth.with_boxes(transform_boxes(ego_pose, truth.boxes)), not sized.all()
