# SPDX-License-Identifier: Apache-2.0
"""Where the vehicles of a late sweep are now: their velocities follow from the boxes of earlier sweeps.

CoBEVFlow, too, moves what a sender's map shows by the motion of its boxes, which it matches by a network
(Wei et al., Asynchrony-Robust Collaborative Perception via Bird's Eye View Flow, NeurIPS 2023). Here they are
matched along their own axes, and nothing is trained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import points_in_boxes, transform_boxes, widened
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import MOST_REMEMBERED
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap

SPAN = 550_000_000
"""Nanoseconds over which positions are used: the five sweeps at 10 Hz before the last one, with jitter."""

_POSITION = 0.2  # metres: standard deviation of a detected position along the vehicle
_CERTAIN = 2.0  # standard deviations of its velocity from which on a vehicle is taken to move
_FARTHEST = 4.5  # metres from one sweep to the next; at more, it may be the vehicle behind
_ASIDE = 0.7  # metres that a vehicle may be displaced sideways from one sweep to the next
_SLACK = 1.0  # metres by which one that moves may miss the place that its velocity foretells
_MARGIN = 0.8  # metres around a vehicle whose cells move with it
_LEAST = 0.1  # metres below which nothing is moved

Displacement = NDArray[np.float64]
"""(n, 2) metres by which each of n boxes has moved since its sweep, in the sender's LiDAR frame."""
_Boxes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Boxes of one sweep.

    Attributes:
        stamp: nanoseconds.
        boxes: (n, 7) in the map frame.
        before: (n,) index of each box in the sweep before, -1: not found there.
        velocity: (n,) metres per second along the box's own axis, 0 if it is not known to move.
    """

    stamp: int
    boxes: _Boxes
    before: NDArray[np.int64]
    velocity: NDArray[np.float64]


def _axes(boxes: _Boxes) -> NDArray[np.float64]:
    """Unit vectors (n, 2) along the boxes."""
    return np.stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6])), axis=1)


@dataclass
class Track:
    """The last sweeps of one sender, in the order of their stamps."""

    sweeps: deque[_Sweep] = field(default_factory=deque)

    def add(self, stamp: int, boxes: _Boxes) -> None:
        """Note a sweep; one that is not newer than the last is known already.

        Args:
            stamp: nanoseconds.
            boxes: (n, 7) in the map frame.
        """
        sweeps = self.sweeps
        if sweeps and stamp <= sweeps[-1].stamp:
            return
        while sweeps and sweeps[0].stamp < stamp - SPAN:
            sweeps.popleft()
        sweeps.append(_Sweep(stamp, boxes, self._matched(stamp, boxes), np.zeros(len(boxes))))
        sweeps[-1].velocity[:] = self._velocities()

    def velocities(self, stamp: int) -> NDArray[np.float64] | None:
        """Velocities (n, 2) in the map frame of the boxes of a noted sweep, metres per second; or None."""
        for sweep in reversed(self.sweeps):
            if sweep.stamp == stamp:
                return sweep.velocity[:, None] * _axes(sweep.boxes)
        return None

    def _matched(self, stamp: int, boxes: _Boxes) -> NDArray[np.int64]:
        """The box of the last sweep that each box was; the nearest pairs first."""
        before = np.full(len(boxes), -1)
        if not self.sweeps or not len(boxes) or not len(self.sweeps[-1].boxes):
            return before
        last = self.sweeps[-1]
        seconds = (stamp - last.stamp) * 1e-9
        axes = _axes(boxes)
        offset = boxes[:, None, :2] - last.boxes[None, :, :2]
        along = np.einsum('nmk,nk->nm', offset, axes)
        aside = np.abs(offset[..., 0] * -axes[:, None, 1] + offset[..., 1] * axes[:, None, 0])
        # A box may be turned round from one sweep to the next.
        same = np.sign(axes @ _axes(last.boxes).T)
        miss = np.abs(along - same * last.velocity * seconds)
        possible = (aside <= _ASIDE) & (miss <= np.where(last.velocity != 0, _SLACK, _FARTHEST))
        cost = np.where(possible, miss + aside, np.inf)
        for _ in range(min(cost.shape)):
            row, column = np.unravel_index(int(cost.argmin()), cost.shape)
            if not np.isfinite(cost[row, column]):
                break
            before[row] = column
            cost[row], cost[:, column] = np.inf, np.inf
        return before

    def _velocities(self) -> NDArray[np.float64]:
        """The slopes of the last boxes' positions over time, 0 unless clearly not 0."""
        newest, *earlier = reversed(self.sweeps)
        axes, origins, index = _axes(newest.boxes), newest.boxes[:, :2], newest.before
        # Sums over a box's positions: number, times, places, squared times, times by places.
        sums = np.zeros((5, len(index)))
        sums[0] = 1
        for sweep in earlier:
            found = index >= 0
            if not found.any():
                break
            rows = np.where(found, index, 0)
            time = (sweep.stamp - newest.stamp) * 1e-9
            place = ((sweep.boxes[rows, :2] - origins) * axes).sum(axis=1)
            each = np.ones_like(place)
            sums += found * np.stack((each, time * each, place, time**2 * each, time * place))
            index = np.where(found, sweep.before[rows], -1)
        count, times, places, squares, products = sums
        several = count > 1
        spread = np.where(several, squares - times**2 / count, 1.0)
        slope = np.where(several, products - times * places / count, 0.0) / spread
        return np.where(np.abs(slope) > _CERTAIN * _POSITION / np.sqrt(spread), slope, 0.0)


class Tracks:
    """The sweeps of the senders used last; more than `MOST_REMEMBERED` names push the oldest out.

    When time jumps back, as in a replay that starts again, everything is forgotten.
    """

    def __init__(self) -> None:
        self._tracks: dict[Hashable, Track] = {}  # in the order of their last use
        self._now: int | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._tracks = {}

    def of(self, agent: Hashable, now: int) -> Track:
        """The track of a sender, for a sweep of the ego with this stamp, nanoseconds."""
        if self._now is not None and now < self._now:
            self.clear()
        self._now = now
        track = self._tracks[agent] = self._tracks.pop(agent, Track())
        if len(self._tracks) > MOST_REMEMBERED:
            del self._tracks[next(iter(self._tracks))]
        return track


@dataclass(frozen=True, slots=True)
class Motion:
    """The motion since the neighbours' sweeps, for one fusion.

    Attributes:
        tracks: of the ego.
        agents: names or ids of the neighbours.
        stamps: of the ego's sweep and of each neighbour's, nanoseconds.
    """

    tracks: Tracks
    agents: Sequence[Hashable]
    stamps: Sequence[int]

    def note(
        self, received: Sequence[ReceivedMap | BevFeature], poses: Sequence[Matrix]
    ) -> list[Displacement | None]:
        """Note the boxes that were sent, and find how far each has moved since.

        Args:
            received: of each neighbour.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.

        Returns:
            Of each neighbour's boxes; None without boxes.
        """
        now, moved = self.stamps[0], list[Displacement | None]()
        for agent, stamp, each, pose in zip(self.agents, self.stamps[1:], received, poses[1:], strict=True):
            boxes = each.boxes if isinstance(each, ReceivedMap) else None
            if boxes is None:
                moved.append(None)
                continue
            track = self.tracks.of(agent, now)
            track.add(stamp, transform_boxes(pose, boxes.boxes))
            velocities = track.velocities(stamp)
            if velocities is None or len(velocities) != len(boxes):
                moved.append(np.zeros((len(boxes), 2)))
                continue
            moved.append((now - stamp) * 1e-9 * velocities @ pose[:2, :2])
        return moved


def displaced(boxes: Boxes3D | None, by: Displacement | None) -> Boxes3D | None:
    """Boxes where they are now; as they were if it is not known that they move."""
    if boxes is None or by is None:
        return boxes
    places = boxes.boxes.copy()
    places[:, :2] += by
    return boxes.with_boxes(places)


def moved_map(bev: BevFeature, boxes: Boxes3D, by: Displacement, grid: BevGrid) -> BevFeature:
    """A map with the vehicles where they are now.

    Cells that a vehicle has left are empty. The cells of its new place are resampled bilinearly.

    Args:
        bev: the map.
        boxes: in its frame; the first of several that hold a cell counts.
        by: how far each has moved.
        grid: of the map.
    """
    moving = np.hypot(*by.T) > _LEAST
    if not moving.any():
        return bev
    by, start = by[moving], widened(boxes.boxes[moving], _MARGIN)
    end = start.copy()
    end[:, :2] += by
    centres = grid.centres()
    left, holder = points_in_boxes(centres, start) >= 0, points_in_boxes(centres, end)
    feature, density = (
        part.reshape(-1, grid.height * grid.width).copy() for part in (bev.feature, bev.density)
    )
    cells = np.flatnonzero(holder >= 0)
    origin = centres[cells, :2] - by[holder[cells]]
    column, row = ((origin - (grid.x_min, grid.y_min)) / grid.cell - 0.5).T
    columns, rows = np.floor(column).astype(int), np.floor(row).astype(int)
    sampled, known = np.zeros((len(feature), len(cells)), np.float32), np.zeros(len(cells), np.float32)
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - (row - rows)) * np.abs(1 - right - (column - columns))
            r, c = rows + down, columns + right
            inside = (r >= 0) & (r < grid.height) & (c >= 0) & (c < grid.width)
            source = np.where(inside, r * grid.width + c, 0)
            weight = (weight * inside).astype(np.float32)
            sampled += weight * feature[:, source]
            known += weight * (density[0, source] > 0)
    feature[:, left], density[:, left] = 0, 0
    feature[:, cells] = sampled
    density[0, cells] = known >= 0.5
    return replace(
        bev, feature=feature.reshape(bev.feature.shape), density=density.reshape(bev.density.shape)
    )
