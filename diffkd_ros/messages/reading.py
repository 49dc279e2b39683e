# SPDX-License-Identifier: Apache-2.0
"""Reading the other messages of a cooperative set-up into our own types, and the names its agents go by.

Like `point_cloud` it reads attributes only: messages of rclpy and of `rosbags` do alike.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import Matrix, pose_from_quaternion

BOXES3D_TYPE = 'diffkd_ros/msg/Boxes3D'
# For bags that carry no message definitions. As msg/Boxes3D.msg has it, which is not at hand here: a source
# needs no installation of the package.
BOXES3D_DEFINITION = """
std_msgs/Header header
string[] class_names
float32[] boxes
float32[] scores
uint8[] labels
int32[] track_ids
int32[] num_points
"""

# The frames of what this package plays and writes; recordings may have others.
MAP_FRAME = 'map'
CLASS_NAMES = ['vehicle']
TRUTH_TOPIC = '/ground_truth'

_AGENT = re.compile(r'(cav|rsu)_(\d+)')


class MessageError(DiffkdError):
    """A message whose fields contradict each other or make no sense."""


def agent_name(agent: int) -> str:
    """The namespace and V2X name of an agent: ``cav_7`` for vehicle 7, ``rsu_1`` for road-side unit -1."""
    return f'cav_{agent}' if agent >= 0 else f'rsu_{-agent}'


def lidar_frame(agent: str) -> str:
    """The frame of an agent's LiDAR."""
    return f'{agent}/lidar'


def agent_number(name: str) -> int:
    """The inverse of `agent_name`.

    Raises:
        MessageError: if the name has another form.
    """
    match = _AGENT.fullmatch(name)
    if not match:
        raise MessageError(f'agent name {name!r} is neither cav_<number> nor rsu_<number>')
    return int(match[2]) if match[1] == 'cav' else -int(match[2])


def stamp_of(header: Any) -> int:
    """A header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def latency_of(status: Any) -> dict[str, float]:
    """The milliseconds of each stage in a `FusionStatus`.

    Raises:
        MessageError: if the columns differ in length.
    """
    names, times = status.stages, status.latency_ms
    if len(names) != len(times):
        raise MessageError(f'FusionStatus with {len(names)} stages has {len(times)} in latency_ms')
    return dict(zip(names, map(float, times), strict=True))


def pose_of(pose: Any) -> Matrix:
    """A `geometry_msgs/Pose` as a (4, 4) transform.

    Raises:
        PoseError: if it is not a finite rigid transform.
    """
    p, q = pose.position, pose.orientation
    return pose_from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def boxes_of(message: Any) -> Boxes3D:
    """A `diffkd_ros/Boxes3D` as boxes in the frame its header names.

    Raises:
        MessageError: if the columns differ in length.
        FrameError: if a box is not finite.
    """
    labels = np.asarray(message.labels, np.int64)
    count = len(labels)
    sizes = {'boxes': len(message.boxes) / 7}
    sizes |= {name: len(getattr(message, name)) for name in ('scores', 'track_ids', 'num_points')}
    wrong = {k: v for k, v in sizes.items() if v != count and (k == 'boxes' or v)}
    if wrong:
        raise MessageError(f'Boxes3D with {count} labels has {wrong} rows in other columns')
    return Boxes3D(
        np.asarray(message.boxes, np.float64).reshape(count, 7),
        scores=np.asarray(message.scores, np.float32) if len(message.scores) == count else None,
        labels=labels,
        track_ids=np.asarray(message.track_ids, np.int64) if len(message.track_ids) else None,
        num_points=np.asarray(message.num_points, np.int64) if len(message.num_points) else None,
    )
