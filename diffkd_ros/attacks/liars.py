# SPDX-License-Identifier: Apache-2.0
"""Which of the neighbours lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffkd_ros.corruptions.randomness import generator


@dataclass(frozen=True, slots=True, order=True)
class Liars:
    """So many of the neighbours lie, for a whole drive.

    Attributes:
        neighbours: of the ego.
        count: how many of them lie.
    """

    neighbours: int
    count: int

    def __str__(self) -> str:
        return f'{self.count}of{self.neighbours}'

    def among(self, neighbours: Sequence[int], seed: int, scenario: str) -> tuple[int, ...]:
        """The agents that lie, ascending; fewer liars are some of those of more liars.

        Args:
            neighbours: ids of the ego's neighbours.
            seed: of the realisation.
            scenario: name of the drive.
        """
        drawn = generator(seed, 'liars', scenario).permutation(sorted(neighbours))
        return tuple(sorted(int(agent) for agent in drawn[: self.count]))
