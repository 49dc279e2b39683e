# SPDX-License-Identifier: Apache-2.0
"""Converts the messages of `diffkd_opencda`, in CARLA's convention, to frames, and boxes to its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.cosim.bodies import Body
from diffkd_ros.cosim.opencda.diffkd_opencda import POINT_BYTES, PROTOCOL
from diffkd_ros.cosim.world_clock import check_rotation
from diffkd_ros.documents import integer, number, numbers
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.carla import flip_points, pose_from_carla
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.messages.reading import NANOSECONDS

# Last second of `builtin_interfaces/Time`.
_LAST_SECOND = 2**31 - 1
# Limits of a LiDAR's turns per second and of a world's step, seconds.
_RATES = 1e-3, 1e3


class StepError(DiffkdError):
    """A message that is not a readable step of the world."""


@dataclass(frozen=True)
class Step:
    """A step of the world.

    Attributes:
        frame: sweeps of the ego and of the neighbours in its communication range, without returns on the
            vehicles that carry the LiDARs.
        ego_body: the ego's own body; None for a road-side unit.
    """

    frame: CoopFrame
    ego_body: Body | None


@dataclass(frozen=True)
class _Agent:
    """A description of an agent in a message, with its sweep.

    Attributes:
        reach: communication range in metres, 0: V2X is disabled; None: unlimited.
    """

    sweep: AgentSweep
    body: Body | None
    reach: float | None


def read_step(head: object, data: bytes | memoryview, agents: Sequence[int], ego: int) -> Step:
    """Read a step's message.

    Args:
        head: the decoded JSON line, of any type.
        data: the sweeps, float32.
        agents: agents that have nodes; others are ignored.
        ego: the agent that fuses.

    Raises:
        StepError: if something is missing or of the wrong type or size, a LiDAR does not turn once per step,
            or the ego is not included.
    """
    if not isinstance(head, Mapping):
        raise StepError(f'unreadable step: its head is no JSON object but {type(head).__name__}')
    if head.get('protocol') != PROTOCOL:
        raise StepError(
            f'received protocol {head.get("protocol")!r}, expected {PROTOCOL}: use the '
            'diffkd_opencda of this release'
        )
    try:
        described = list(head['agents'])
        stamp = _stamp(head['stamp'])
        sizes = [integer(agent['points'], 0) for agent in described]
        if len(data) != POINT_BYTES * sum(sizes):
            raise StepError(f'received {len(data)} bytes for sweeps of {sizes} points of {POINT_BYTES} bytes')
        points = np.frombuffer(data, '<f4').reshape(-1, 4)
        read = {}
        for agent, size, end in zip(described, sizes, np.cumsum(sizes), strict=True):
            name = integer(agent['agent'])
            if name in agents:
                read[name] = _agent(agent, points[end - size : end])
        heard = {name: each.sweep for name, each in read.items() if _hears(read.get(ego), each)}
        frame = CoopFrame(heard, ego, stamp, scenario='opencda', index=integer(head['frame'], 0))
        return Step(frame, read[ego].body)
    except StepError:
        raise
    except DiffkdError as error:
        raise StepError(f'unreadable step: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        raise StepError(f'unreadable step: {type(error).__name__}: {error}') from error


def _stamp(seconds: object) -> int:
    """A stamp in nanoseconds."""
    try:
        return round(number(seconds, 0, _LAST_SECOND) * NANOSECONDS)
    except DiffkdError as error:
        raise StepError(f'unreadable step: stamp: {error} s') from error


def _agent(described: Mapping[str, Any], points: NDArray[np.float32]) -> _Agent:
    """Read the description of an agent; `points`: its sweep in CARLA's convention."""
    if (rotation := described.get('rotation')) is not None:
        turns, step = rotation
        check_rotation(number(turns, *_RATES), number(step, *_RATES))
    lidar = pose_from_carla(*numbers(described['lidar'], 6))
    moved = np.eye(4)
    if (localised := described.get('localised')) is not None:
        estimated, actual = numbers(localised, 2, 3)
        moved = _flat_pose(*estimated) @ inverse(_flat_pose(*actual))
    # A sum is finite only if all its terms are: the usual sweep is not copied.
    with np.errstate(invalid='ignore', over='ignore'):
        if not np.isfinite(points.sum()):
            points = points[np.isfinite(points).all(axis=1)]
    sweep = flip_points(points)
    body = None
    if (placed := described.get('body')) is not None:
        vehicle, box = (pose_from_carla(*numbers(placed[key], 6)) for key in ('vehicle', 'box'))
        actual_body = Body(vehicle @ box, 2.0 * numbers(placed['extent'], 3))
        sweep = actual_body.outside(sweep, lidar)
        body = Body(moved @ actual_body.pose, actual_body.size)
    velocity = described.get('velocity')
    if velocity is not None:
        (velocity,) = flip_points(numbers([velocity], 1, 3))
    reach = described.get('reach')
    reach = None if reach is None else number(reach, 0)
    return _Agent(AgentSweep(sweep, moved @ lidar, velocity=velocity), body, reach)


def _flat_pose(x: float, y: float, yaw: float) -> Matrix:
    """Pose in the ground plane of CARLA's map, metres and degrees."""
    return pose_from_carla(x, y, 0.0, 0.0, yaw, 0.0)


def _hears(ego: _Agent | None, agent: _Agent) -> bool:
    """Returns whether the ego receives an agent's messages."""
    if ego is None or agent is ego:
        return True
    if 0.0 in (ego.reach, agent.reach):
        return False
    apart = math.dist(ego.sweep.pose[:3, 3], agent.sweep.pose[:3, 3])
    return ego.reach is None or apart <= ego.reach


def rows_in_carla(boxes: Boxes3D, lidar_pose: Matrix, own: Body | None = None) -> NDArray[np.float32]:
    """Convert detections to the rows sent to the adapter.

    Args:
        boxes: with scores, in the LiDAR frame, REP-103.
        lidar_pose: map <- LiDAR.
        own: body of the vehicle that plans with them; detections of it are left out.

    Returns:
        (n, 8) float32 x, y, z, length, width, height, yaw in degrees and score in CARLA's map.
    """
    in_map = transform_boxes(lidar_pose, boxes.boxes)
    scores = np.zeros(len(boxes)) if boxes.scores is None else boxes.scores
    yaw = [-math.degrees(angle) for angle in in_map[:, 6]]
    rows = np.c_[in_map[:, :6] * (1.0, -1.0, 1.0, 1.0, 1.0, 1.0), yaw, scores]
    if own is not None:
        rows = rows[~own.under(in_map)]
    return rows.astype(np.float32).reshape(-1, 8)
