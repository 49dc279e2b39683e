# SPDX-License-Identifier: Apache-2.0
"""What the ego remembers: its own and its neighbours' last maps, as decoded and not as restored."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import MOST_REMEMBERED
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap

OLDEST = 450_000_000
"""Nanoseconds by which a remembered map may precede the one in use: four sweeps at 10 Hz, with jitter."""
MOST_SWEEPS = OLDEST // 100_000_000
"""Sweeps at 10 Hz within this time."""
_KEPT = 2  # maps of an agent: a sweep that is used again needs the one before it
_MARGIN = 3  # cells


def may_recall(stamp: int, earlier: int) -> bool:
    """Returns whether what is known at a stamp may be remembered at a later one, both in nanoseconds."""
    return stamp - OLDEST <= earlier < stamp


@dataclass(frozen=True, slots=True)
class KnownMap:
    """A map as it was decoded.

    Attributes:
        stamp: of the sweep, nanoseconds.
        pose: (4, 4) map <- LiDAR at this stamp.
        feature: (channels, height, width) float32.
        occupied: (height, width) cells known to hold something.
    """

    stamp: int
    pose: Matrix
    feature: NDArray[np.float32]
    occupied: NDArray[np.bool_]


@dataclass
class _Agent:
    """An agent's maps in the order of their use, and the stamp of the ego's sweep at the last one."""

    used: int
    maps: deque[KnownMap] = field(default_factory=lambda: deque(maxlen=_KEPT))


class MapMemory:
    """The last maps of the ego and of its neighbours.

    An agent whose maps were not used for `OLDEST` is forgotten, and of more than `MOST_REMEMBERED` agents the
    one that was used longest ago: invented names of senders take no more. When time jumps back, as in a
    replay that starts again, everything is forgotten.
    """

    def __init__(self) -> None:
        self._agents: dict[Hashable, _Agent] = {}  # in the order of their last use
        self._now: int | None = None

    def __len__(self) -> int:
        """Number of agents of which something is remembered."""
        return len(self._agents)

    def clear(self) -> None:
        """Forget everything."""
        self._agents = {}

    def forget(self, agent: Hashable) -> None:
        """Forget the maps of an agent."""
        self._agents.pop(agent, None)

    def advance(self, stamp: int) -> None:
        """Forget what is too old for a sweep of the ego with this stamp, nanoseconds."""
        if self._now is not None and stamp < self._now:
            self.clear()
        self._now = stamp
        self._agents = {k: known for k, known in self._agents.items() if known.used >= stamp - OLDEST}

    def before(self, agent: Hashable, stamp: int) -> KnownMap | None:
        """The newest map of an agent that precedes a stamp by at most `OLDEST`."""
        known = self._agents.get(agent)
        maps = () if known is None else known.maps
        earlier = [each for each in maps if may_recall(stamp, each.stamp)]
        return max(earlier, key=lambda each: each.stamp, default=None)

    def keep(self, agent: Hashable, known: KnownMap) -> None:
        """Remember a map of an agent; more of a sweep replaces what was known of it.

        A map of which no cell is known to hold something, as of a sweep without points, is not kept: the one
        before it stays the last.
        """
        assert self._now is not None, 'the ego is the first'
        if not known.occupied.any():
            return
        kept = self._agents.pop(agent, None) or _Agent(self._now)
        kept.used = self._now
        stamps = [each.stamp for each in kept.maps]
        if known.stamp in stamps:
            kept.maps[stamps.index(known.stamp)] = known
        else:
            kept.maps.append(known)
        self._agents[agent] = kept
        if len(self._agents) > MOST_REMEMBERED:
            del self._agents[next(iter(self._agents))]


class Recalled(NamedTuple):
    """A remembered map and its age in seconds, before the agent's map that is restored."""

    known: KnownMap
    age: float


@dataclass(frozen=True, slots=True)
class Moment:
    """One fusion: whose maps it restores and of which sweeps, to recall what precedes them and to keep them.

    Attributes:
        memory: of the ego.
        agents: names or ids of the ego and of each neighbour.
        stamps: of their sweeps, nanoseconds.
    """

    memory: MapMemory
    agents: Sequence[Hashable]
    stamps: Sequence[int]

    def of(self, neighbours: Sequence[int]) -> Moment:
        """The same moment with some of the neighbours only, by their indices."""
        chosen = [0, *(1 + number for number in neighbours)]
        agents, stamps = [self.agents[k] for k in chosen], [self.stamps[k] for k in chosen]
        return Moment(self.memory, agents, stamps)

    def before(self) -> list[Recalled | None]:
        """What is remembered of each agent, None for nothing; forgets what is too old for this fusion."""
        self.memory.advance(self.stamps[0])
        recalled = []
        for agent, stamp in zip(self.agents, self.stamps, strict=True):
            known = self.memory.before(agent, stamp)
            recalled.append(None if known is None else Recalled(known, (stamp - known.stamp) * 1e-9))
        return recalled

    def keep(
        self,
        features: Sequence[NDArray[np.float32]],
        occupied: Sequence[NDArray[np.bool_]],
        poses: Sequence[Matrix],
    ) -> None:
        """Remember the maps of this fusion, as decoded.

        Args:
            features: (channels, height, width) of the ego and of each neighbour.
            occupied: (height, width) of each, the cells known to hold something.
            poses: (4, 4) map <- LiDAR of each, at its stamp.
        """
        self.memory.advance(self.stamps[0])
        maps = map(KnownMap, self.stamps, poses, features, occupied)
        for agent, known in zip(self.agents, maps, strict=True):
            self.memory.keep(agent, known)


def occupied_cells(received: BevFeature | ReceivedMap) -> NDArray[np.bool_]:
    """Mask (height, width) of the cells of a map that are known to hold something.

    Of a whole map, the ego's for example, these are the cells near an observed one, where its feature is not
    0: `model.backbone.covered_cells`.
    """
    if isinstance(received, ReceivedMap):
        return received.occupied()
    height, width = received.density.shape
    padded = np.pad(received.density > 0, _MARGIN)
    rows = np.logical_or.reduce([padded[k : k + height] for k in range(2 * _MARGIN + 1)])
    return np.logical_or.reduce([rows[:, k : k + width] for k in range(2 * _MARGIN + 1)])
