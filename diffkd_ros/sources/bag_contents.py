# SPDX-License-Identifier: Apache-2.0
"""Which topic of a recording holds what: by its name or an option, and by its message type.

Standard names are `/cav_<n>/points`, `/cav_<n>/odometry` or `/cav_<n>/pose` (road-side units: `/rsu_<n>/`),
`/ground_truth` and `/tf_static`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.frame_tree import FrameTree
from diffkd_ros.geometry.lidar_pose import mounting
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.names import AGENT_PATTERN, BOXES3D_TYPE, TRUTH_TOPIC, agent_name, agent_number
from diffkd_ros.messages.poses import POSE_READERS, pose_of_transform
from diffkd_ros.sources.bag_files import Channel, Recording
from diffkd_ros.sources.dataset import DatasetError, located

POINTS, TRUTH, TRANSFORMS = 'points', TRUTH_TOPIC[1:], 'tf_static'
# Where an agent has both, its odometry is used.
POSES = ('odometry', 'pose')
_TYPES: dict[str, tuple[str, ...]] = {
    POINTS: ('sensor_msgs/msg/PointCloud2',),
    **dict.fromkeys(POSES, tuple(POSE_READERS)),
    TRUTH: (BOXES3D_TYPE,),
    TRANSFORMS: ('tf2_msgs/msg/TFMessage',),
}
_NAME = re.compile(rf'(?:({AGENT_PATTERN})/({POINTS}|{"|".join(POSES)}|{TRANSFORMS})|{TRUTH}|{TRANSFORMS})')


@dataclass(slots=True)
class AgentTopics:
    """The topics of one agent.

    Attributes:
        points: of its clouds.
        poses: of its poses.
        problem: why it cannot be used; empty if it can.
    """

    points: list[Channel] = field(default_factory=list)
    poses: list[Channel] = field(default_factory=list)
    problem: str = ''

    @property
    def bags(self) -> set[Path]:
        """The bags that hold the topics."""
        return {channel.bag for channel in self.points + self.poses}


@dataclass(slots=True)
class Contents:
    """The topics of a recording.

    Attributes:
        agents: by number, ascending, also those that cannot be used.
        truth: ground truth.
        transforms: constant transforms, by the agent whose they are; None: of every agent in the same bag.
        standard: whether all are at their standard names, and poses are odometry.
        remarks: a line for everything that is not used.
    """

    agents: dict[int, AgentTopics]
    truth: list[Channel]
    transforms: list[tuple[int | None, Channel]]
    standard: bool
    remarks: list[str]


def find_contents(recording: Recording, named: Sequence[str]) -> Contents:
    """Find the topics of a recording.

    Args:
        recording: opened.
        named: topics with other names, as ``cav_1/points=/lidar/points``; with several bags that use the same
            names ``cav_1/points=BAG:/lidar/points``, where BAG is the end of the bag's path.

    Raises:
        DatasetError: if a name is not understood or not in the recording.
    """
    other = _parse_names(named)
    found: dict[tuple[int | None, str], list[Channel]] = {}
    met: set[str] = set()
    for channel in recording.channels:
        names = [
            name
            for name, (bag, topic) in other.items()
            if topic == channel.topic and (not bag or channel.bag.match(bag))
        ]
        met.update(names)
        if channel.topic[1:] not in other:
            names.append(channel.topic[1:])
        for match in filter(None, map(_NAME.fullmatch, names)):
            agent = agent_number(match[1]) if match[1] else None
            found.setdefault((agent, match[2] or match[0]), []).append(channel)
    if missing := other.keys() - met:
        name, (bag, topic) = min(missing), other[min(missing)]
        topics = ', '.join(sorted({channel.topic for channel in recording.channels}))
        raise DatasetError(f'{bag or recording.name} has no topic {topic} for {name}; it has {topics}')
    remarks: list[str] = []
    right: dict[tuple[int | None, str], list[Channel]] = {}
    for key, channels in found.items():
        right[key] = [channel for channel in channels if channel.message_type in _TYPES[key[1]]]
        remarks += {_wrong_type(c, key[1]): None for c in channels if c.message_type not in _TYPES[key[1]]}
    agents = {
        agent: _topics_of(agent, right, remarks)
        for agent in sorted({agent for agent, part in found if agent is not None and part != TRANSFORMS})
    }
    poses = {channel.message_type for topics in agents.values() for channel in topics.poses}
    return Contents(
        agents,
        right.get((None, TRUTH), []),
        [(agent, c) for (agent, part), channels in right.items() if part == TRANSFORMS for c in channels],
        not other and poses <= {'nav_msgs/msg/Odometry'},
        remarks,
    )


def _wrong_type(channel: Channel, part: str) -> str:
    return f'{channel.topic} is {channel.message_type}, not {" or ".join(_TYPES[part])}'


def _topics_of(
    agent: int, right: dict[tuple[int | None, str], list[Channel]], remarks: Iterable[str]
) -> AgentTopics:
    points = right.get((agent, POINTS), [])
    poses = next((channels for part in POSES if (channels := right.get((agent, part), []))), [])
    problem = ''
    if not points or not poses:
        name = agent_name(agent)
        wanted = f'/{name}/{POINTS}' if not points else f'/{name}/{POSES[0]} or /{name}/{POSES[1]}'
        wrong = [remark for remark in remarks if remark.startswith(f'/{name}/')]
        problem = '; '.join([f'no usable {wanted}', *wrong])
    return AgentTopics(points, poses, problem)


def _parse_names(named: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Bag (may be empty) and topic by standard name without the slash."""
    result: dict[str, tuple[str, str]] = {}
    for text in named:
        name, _, place = text.partition('=')
        bag, slash, topic = place.rpartition(':/') if ':/' in place else ('', '/', place.removeprefix('/'))
        name = name.strip().lstrip('/')
        if not _NAME.fullmatch(name) or not topic:
            raise DatasetError(
                f'topic {text!r}: expected NAME=/topic or NAME=BAG:/topic, where NAME is {TRUTH}, '
                f'{TRANSFORMS}, cav_<n>/{POINTS}, cav_<n>/{POSES[0]}, cav_<n>/{POSES[1]} or '
                f'cav_<n>/{TRANSFORMS}, or the same with rsu_<n>'
            )
        result[name] = bag, f'{slash[-1]}{topic}'
    return result


class Mountings:
    """Where the LiDARs are mounted: by an option, else by the constant transforms in the recording.

    An agent's transforms are those in the bags that hold its clouds or poses, so that frames of several
    agents may have the same names.

    Args:
        given: x, y, z (m), roll, pitch, yaw (rad) of the LiDAR in the frame whose pose is recorded, as
            ``1.2,0,1.9,0,0,0`` for all agents or ``cav_1=1.2,0,1.9,0,0,0`` for one; zeros are ignored.
        recording: opened.
        contents: of the recording; unreadable transforms are added to its remarks.

    Raises:
        DatasetError: if one that is given is not of this form.
    """

    def __init__(self, given: Sequence[str], recording: Recording, contents: Contents) -> None:
        self._given: dict[int | None, Matrix | None] = {}
        self._trees = {agent: FrameTree() for agent in contents.agents}
        for text in given:
            agent, _, values = text.rpartition('=')
            try:
                mount = mounting([float(value) for value in values.split(',')])
                self._given[agent_number(agent) if agent else None] = mount
            except (ValueError, DiffkdError) as error:
                raise DatasetError(
                    f'base_to_lidar {text!r}: expected x,y,z,roll,pitch,yaw or cav_<n>=x,y,z,roll,pitch,yaw'
                ) from error
        owners = {channel: owner for owner, channel in contents.transforms}
        for channel, _, data in recording.messages(owners.keys()):
            owner = owners[channel]
            trees = [
                self._trees[agent]
                for agent, topics in contents.agents.items()
                if owner == agent or (owner is None and channel.bag in topics.bags)
            ]
            try:
                with located(channel.topic):
                    for transform in recording.deserialize(data, channel).transforms:
                        matrix = pose_of_transform(transform.transform)
                        for tree in trees:
                            tree.add(transform.header.frame_id, transform.child_frame_id, matrix)
            except DatasetError as error:
                contents.remarks.append(f'a message is left out: {error}')

    def of(self, agent: int, base: str, lidar: str) -> Matrix | None:
        """The (4, 4) transform base <- LiDAR of an agent; None if the two are the same frame.

        Args:
            agent: its number.
            base: frame whose pose is recorded; empty if unknown, which is taken for the LiDAR's.
            lidar: frame of its clouds.

        Raises:
            DiffkdError: if nothing connects the two.
        """
        given = self._given.get(agent, self._given.get(None))
        if given is not None:
            return given
        if not base or base == lidar:
            return None
        found = self._trees[agent].between(base, lidar)
        if found is None:
            raise DiffkdError(
                f'odometry gives the pose of {base!r}, but the cloud is in {lidar!r}, and no /tf_static '
                'connects the two: give base_to_lidar'
            )
        return found
