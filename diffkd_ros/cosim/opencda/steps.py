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
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame, FrameError
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.carla import flip_points, pose_from_carla
from diffkd_ros.geometry.poses import Matrix, PoseError, inverse
from diffkd_ros.messages.reading import NANOSECONDS

# Limit of `builtin_interfaces/Time`, nanoseconds.
_STAMPS_END = 2**31 * NANOSECONDS


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
        stamp = round(float(head['stamp']) * NANOSECONDS)
        if not 0 <= stamp < _STAMPS_END:
            raise StepError(f'received a stamp of {head["stamp"]} s, expected 0 to 2^31 s')
        sizes = [int(agent['points']) for agent in described]
        if min(sizes, default=0) < 0 or len(data) != POINT_BYTES * sum(sizes):
            raise StepError(f'received {len(data)} bytes for sweeps of {sizes} points of {POINT_BYTES} bytes')
        points = np.frombuffer(data, '<f4').reshape(-1, 4)
        read = {}
        for agent, end in zip(described, np.cumsum(sizes), strict=True):
            number = int(agent['agent'])
            if number in agents:
                read[number] = _agent(agent, points[end - int(agent['points']) : end])
        heard = {number: each.sweep for number, each in read.items() if _hears(read.get(ego), each)}
        frame = CoopFrame(heard, ego, stamp, scenario='opencda', index=int(head['frame']))
        return Step(frame, read[ego].body)
    except (KeyError, TypeError, OverflowError, FrameError, PoseError) as error:
        raise StepError(f'unreadable step: {type(error).__name__}: {error}') from error
    except StepError:
        raise
    except (DiffkdError, ValueError) as error:
        raise StepError(f'unreadable step: {error}') from error


def _agent(described: Mapping[str, Any], points: NDArray[np.float32]) -> _Agent:
    """Read the description of an agent; `points`: its sweep in CARLA's convention."""
    if described.get('rotation') is not None:
        check_rotation(*map(float, described['rotation']))
    lidar = pose_from_carla(*map(float, described['lidar']))
    moved = np.eye(4)
    if described.get('localised') is not None:
        estimated, actual = described['localised']
        moved = _flat_pose(*map(float, estimated)) @ inverse(_flat_pose(*map(float, actual)))
    sweep = flip_points(points)
    body = None
    if described.get('body') is not None:
        vehicle, box, extent = (
            list(map(float, described['body'][key])) for key in ('vehicle', 'box', 'extent')
        )
        if len(extent) != 3:
            raise FrameError(f'the extent of a body must be three numbers, got {extent}')
        actual_body = Body(pose_from_carla(*vehicle) @ pose_from_carla(*box), 2.0 * np.array(extent))
        sweep = actual_body.outside(sweep, lidar)
        body = Body(moved @ actual_body.pose, actual_body.size)
    velocity = described.get('velocity')
    return _Agent(
        AgentSweep(
            sweep,
            moved @ lidar,
            velocity=None if velocity is None else flip_points(np.array([velocity], float))[0],
        ),
        body,
        None if described.get('reach') is None else float(described['reach']),
    )


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
