# SPDX-License-Identifier: Apache-2.0
"""The examination of neighbours' maps for one sweep of the ego."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.motion import Displacement
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.plausibility.evidence import Said
from diffkd_ros.runtime.plausibility.judge import Doubt, Judge
from diffkd_ros.runtime.plausibility.view import View


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found.

    Attributes:
        ego: what the ego sees by itself.
        said: by the neighbours.
        doubts: why each one's sweep is left out; None if it is to be fused.
    """

    ego: View
    said: list[Said]
    doubts: list[Doubt | None]

    @property
    def believed(self) -> list[int]:
        """Indices of the neighbours that are to be fused."""
        return [number for number, doubt in enumerate(self.doubts) if doubt is None]


@dataclass(frozen=True, slots=True)
class Examination:
    """Of the neighbours' sweeps, before they are fused in one sweep of the ego.

    Attributes:
        sender: detects in the map of a single agent.
        judge: remembers the neighbours.
        names: of the neighbours.
        stamps: of the ego's sweep and of each neighbour's, nanoseconds.
        grid: of all maps.
    """

    sender: MapSender
    judge: Judge
    names: Sequence[str]
    stamps: Sequence[int]
    grid: BevGrid

    def heard(self) -> list[int]:
        """Indices of the neighbours that are not in quarantine, whose maps are restored and examined."""
        self.judge.advance(self.stamps[0])
        return [
            number
            for number, name in enumerate(self.names)
            if not self.judge.quarantines(name, self.stamps[0])
        ]

    def examine(
        self,
        ego: BevFeature,
        features: Mapping[int, BevFeature],
        received: Sequence[ReceivedMap | BevFeature],
        poses: Sequence[Matrix],
        offsets: Sequence[Displacement | None],
    ) -> Examined:
        """Find what each agent sees by itself, and compare.

        Args:
            ego: its map.
            features: maps of the neighbours that were `heard`, as they would be fused, by their indices.
            received: of each neighbour.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
            offsets: how far the boxes of each have moved since its sweep.
        """
        back = inverse(poses[0])
        viewed = self.judge.to_view([self.names[number] for number in features], self.stamps[0])
        said = []
        for number, (name, each) in enumerate(zip(self.names, received, strict=True)):
            if isinstance(each, ReceivedMap):
                boxes, partial, occupied = each.boxes, each.partial, each.occupied()
            else:
                boxes, partial, occupied = None, False, each.density > 0
            view = self.sender.view(features[number], occupied) if name in viewed else None
            age = (self.stamps[0] - self.stamps[1 + number]) * 1e-9
            pose, returns = back @ poses[1 + number], self.grid.centres_of(occupied)
            said.append(Said(name, pose, boxes, returns, age, view, offsets[number], partial))
        seen = self.sender.view(ego, ego.density > 0)
        return Examined(seen, said, self.judge.judge(seen, said, self.stamps[0]))
