# SPDX-License-Identifier: Apache-2.0
"""Evidence for and against what a neighbour says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.runtime.link.motion import Displacement, displaced
from diffkd_ros.runtime.plausibility.view import OWN, SAME, SURE, View, cells_on, from_score, overlapping

SAID = 0.3
"""Score from which on a box counts as said."""
SENT = 0.2
"""Score from which on a box answers the ego's."""
SILENT = 'points as it sent none of the vehicles that both see well'
"""Kind of evidence against a neighbour whose sensor may have failed, if only for one sweep."""

_THEIRS = 6  # cells with returns of the neighbour there
_BOTH = 12  # cells with returns of the neighbour on a vehicle that it must have sent, or none of several
_SEVERAL = 2
_UNLIKE = 0.2  # IoU below which boxes of the same sweep are different vehicles
_PLACE = np.array([[0.0, 0.0, 0.0, 4.5, 1.9, 1.5, 0.0]])  # metres: of a car around its LiDAR
_HIGH = 1.5  # metres above the ego's from which on a LiDAR is not on a car: road-side units
_PLACE_WEIGHT = 2
_FASTEST = 20.0  # metres per second that vehicles move between an agent's sweep and the ego's
_OTHERS = 2  # neighbours that must see nothing: one could accuse an honest one


@dataclass(frozen=True)
class Said:
    """What a neighbour says of one sweep.

    Attributes:
        name: of the neighbour.
        pose: (4, 4) LiDAR of the ego <- LiDAR of the neighbour, as it states.
        boxes: that it sent, in its LiDAR frame; None if there are none in the message.
        returns: (n, 3) centres of the cells in which it says to have a return, z = 0.
        age: seconds by which its sweep precedes the ego's.
        view: what the network finds in its map; None if that was not computed for this sweep.
        offset: how far its boxes have moved since its sweep; None if that is not known.
        partial: whether it sent more boxes, which did not arrive.
    """

    name: str
    pose: Matrix
    boxes: Boxes3D | None
    returns: NDArray[np.float64]
    age: float = 0.0
    view: View | None = None
    offset: Displacement | None = None
    partial: bool = False

    @cached_property
    def claims(self) -> NDArray[np.float64]:
        """(n, 7) boxes that it sent, where they are now, and others that its map has, in its LiDAR frame."""
        sent = _from(SAID, displaced(self.boxes, self.offset))
        if self.view is None:
            return sent
        found = _from(SAID, self.view.boxes)
        return np.concatenate((sent, found[~overlapping(found, _from(SAID, self.boxes), _UNLIKE)]))

    @cached_property
    def claims_in_ego(self) -> NDArray[np.float64]:
        """The same in the LiDAR frame of the ego."""
        return transform_boxes(self.pose, self.claims)


@dataclass(slots=True)
class Evidence:
    """Number of statements of a neighbour that others confirm or contradict.

    Attributes:
        agreed: vehicles that the ego finds, too.
        against: by kind.
        silent: whether the neighbour sent none of the vehicles that both see well; None if there are too few.
    """

    agreed: int = 0
    against: Counter[str] = field(default_factory=Counter)
    silent: bool | None = None

    @property
    def points(self) -> int:
        """Sum of what is against it."""
        return self.against.total()

    def __str__(self) -> str:
        found = ', '.join(f'{count} {kind}' for kind, count in self.against.most_common() if count)
        return f'{found}; {self.agreed} confirmed'


def by_ego(ego: View, said: Said) -> Evidence:
    """What the ego's own view and the neighbour's map say of the neighbour's boxes.

    Args:
        ego: what the ego sees by itself.
        said: by the neighbour.
    """
    claims = said.claims_in_ego
    # Counted by the ego's boxes: repeating one confirms nothing more.
    found = Evidence(int(overlapping(ego.boxes.boxes, claims, SAME).sum()))
    moved = _FASTEST * abs(said.age)
    found.against['boxes where the ego sees none'] = int(ego.contradicts(claims, moved=moved).sum())
    place = transform_boxes(said.pose, _PLACE)
    if abs(said.pose[2, 3]) < _HIGH and ego.contradicts(place, moved=moved).any():
        found.against['points as it is not seen in its place'] = _PLACE_WEIGHT
    theirs = transform_boxes(inverse(said.pose), ego.well_seen)
    view = said.view
    # What is not in a part of its boxes may have been sent.
    sent = None if said.partial else displaced(said.boxes, said.offset)
    if sent is None and view is not None:
        sent = view.boxes
    if sent is not None:
        shared = theirs[(cells_on(theirs, said.returns) >= _BOTH) & (np.hypot(*theirs[:, :2].T) >= OWN)]
        if len(shared) >= _SEVERAL:
            found.silent = not (found.agreed or overlapping(shared, _from(SENT, sent), SAME).any())
    if view is None:
        return found
    found.against['vehicles missing that the ego sees'] = int(view.contradicts(theirs, _THEIRS, moved).sum())
    if said.boxes is not None:
        without = int((~overlapping(_from(SURE, said.boxes), view.boxes.boxes, _UNLIKE)).sum())
        unlike = 0 if said.partial else int((~overlapping(view.sure.boxes, said.boxes.boxes, _UNLIKE)).sum())
        # A vehicle in one place as a box and in another one in the map is one difference.
        found.against['differences between its boxes and its map'] = max(unlike, without)
    return found


def by_others(others: Sequence[Said], said: Said) -> int:
    """Number of boxes of a neighbour where the maps of at least two others show no vehicle.

    Args:
        others: neighbours; those without a view say nothing.
        said: by the neighbour.
    """
    claims = said.claims
    count = np.zeros(len(claims), np.int64)
    for other in others:
        if other.view is not None:
            there = transform_boxes(inverse(other.pose) @ said.pose, claims)
            count += other.view.contradicts(there, moved=_FASTEST * abs(other.age))
    return int((count >= _OTHERS).sum())


def _from(score: float, boxes: Boxes3D | None) -> NDArray[np.float64]:
    return np.zeros((0, 7)) if boxes is None else boxes.boxes[from_score(score, boxes)]
