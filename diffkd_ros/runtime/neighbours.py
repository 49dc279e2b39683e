# SPDX-License-Identifier: Apache-2.0
"""The rules that choose what is fused: which sweep of a neighbour, and which neighbours if there are many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from diffkd_ros.geometry.poses import Matrix

Agent = TypeVar('Agent')
Shared = TypeVar('Shared')
Sweep = TypeVar('Sweep')


@dataclass(frozen=True)
class Choice(Generic[Agent, Shared]):
    """The neighbours chosen for a fusion.

    Attributes:
        chosen: what each chosen neighbour shared, nearest first.
        beyond_limit: distance in metres of each neighbour left out because enough are nearer, nearest first.
    """

    chosen: dict[Agent, Shared]
    beyond_limit: dict[Agent, float]


def choose_neighbours(
    ego_pose: Matrix,
    poses: Mapping[Agent, Matrix],
    shared_by: Callable[[Agent], Shared | None],
    max_agents: int,
) -> Choice[Agent, Shared]:
    """Choose the nearest neighbours among those that shared something usable.

    Args:
        ego_pose: (4, 4) map <- LiDAR of the ego.
        poses: (4, 4) map <- LiDAR of each neighbour, as it sent it; equally distant ones keep their order.
        shared_by: what a neighbour shared, None if that is not usable. Called nearest first, and not for
            neighbours beyond the limit, because decoding is expensive.
        max_agents: most agents that the model fuses, the ego included.
    """
    distances = {agent: float(np.linalg.norm(pose[:3, 3] - ego_pose[:3, 3])) for agent, pose in poses.items()}
    choice: Choice[Agent, Shared] = Choice({}, {})
    for agent in sorted(distances, key=distances.__getitem__):
        if len(choice.chosen) == max_agents - 1:
            choice.beyond_limit[agent] = distances[agent]
        elif (shared := shared_by(agent)) is not None:
            choice.chosen[agent] = shared
    return choice


def choose_sweep(
    sweeps: Iterable[Sweep],
    oldest: int,
    stamp_of: Callable[[Sweep], int],
    has_base: Callable[[Sweep], bool],
) -> Sweep | None:
    """Choose the newest sweep of a neighbour that has its base layer; if there is none, the newest.

    The base layer of a layered message is its boxes, or the likely ones of them. Late fusion would use them,
    the restoration needs them most, and by them an older sweep is moved to where its vehicles are now. What
    else is missing is restored.

    Args:
        sweeps: what arrived of them; the first of those with the same stamp is preferred.
        oldest: earliest stamp, nanoseconds, at which a sweep is chosen for its base layer.
        stamp_of: stamp of a sweep, nanoseconds.
        has_base: whether the base layer of a sweep arrived; a whole map has it.

    Returns:
        A sweep, which may be older than `oldest`; None if there are none.
    """
    known = list(sweeps)
    usable = [sweep for sweep in known if has_base(sweep) and stamp_of(sweep) >= oldest]
    return max(usable or known, key=stamp_of, default=None)
