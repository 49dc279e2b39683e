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
from diffkd_ros.runtime.link.memory import OLDEST, may_recall

_POSITION = 0.2  # metres: standard deviation of a detected position along the vehicle
_CERTAIN = 2.0  # standard deviations of its velocity from which on a vehicle is taken to move
_FARTHEST = 4.5  # metres from one sweep to the next; at more, it may be the vehicle behind
_FASTEST = 50.0  # metres per second
_ALIKE = 0.9  # cosine of the angle between a vehicle's axes in two sweeps
_ASIDE = 0.7  # metres that a vehicle may be displaced sideways from one sweep to the next
_SLACK = 1.0  # metres by which one that moves may miss the place that its velocity foretells
_MARGIN = 0.8  # metres around a vehicle whose cells move with it
_LEAST = 0.1  # metres below which nothing is moved
_MOST = 100  # boxes of a sweep that are followed, those of the highest scores: time is quadratic

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
        """Note a sweep, or more boxes of the last one; what is older than that is not noted.

        Args:
            stamp: nanoseconds.
            boxes: (n, 7) in the map frame, by descending score.
        """
        sweeps, boxes = self.sweeps, boxes[:_MOST]
        if sweeps and stamp == sweeps[-1].stamp and not np.array_equal(boxes, sweeps[-1].boxes):
            sweeps.pop()
        if sweeps and stamp <= sweeps[-1].stamp:
            return
        while sweeps and not may_recall(stamp, sweeps[0].stamp):
            sweeps.popleft()
        before = self._matched(stamp, boxes)
        sweeps.append(_Sweep(stamp, boxes, before, self._slopes(stamp, boxes, before)))

    def velocities(self, stamp: int, boxes: _Boxes) -> NDArray[np.float64]:
        """Velocities (n, 2) of a sweep's boxes, metres per second in the map frame; 0 where none is known."""
        found = np.zeros((len(boxes), 2))
        for sweep in self.sweeps:
            if sweep.stamp == stamp and np.array_equal(sweep.boxes, boxes[:_MOST]):
                found[:_MOST] = sweep.velocity[:, None] * _axes(sweep.boxes)
        return found

    def _matched(self, stamp: int, boxes: _Boxes) -> NDArray[np.int64]:
        """The box of the last sweep that each box was; the nearest pairs first."""
        before = np.full(len(boxes), -1)
        if not self.sweeps:
            return before
        last = self.sweeps[-1]
        seconds = (stamp - last.stamp) * 1e-9
        axes = _axes(boxes)
        offset = boxes[:, None, :2] - last.boxes[None, :, :2]
        along = np.einsum('nmk,nk->nm', offset, axes)
        aside = np.abs(offset[..., 0] * -axes[:, None, 1] + offset[..., 1] * axes[:, None, 0])
        # A box may be turned round from one sweep to the next.
        cosine = axes @ _axes(last.boxes).T
        miss = np.abs(along - np.sign(cosine) * last.velocity * seconds)
        reach = np.where(last.velocity != 0, _SLACK, min(_FARTHEST, _FASTEST * seconds))
        possible = (np.abs(cosine) >= _ALIKE) & (aside <= _ASIDE) & (miss <= reach)
        cost = np.where(possible, miss + aside, np.inf)
        for _ in range(min(cost.shape)):
            row, column = np.unravel_index(int(cost.argmin()), cost.shape)
            if not np.isfinite(cost[row, column]):
                break
            before[row] = column
            cost[row], cost[:, column] = np.inf, np.inf
        return before

    def _slopes(self, stamp: int, boxes: _Boxes, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """The slopes of the boxes' positions over time, 0 unless clearly not 0.

        Args:
            stamp: of the boxes, nanoseconds.
            boxes: (n, 7) in the map frame.
            index: (n,) of each in the last sweep, -1: not found there.
        """
        axes, origins = _axes(boxes), boxes[:, :2]
        # Sums over a box's positions: number, times, places, squared times, times by places.
        sums = np.zeros((5, len(index)))
        sums[0] = 1
        for sweep in reversed(self.sweeps):
            found = index >= 0
            if not found.any():
                break
            rows = np.where(found, index, 0)
            time = (sweep.stamp - stamp) * 1e-9
            place = ((sweep.boxes[rows, :2] - origins) * axes).sum(axis=1)
            each = np.ones_like(place)
            sums += found * np.stack((each, time * each, place, time**2 * each, time * place))
            index = np.where(found, sweep.before[rows], -1)
        count, times, places, squares, products = sums
        several = count > 1
        spread = np.where(several, squares - times**2 / count, 1.0)
        slope = np.where(several, products - times * places / count, 0.0) / spread
        certain = np.abs(slope) > _CERTAIN * _POSITION / np.sqrt(spread)
        return np.where(certain & (np.abs(slope) <= _FASTEST), slope, 0.0)


class Tracks:
    """The sweeps of the senders used last, at most `MOST_REMEMBERED` or as many as are fused at once.

    When time jumps back, as in a replay that starts again, everything is forgotten.
    """

    def __init__(self) -> None:
        self._tracks: dict[Hashable, Track] = {}  # in the order of their last use
        self._now: int | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._tracks = {}

    def of(self, agents: Sequence[Hashable], now: int) -> list[Track]:
        """The tracks of senders, for a sweep of the ego with this stamp, nanoseconds."""
        if self._now is not None and now < self._now:
            self.clear()
        self._now = now
        found = {agent: self._tracks.pop(agent, Track()) for agent in agents}
        kept = max(MOST_REMEMBERED - len(found), 0)
        self._tracks = dict(list(self._tracks.items())[max(len(self._tracks) - kept, 0) :]) | found
        return [found[agent] for agent in agents]


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
        self,
        received: Sequence[ReceivedMap | BevFeature],
        poses: Sequence[Matrix],
        numbers: Sequence[int] | None = None,
    ) -> list[Displacement | None]:
        """Note the boxes that were sent, and find how far each has moved since.

        Args:
            received: of each neighbour.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
            numbers: indices of the neighbours that are heard; None: all.

        Returns:
            Of each neighbour's boxes; None without boxes or if it is not heard.
        """
        moved: list[Displacement | None] = [None] * len(received)
        heard = list(range(len(received))) if numbers is None else numbers
        tracks = self.tracks.of([self.agents[number] for number in heard], self.stamps[0])
        for number, track in zip(heard, tracks, strict=True):
            each, stamp, pose = received[number], self.stamps[1 + number], poses[1 + number]
            if isinstance(each, ReceivedMap) and each.boxes is not None:
                boxes = transform_boxes(pose, each.boxes.boxes)
                track.add(stamp, boxes)
                # No farther into the future than it was followed.
                age = min(self.stamps[0] - stamp, OLDEST) * 1e-9
                moved[number] = age * track.velocities(stamp, boxes) @ pose[:2, :2]
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
