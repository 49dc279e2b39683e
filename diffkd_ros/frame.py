# SPDX-License-Identifier: Apache-2.0
"""The package's unit of data: a cooperative frame, its sweeps and its boxes.

Every source (simulator, OPV2V, DAIR-V2X, rosbag, CARLA, live topics) produces a `CoopFrame`; training,
evaluation and the nodes consume it. All coordinates follow REP-103: right-handed, x forward, y left, z up,
metres, radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.errors import DiffkdError


class FrameError(DiffkdError):
    """A frame, sweep or set of boxes whose arrays have an invalid shape or invalid values."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FrameError(message)


def _convert(owner: Boxes3D | AgentSweep, name: str, dtype: type, shape: tuple[int, ...]) -> None:
    """Convert an optional array of a frozen dataclass and check its shape."""
    value = getattr(owner, name)
    if value is not None:
        value = np.asarray(value, dtype)
        _require(value.shape == shape, f'{name} must be {shape}, got {value.shape}')
        object.__setattr__(owner, name, value)


def checked_boxes(boxes: ArrayLike, name: str = 'boxes') -> NDArray[np.float64]:
    """Return the boxes as a contiguous (n, 7) float64 array.

    Args:
        boxes: array-like; an empty sequence counts as no boxes.
        name: of the argument, for the error message.

    Raises:
        FrameError: if the shape is not (n, 7) or a value is NaN or infinite; the message names the row.
    """
    array = np.ascontiguousarray(boxes, np.float64)
    if array.shape == (0,):
        array = array.reshape(0, 7)
    _require(array.ndim == 2 and array.shape[1] == 7, f'{name} must be (n, 7), got {array.shape}')
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        raise FrameError(f'{name} hold NaN or infinity, first in row {row}: {array[row].tolist()}')
    return array


@dataclass(frozen=True, slots=True)
class Boxes3D:
    """Upright 3D boxes in one coordinate frame.

    Attributes:
        boxes: (n, 7) float64; centre x, y, z, length, width, height in metres, yaw in radians.
        scores: (n,) float32 in [0, 1], or None for ground truth.
        labels: (n,) int64 class index; 0 (`vehicle`) for all by default.
        track_ids: (n,) int64, or None. A connected vehicle's track id equals its agent id.
        num_points: (n,) int64 LiDAR returns on the object from all agents, or None if unknown.

    Raises:
        FrameError: if an array has another shape, or a box is not finite.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    track_ids: NDArray[np.int64] | None = None
    num_points: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        boxes = checked_boxes(self.boxes)
        object.__setattr__(self, 'boxes', boxes)
        if len(self.labels) == 0:
            object.__setattr__(self, 'labels', np.zeros(len(boxes), np.int64))
        _convert(self, 'scores', np.float32, (len(boxes),))
        for name in ('labels', 'track_ids', 'num_points'):
            _convert(self, name, np.int64, (len(boxes),))

    @classmethod
    def empty(cls) -> Boxes3D:
        """No boxes, with an empty array of scores."""
        return cls(np.zeros((0, 7)), scores=np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.integer] | slice) -> Boxes3D:
        """Select rows by mask, index array or slice."""

        def pick(column: NDArray | None) -> NDArray | None:
            return None if column is None else column[index]

        return Boxes3D(
            self.boxes[index],
            pick(self.scores),
            self.labels[index],
            pick(self.track_ids),
            pick(self.num_points),
        )

    def with_boxes(self, boxes: NDArray[np.float64]) -> Boxes3D:
        """Replace the geometry (n, 7), for example after a change of frame; the other columns stay."""
        return replace(self, boxes=boxes)


@dataclass(frozen=True, slots=True)
class AgentSweep:
    """One LiDAR revolution of one agent.

    Attributes:
        points: (n, 4) float32; x, y, z in metres in the LiDAR frame, intensity in [0, 1].
        pose: (4, 4) float64 rigid transform map <- LiDAR at the frame's stamp.
        ring: (n,) uint16 laser index, 0 the lowest, or None.
        time: (n,) float32 seconds of the return relative to the frame's stamp, or None.
        velocity: (3,) float64 metres per second of the LiDAR in the map frame, or None.

    Raises:
        FrameError: if an array has another shape, or the pose is not finite.
    """

    points: NDArray[np.float32]
    pose: NDArray[np.float64]
    ring: NDArray[np.uint16] | None = None
    time: NDArray[np.float32] | None = None
    velocity: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float32)
        pose = np.asarray(self.pose, np.float64)
        _require(points.ndim == 2 and points.shape[1] == 4, f'points must be (n, 4), got {points.shape}')
        finite = pose.shape == (4, 4) and bool(np.isfinite(pose).all())
        _require(finite, 'pose must be a finite (4, 4) matrix')
        object.__setattr__(self, 'points', points)
        object.__setattr__(self, 'pose', pose)
        _convert(self, 'ring', np.uint16, (len(points),))
        _convert(self, 'time', np.float32, (len(points),))
        _convert(self, 'velocity', np.float64, (3,))

    def __getitem__(self, mask: NDArray[np.bool_]) -> AgentSweep:
        """The returns where a mask (n,) is true."""
        return replace(
            self,
            points=self.points[mask],
            ring=None if self.ring is None else self.ring[mask],
            time=None if self.time is None else self.time[mask],
        )


@dataclass(frozen=True, slots=True)
class CoopFrame:
    """The sweeps of all connected agents at one instant.

    Attributes:
        agents: agent id -> sweep. A vehicle's id is its track id; ids of road-side units are negative.
        ego: id of the agent that fuses; a key of `agents`.
        stamp: nanoseconds; all poses and boxes refer to this instant.
        ground_truth: boxes of all labelled vehicles, connected ones included, in the **map** frame, or None.
        scenario: name of the frame's scenario.
        index: of the frame within its scenario, from 0.
        left_out: what the source has left out of this frame, by reason, with counts.

    Raises:
        FrameError: if the ego is not among the agents.
    """

    agents: Mapping[int, AgentSweep]
    ego: int
    stamp: int
    ground_truth: Boxes3D | None = None
    scenario: str = ''
    index: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.ego in self.agents, f'ego {self.ego} is not among the agents {sorted(self.agents)}')

    @property
    def neighbours(self) -> list[int]:
        """Ids of all agents except the ego, ascending."""
        return sorted(agent for agent in self.agents if agent != self.ego)
