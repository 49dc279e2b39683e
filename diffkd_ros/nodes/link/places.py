# SPDX-License-Identifier: Apache-2.0
"""Which neighbours are fused when there are more than the model takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.neighbours import Choice, choose_neighbours

Shared = TypeVar('Shared')

FEW_CELLS = 20
"""Cells with returns below which a map without boxes takes no place from others."""

# How long a neighbour must have been fused for one of the places of those fused for longest.
_TENURE = 2 * NANOSECONDS
# A neighbour that was not fused for longer begins again, and a damaged payload is forgotten.
_ABSENT = 10 * NANOSECONDS


class Places:
    """Chooses neighbours by `choose_neighbours`, but not by nearness alone if there are more than places.

    A position is only claimed: any number of names can claim to be nearest. So half of the places, rounded
    up, are kept for the neighbours fused for longest; a participant gets more than half of them only if the
    others leave some; and participants that sent something damaged or implausible lately come last.

    Args:
        count: most neighbours that are fused.
        publisher: the participant that a neighbour's name belongs to, empty if unknown.
    """

    def __init__(self, count: int, publisher: Callable[[str], bytes]) -> None:
        self._count, self._publisher = count, publisher
        # Stamps of the first and of the latest sweep in which a neighbour was fused.
        self._fused: dict[str, tuple[int, int]] = {}
        # Stamps of the sweeps for which something damaged or implausible was sent, by participant, or by name
        # if that is unknown.
        self._damaged: dict[bytes | str, int] = {}

    def knows(self, neighbour: str) -> bool:
        """Whether a neighbour was fused in the last 10 s."""
        return neighbour in self._fused

    def damaged(self, neighbour: str, stamp: int) -> None:
        """Let a neighbour begin again, as it sent something damaged or implausible for this sweep."""
        self._fused.pop(neighbour, None)
        self._damaged[self._participant(neighbour)] = stamp

    def choose(
        self,
        stamp: int,
        ego_pose: Matrix,
        poses: Mapping[str, Matrix],
        shared_by: Callable[[str], Shared | None],
    ) -> Choice[str, Shared]:
        """Choose the neighbours for a sweep; arguments as of `choose_neighbours`.

        Args:
            stamp: of the sweep, nanoseconds.
            ego_pose: (4, 4) map <- LiDAR of the ego.
            poses: (4, 4) map <- LiDAR of each neighbour.
            shared_by: what a neighbour shared, None if that is not usable.
        """
        self._fused = {n: both for n, both in self._fused.items() if 0 <= stamp - both[1] <= _ABSENT}
        self._damaged = {p: last for p, last in self._damaged.items() if 0 <= stamp - last <= _ABSENT}
        chosen: dict[str, Shared] = {}
        # Of known participants.
        places: Counter[bytes] = Counter()
        postponed: list[str] = []

        def limited(name: str) -> Shared | None:
            publisher = self._publisher(name)
            if publisher and places[publisher] >= max(1, self._count // 2):
                postponed.append(name)
                return None
            if (shared := shared_by(name)) is not None:
                places[publisher] += 1
            return shared

        def fill(names: Iterable[str], shared_by: Callable[[str], Shared | None]) -> dict[str, float]:
            found = {name: poses[name] for name in names}
            choice = choose_neighbours(ego_pose, found, shared_by, 1 + self._count - len(chosen))
            chosen.update(choice.chosen)
            return choice.beyond_limit

        longest = self._of_long_standing(stamp, poses) if len(poses) > self._count else []
        others = [name for name in poses if name not in longest]
        doubtful = [name for name in others if self._participant(name) in self._damaged]
        fill(longest, limited)
        beyond = fill((name for name in others if name not in doubtful), limited)
        beyond |= fill(doubtful, limited)
        beyond |= fill(postponed, shared_by)
        for name in chosen:
            self._fused[name] = self._fused.get(name, (stamp, stamp))[0], stamp

        def distance(name: str) -> float:
            return float(np.linalg.norm(poses[name][:3, 3] - ego_pose[:3, 3]))

        return Choice({name: chosen[name] for name in sorted(chosen, key=distance)}, beyond)

    def _participant(self, neighbour: str) -> bytes | str:
        return self._publisher(neighbour) or neighbour

    def _of_long_standing(self, stamp: int, poses: Mapping[str, Matrix]) -> list[str]:
        known = [n for n in poses if n in self._fused and stamp - self._fused[n][0] >= _TENURE]
        return sorted(known, key=lambda name: self._fused[name][0])[: (self._count + 1) // 2]


def is_empty(feature: BevFeature | ReceivedMap) -> bool:
    """Returns whether a neighbour's map has no box and nearly no cell."""
    if isinstance(feature, ReceivedMap):
        return not feature.boxes and int(feature.occupied().sum()) < FEW_CELLS
    return int((feature.density > 0).sum()) < FEW_CELLS
