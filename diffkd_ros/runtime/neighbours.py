# SPDX-License-Identifier: Apache-2.0
"""The rule that chooses which neighbours are fused when a model takes fewer agents than there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from diffkd_ros.geometry.poses import Matrix

Agent = TypeVar('Agent')
Shared = TypeVar('Shared')


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
