# SPDX-License-Identifier: Apache-2.0
"""Reads frames from a recorded rosbag2 (MCAP or sqlite3) without ROS."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.sources.point_cloud import read_cloud
from diffkd_ros.sources.ros_messages import agent_name, agent_number, boxes_of, pose_of, stamp_of

_TOPIC = re.compile(r'/((?:cav|rsu)_\d+)/(points|odometry)')
_TRUTH = '/ground_truth'
# A frame that is still incomplete when so many newer ones have begun will stay so.
_PENDING = 20


class BagError(ValueError):
    """A bag that cannot be read as frames."""


@dataclass
class _Pending:
    clouds: dict[int, Any] = field(default_factory=dict)
    odometry: dict[int, Any] = field(default_factory=dict)
    truth: Any = None


class RosbagSource:
    """Iterates the frames of a bag in the order of their stamps.

    A frame is made of the `/cav_<n>/points` and `/cav_<n>/odometry` (road-side units: `/rsu_<n>/...`) and
    the `/ground_truth` that carry the same stamp. A frame that lacks an agent's cloud or pose is given with
    the agents it has, and left out if the ego is missing; `incomplete` counts both.

    The recorded ground truth holds the vehicles around the ego but not the ego itself: its box is unknown.

    Args:
        path: the bag's folder, or an .mcap file.
        ego: agent that fuses; if None, the one in whose LiDAR frame the ground truth is given, else the
            lowest number.

    Raises:
        BagError: if it is no bag, or holds no agent's clouds and odometry.
    """

    def __init__(self, path: Path | str, ego: int | None = None) -> None:
        self.path = Path(path)
        self.incomplete = 0
        with self._open() as reader:
            topics = {topic: _TOPIC.fullmatch(topic) for topic in reader.topics}
            found: dict[str, set[int]] = {'points': set(), 'odometry': set()}
            for match in topics.values():
                if match:
                    found[match[2]].add(agent_number(match[1]))
            self.agents = sorted(found['points'] & found['odometry'])
            self._has_truth = _TRUTH in topics
            if not self.agents:
                raise BagError(
                    f'{self.path} has no agent with both /cav_<n>/points and /cav_<n>/odometry; '
                    f'it has {", ".join(sorted(topics)) or "no topics"}'
                )
            self.ego = self._truth_agent(reader) if ego is None else ego
        if self.ego not in self.agents:
            raise BagError(f'ego {self.ego} is not among the agents of {self.path}: {self.agents}')

    def _open(self) -> AnyReader:
        if not self.path.exists():
            raise BagError(f'no bag at {self.path}')
        try:
            return AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        except (AnyReaderError, OSError) as error:
            raise BagError(f'{self.path} is no bag: {error}') from error

    def _truth_agent(self, reader: AnyReader) -> int:
        connections = [c for c in reader.connections if c.topic == _TRUTH]
        for connection, _, data in reader.messages(connections):
            frame_id = reader.deserialize(data, connection.msgtype).header.frame_id  # type: ignore[attr-defined]
            names = {agent_name(agent): agent for agent in self.agents}
            return names.get(frame_id.partition('/')[0], self.agents[0])
        return self.agents[0]

    def __iter__(self) -> Iterator[CoopFrame]:
        index = 0
        self.incomplete = 0
        for stamp, item in self._recorded():
            frame = self._frame(stamp, item, index)
            if frame is not None:
                yield frame
                index += 1

    def _recorded(self) -> Iterator[tuple[int, _Pending]]:
        """Stamps with all that was recorded for them, oldest first."""
        pending: dict[int, _Pending] = defaultdict(_Pending)
        with self._open() as reader:
            wanted = [c for c in reader.connections if _TOPIC.fullmatch(c.topic) or c.topic == _TRUTH]
            for connection, _, data in reader.messages(wanted):
                message: Any = reader.deserialize(data, connection.msgtype)
                item = pending[stamp_of(message.header)]
                match = _TOPIC.fullmatch(connection.topic)
                if match is None:
                    item.truth = message
                else:
                    table = item.clouds if match[2] == 'points' else item.odometry
                    table[agent_number(match[1])] = message
                while pending and (self._complete(pending[min(pending)]) or len(pending) > _PENDING):
                    stamp = min(pending)
                    yield stamp, pending.pop(stamp)
            for stamp in sorted(pending):
                yield stamp, pending[stamp]

    def _complete(self, item: _Pending) -> bool:
        return (
            all(agent in item.clouds and agent in item.odometry for agent in self.agents)
            and (item.truth is not None) == self._has_truth
        )

    def _frame(self, stamp: int, item: _Pending, index: int) -> CoopFrame | None:
        if not self._complete(item):
            self.incomplete += 1
        agents = {
            agent: _sweep(item.clouds[agent], item.odometry[agent])
            for agent in sorted(item.clouds.keys() & item.odometry.keys())
        }
        if self.ego not in agents:
            return None
        truth: Boxes3D | None = None
        if item.truth is not None:
            truth = boxes_of(item.truth)
            truth = truth.with_boxes(transform_boxes(agents[self.ego].pose, truth.boxes))
        return CoopFrame(agents, self.ego, stamp, truth, self.path.stem, index)


def _sweep(cloud: Any, odometry: Any) -> AgentSweep:
    points = read_cloud(cloud)
    pose = pose_of(odometry.pose.pose)
    velocity = None
    if odometry.twist.covariance[0] >= 0:
        linear = odometry.twist.twist.linear
        velocity = pose[:3, :3] @ (linear.x, linear.y, linear.z)
    return AgentSweep(points.points, pose, points.ring, points.time, velocity)
