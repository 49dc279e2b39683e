# SPDX-License-Identifier: Apache-2.0
"""Reading stamps, boxes and latencies from messages.

Only attributes are read, so messages of rclpy and of `rosbags` are both accepted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import Boxes3D

NANOSECONDS = 1_000_000_000


class MessageError(DiffkdError):
    """The fields of a message contradict each other."""


def stamp_of(header: Any) -> int:
    """A header's stamp in nanoseconds."""
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec)


def finite(value: Any, name: str) -> float:
    """A number of a message.

    Raises:
        MessageError: if it is not finite; it says what the number is.
    """
    if not math.isfinite(value):
        raise MessageError(f'{name} is {value}')
    return float(value)


def latency_of(status: Any) -> dict[str, float]:
    """The milliseconds of each stage in a `FusionStatus`.

    Raises:
        MessageError: if the columns differ in length, or a time is not finite.
    """
    names, times = status.stages, status.latency_ms
    if len(names) != len(times):
        raise MessageError(f'FusionStatus with {len(names)} stages has {len(times)} in latency_ms')
    return {name: finite(time, f'latency of {name}') for name, time in zip(names, times, strict=True)}


def boxes_of(message: Any) -> Boxes3D:
    """The boxes of a `diffkd_ros/Boxes3D`, in the frame its header names.

    Raises:
        MessageError: if the columns differ in length, or a score is not finite.
        FrameError: if a box is not finite.
    """
    labels = np.asarray(message.labels, np.int64)
    count = len(labels)
    sizes = {'boxes': len(message.boxes) / 7}
    sizes |= {name: len(getattr(message, name)) for name in ('scores', 'track_ids', 'num_points')}
    wrong = {k: v for k, v in sizes.items() if v != count and (k == 'boxes' or v)}
    if wrong:
        raise MessageError(f'Boxes3D with {count} labels has {wrong} rows in other columns')
    if not np.isfinite(message.scores).all():
        raise MessageError('Boxes3D has a score that is not finite')
    return Boxes3D(
        np.asarray(message.boxes, np.float64).reshape(count, 7),
        scores=np.asarray(message.scores, np.float32) if len(message.scores) == count else None,
        labels=labels,
        track_ids=np.asarray(message.track_ids, np.int64) if len(message.track_ids) else None,
        num_points=np.asarray(message.num_points, np.int64) if len(message.num_points) else None,
    )
