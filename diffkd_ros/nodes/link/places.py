# SPDX-License-Identifier: Apache-2.0
"""Which neighbours are fused when there are more than the model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.runtime.neighbours import Choice, choose_neighbours

Shared = TypeVar('Shared')

# How long a neighbour must have been fused for one of the places of those fused for longest.
_TENURE = 2 * NANOSECONDS
# A neighbour that was not fused for longer begins again.
_ABSENT = 10 * NANOSECONDS


class Places:
    """Chooses neighbours by `choose_neighbours`, but keeps half of the places for those fused for longest.

    A position is only claimed: any number of names can claim to be nearest. So those that have just appeared
    get at most half of the places, rounded down, from others.

    Args:
        count: most neighbours that are fused.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        # Stamps of the first and of the latest sweep in which a neighbour was fused.
        self._fused: dict[str, tuple[int, int]] = {}

    def knows(self, neighbour: str) -> bool:
        """Whether a neighbour was fused in the last 10 s."""
        return neighbour in self._fused

    def forget(self, neighbour: str) -> None:
        """Let a neighbour begin again: what it sent was wrong."""
        self._fused.pop(neighbour, None)

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
        self._fused = {
            name: (first, last) for name, (first, last) in self._fused.items() if 0 <= stamp - last <= _ABSENT
        }
        longest = self._of_long_standing(stamp, poses) if len(poses) > self._count else []
        kept = choose_neighbours(ego_pose, {n: poses[n] for n in longest}, shared_by, 1 + self._count)
        others = {name: pose for name, pose in poses.items() if name not in longest}
        free = self._count - len(kept.chosen)
        nearest = choose_neighbours(ego_pose, others, shared_by, 1 + free)
        chosen = {**kept.chosen, **nearest.chosen}
        for name in chosen:
            self._fused[name] = self._fused.get(name, (stamp, stamp))[0], stamp

        def distance(name: str) -> float:
            return float(np.linalg.norm(poses[name][:3, 3] - ego_pose[:3, 3]))

        return Choice({name: chosen[name] for name in sorted(chosen, key=distance)}, nearest.beyond_limit)

    def _of_long_standing(self, stamp: int, poses: Mapping[str, Matrix]) -> list[str]:
        known = [n for n in poses if n in self._fused and stamp - self._fused[n][0] >= _TENURE]
        return sorted(known, key=lambda name: self._fused[name][0])[: (self._count + 1) // 2]
