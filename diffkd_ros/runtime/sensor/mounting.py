# SPDX-License-Identifier: Apache-2.0
"""Whether clouds and poses of a vehicle agree: what stands stays where it was in the map."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix, inverse, yaw_of

# Angles compared, degrees, which of them are a turn, and which are errors of the heading.
_ANGLES = np.array([-12.0, -10.0, -8.0, *range(-6, 7), 8.0, 10.0, 12.0])
_LEAST = 3.0
_TURNED = np.abs(_ANGLES) >= _LEAST
_STRAIGHT = np.abs(_ANGLES) <= 1.0
# Share of the occupied cells that must agree better with a turn than without, or without than with.
_MARGIN = 0.06
# Share that must agree at all; for a turn of a sweep alone this one, and this part of what usually agrees.
_AGREED, _AGREED_TURNED, _USUAL = 0.2, 0.4, 0.8
# Sweeps over which the usual agreement is averaged.
_MEMORY = 50
# Occupied cells are 0.4 m wide, within 40 m, 0.7 to 4 m above the ground.
_CELL = 0.4
_REACH = 40.0
_NEAREST = 6.0
_ABOVE = 0.7, 4.0
_GROUND = 15.0
# The vehicle itself may be nearer.
_OWN = 3.0
_FEWEST, _MOST = 60, 300
_SIDE = 2 * round(_REACH * 1.1 / _CELL)
# Metres between the sweeps kept for comparison, and their number. At standstill fewer, seconds apart.
_STEP, _KEPT = 1.5, 12
_STANDING, _SECONDS = 3, 1.0
# Metres from which a sweep is compared for a turn of it alone, and for a turn of both sweeps: their
# displacement is then turned against the vehicle's. The longer it is, the less do errors of the poses matter.
_NEAR, _FAR = 4.0, 8.0
# Comparisons of the second kind over which errors of the poses are averaged, and metres between two of them.
_AVERAGED, _MOVED = 10, 0.3


@dataclass
class _Reference:
    """A sweep that later ones are compared with.

    Attributes:
        seconds: of its stamp.
        pose: (4, 4) map <- LiDAR.
        occupied: (_SIDE, _SIDE) cells around the LiDAR.
        widened: the same with the cells next to them.
        turn: of its cloud against its pose, degrees, as known then.
    """

    seconds: float
    pose: Matrix
    occupied: NDArray[np.bool_]
    widened: NDArray[np.bool_]
    turn: float


class MountingCheck:
    """Compares what stands around the vehicle in two sweeps, by their poses.

    A turn of this sweep alone shows at once, even at standstill. One of both, so of a LiDAR that was turned
    from the beginning, shows when the vehicle moves. Whether cloud or pose is turned is not known here.
    """

    def __init__(self) -> None:
        self._usual = 0.0
        self.forget(0.0)

    def forget(self, turn: float) -> None:
        """Forget the sweeps before; the next ones are taken to be turned like this, degrees."""
        self._references: deque[_Reference] = deque(maxlen=_KEPT)
        self._turn = turn
        self._forget_average()

    def _forget_average(self) -> None:
        self._always = np.zeros(len(_ANGLES))
        self._averaged = 0
        self._compared: Matrix | None = None

    def check(self, points: NDArray[np.float32], pose: Matrix, stamp: int) -> float | None:
        """Check a sweep.

        Args:
            points: (n, 3 or more) a sample of its returns.
            pose: (4, 4) map <- LiDAR.
            stamp: nanoseconds.

        Returns:
            Degrees by which the cloud must be turned to agree with the poses, 0 for less than 3; None if that
            is not known.
        """
        cells = _standing(points)
        if len(cells) < _FEWEST:
            return None
        references = self._references
        turn = self._compare(cells, pose) if references else None
        if turn is not None:
            self._turn = turn
        here = sum(_distance(each.pose, pose) < _STEP for each in references)
        seconds = stamp * 1e-9
        if not here or (here < _STANDING and seconds - references[-1].seconds >= _SECONDS):
            occupied = _image(cells)
            references.append(_Reference(seconds, pose, occupied, _widened(occupied), self._turn))
        return turn

    def _compare(self, cells: NDArray[np.float64], pose: Matrix) -> float | None:
        """The turn that agrees best, degrees; None if none agrees clearly better."""
        since = self._since(cells, pose)
        always = self._average(cells, pose)
        known: float | None = None
        if always is not None:
            straight, turned = always[_STRAIGHT].max(), always[_TURNED].max()
            if turned >= max(_AGREED, straight + _MARGIN):
                known = _best(always)
            elif straight >= max(_AGREED, turned + _MARGIN):
                known = 0.0
        if not known and since:
            self._forget_average()
            return since
        if known is not None:
            for each in self._references:
                each.turn = known
            return known
        return since

    def _since(self, cells: NDArray[np.float64], pose: Matrix) -> float | None:
        """The turn by comparison with sweeps whose turn is known; of those that agree best."""
        references = self._references
        near = [each for each in references if _distance(each.pose, pose) >= _NEAR]
        compared = {id(each): each for each in ((near or references)[-1], references[-1], references[0])}
        # Agreement of the best turn below 3 degrees and of 3 or more, and these.
        best = {False: (0.0, 0.0), True: (0.0, 0.0)}
        for reference in compared.values():
            # Widened, so that an error of the position is no turn.
            agreement = _agreement(reference.widened, cells, inverse(reference.pose) @ pose, both=False)
            for share, turn in (
                (float(agreement[_STRAIGHT].max()), reference.turn),
                (float(agreement[_TURNED].max()), reference.turn + _best(agreement)),
            ):
                turned = abs(turn) >= _LEAST
                best[turned] = max(best[turned], (share, turn))
            if best[False][0] >= max(_AGREED, best[True][0] + _MARGIN, _USUAL * self._usual):
                break  # the usual case
        (straight, _), (turned_share, turn) = best[False], best[True]
        if straight >= max(_AGREED, turned_share + _MARGIN):
            self._usual += (straight - self._usual) / (_MEMORY if self._usual else 1)
            return 0.0
        # The pose of a single sweep may be wrong.
        if len(compared) > 1 and turned_share >= max(
            straight + _MARGIN, _AGREED_TURNED, _USUAL * self._usual
        ):
            return turn
        return None

    def _average(self, cells: NDArray[np.float64], pose: Matrix) -> NDArray[np.float64] | None:
        """Agreement for each turn of both sweeps, averaged over sweeps and references; None: too few."""
        if self._compared is None or _distance(self._compared, pose) >= _MOVED:
            far = [each for each in self._references if _distance(each.pose, pose) >= _FAR]
            # Not those before a turn, with which this kind of comparison does not agree.
            if far := [each for each in far if abs(each.turn - self._turn) < _LEAST]:
                reference = far[self._averaged % len(far)]
                always = _agreement(reference.occupied, cells, inverse(reference.pose) @ pose, both=True)
                self._averaged += 1
                self._always += (always - self._always) / min(self._averaged, _AVERAGED)
                self._compared = pose
        return self._always if self._averaged >= _AVERAGED else None


def _best(agreement: NDArray[np.float64]) -> float:
    """The turn of 3 degrees or more that agrees best, degrees."""
    return float(_ANGLES[_TURNED][agreement[_TURNED].argmax()])


def _standing(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Occupied cells (n, 2) above the ground, by a return in each, metres in the LiDAR frame."""
    distance = np.hypot(points[:, 0], points[:, 1])
    below = points[(distance > _OWN) & (distance < _GROUND), 2]
    if not len(below):
        return np.zeros((0, 2))
    ground = np.partition(below, len(below) // 5)[len(below) // 5]
    height = points[:, 2] - ground
    used = (distance > _NEAREST) & (distance < _REACH) & (height > _ABOVE[0]) & (height < _ABOVE[1])
    places = points[used, :2].astype(np.float64)
    column, row = _cells(places).T
    in_cell = np.full(_SIDE * _SIDE, -1)
    in_cell[column * _SIDE + row] = np.arange(len(places))
    chosen = in_cell[in_cell >= 0]
    if len(chosen) > _MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST).astype(np.int64)]
    return places[chosen]


def _cells(places: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(places / _CELL).astype(np.int64) + _SIDE // 2


def _image(places: NDArray[np.float64]) -> NDArray[np.bool_]:
    image = np.zeros((_SIDE, _SIDE), np.bool_)
    image[tuple(_cells(places).T)] = True
    return image


def _widened(image: NDArray[np.bool_]) -> NDArray[np.bool_]:
    along = image.copy()
    along[1:] |= image[:-1]
    along[:-1] |= image[1:]
    widened = along.copy()
    widened[:, 1:] |= along[:, :-1]
    widened[:, :-1] |= along[:, 1:]
    return widened


def _agreement(
    occupied: NDArray[np.bool_], places: NDArray[np.float64], relative: Matrix, both: bool
) -> NDArray[np.float64]:
    """Share of the occupied cells of a sweep that are occupied in a reference, for each of `_ANGLES`.

    Args:
        occupied: cells of the reference.
        places: (n, 2) in the sweep.
        relative: (4, 4) reference <- sweep, by their poses.
        both: whether the LiDAR was turned in both, not in the sweep only.
    """
    angle = np.radians(_ANGLES)
    x, y = relative[0, 3], relative[1, 3]
    yaw = yaw_of(relative) + (0.0 if both else angle)
    cos, sin = np.cos(yaw), np.sin(yaw)
    if both:
        x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    x, y, cos, sin = (np.broadcast_to(each, _ANGLES.shape) for each in (x, y, cos, sin))
    ahead, left = places.T
    columns, rows = (
        np.floor((to_x * ahead[:, None] + to_y * left[:, None] + offset) / _CELL).astype(np.int64)
        + _SIDE // 2
        for to_x, to_y, offset in ((cos, -sin, x), (sin, cos, y))
    )
    inside = (columns >= 0) & (columns < _SIDE) & (rows >= 0) & (rows < _SIDE)
    hits = occupied[columns.clip(0, _SIDE - 1), rows.clip(0, _SIDE - 1)] & inside
    return hits.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)


def _distance(one: Matrix, other: Matrix) -> float:
    return float(np.hypot(*(other[:2, 3] - one[:2, 3])))
