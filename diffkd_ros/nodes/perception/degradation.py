# SPDX-License-Identifier: Apache-2.0
"""How far the fusion of a sweep falls short of all that the vehicle and its neighbours can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffkd_ros.messages.names import DEGRADATIONS
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.msg import FusionStatus
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.sensor.monitor import MISLEADING, Fault, described

# How long after its last fusion a neighbour is missed.
_MISSED = 10 * NANOSECONDS
# Neighbours refused for these reasons are not missed.
_INTENDED = Refusal.NOT_ALLOWED.value, Refusal.FAR.value, Refusal.BEYOND_LIMIT.value


@dataclass(frozen=True)
class Degradation:
    """A level of `FusionStatus`, and its cause.

    Attributes:
        level: `FusionStatus.FULL` to `STALE`.
        cause: why it is not full; empty if it is.
        missed: whether a neighbour that was fused lately is not.
    """

    level: int
    cause: str = ''
    missed: bool = False

    @property
    def name(self) -> str:
        """Name of the level."""
        return DEGRADATIONS[self.level]

    def __str__(self) -> str:
        return f'{self.name}: {self.cause}' if self.cause else self.name


class Ladder:
    """Decides the degradation of each fusion: the highest level that applies."""

    def __init__(self) -> None:
        # Stamp of the last sweep that each neighbour was fused in.
        self._fused: dict[str, int] = {}

    def decide(
        self, stamp: int, verdicts: Sequence[Verdict], faults: Mapping[Fault, str], overdue: str
    ) -> Degradation:
        """The degradation of a fusion.

        Args:
            stamp: of the sweep, nanoseconds.
            verdicts: on all neighbours.
            faults: of the vehicle's own LiDAR, with details.
            overdue: why results come too late; empty if they are in time.
        """
        accepted = {each.agent: each for each in verdicts if each.accepted}
        refused = {each.agent: each.reason for each in verdicts if not each.accepted}
        recent = {name: last for name, last in self._fused.items() if 0 <= stamp - last <= _MISSED}
        self._fused = recent | dict.fromkeys(accepted, stamp)
        missed = [
            f'{name} {refused.get(name, "unknown")}'
            for name in recent
            if name not in accepted and not refused.get(name, '').startswith(_INTENDED)
        ]
        own = [f'own LiDAR {described(fault, text)}' for fault, text in faults.items()]
        causes = own + missed
        if overdue:
            level, causes = FusionStatus.STALE, [overdue, *causes]
        elif not accepted and not MISLEADING.isdisjoint(faults):
            level, causes = FusionStatus.STALE, [*causes, 'no neighbour is fused']
        elif not accepted:
            level, causes = FusionStatus.EGO_ALONE, causes or ['no neighbour in reach']
        elif not any(map(_has_map, accepted.values())):
            level, causes = FusionStatus.BOXES_ONLY, [*causes, f'only boxes of {", ".join(accepted)} arrived']
        else:
            level = FusionStatus.FEWER_PEERS if causes else FusionStatus.FULL
        return Degradation(level, '; '.join(causes), bool(missed))


def _has_map(verdict: Verdict) -> bool:
    received = verdict.feature
    if isinstance(received, ReceivedMap):
        return bool(received.bytes_of['coarse'] or received.bytes_of['fine'])
    return True
