# SPDX-License-Identifier: Apache-2.0
"""How far the fusion of a sweep falls short of all that the vehicle and its neighbours can do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rclpy.impl.rcutils_logger import RcutilsLogger

from diffkd_ros.messages.names import degradation_name
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.msg import FusionStatus
from diffkd_ros.nodes.base.diagnostics import ERROR, OK, WARN, Item
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.sensor.faults import MISLEADING, MISPLACED, Fault, described

# How long after its last fusion a neighbour is missed.
_MISSED = 10 * NANOSECONDS
# Neighbours refused for these reasons are not missed.
_INTENDED = Refusal.NOT_ALLOWED.value, Refusal.FAR.value, Refusal.BEYOND_LIMIT.value
# Seconds after which the latest fusion no longer describes the present.
_PRESENT = 2.0


@dataclass(frozen=True)
class Degradation:
    """A level of `FusionStatus`, and its cause.

    Attributes:
        level: `FusionStatus.FULL` to `STALE`.
        cause: why it is not full; empty if it is.
        expected: whether nothing is wrong: no neighbour is in reach, or the first sweep has not come yet.
    """

    level: int
    cause: str = ''
    expected: bool = False

    @property
    def name(self) -> str:
        """Name of the level."""
        return degradation_name(self.level)

    def __str__(self) -> str:
        return f'{self.name}: {self.cause}' if self.cause else self.name

    def item(self) -> Item:
        """The item `degradation` of the diagnostics."""
        if self.level == FusionStatus.STALE:
            level = WARN if self.expected else ERROR
        else:
            level = OK if self.expected or self.level == FusionStatus.FULL else WARN
        return Item('degradation', level, str(self), {'level': self.level})


class Ladder:
    """Decides the degradation of each fusion: the highest level that applies."""

    def __init__(self) -> None:
        # Stamp of the last sweep that each neighbour was fused in.
        self._fused: dict[str, int] = {}

    def decide(
        self,
        stamp: int,
        verdicts: Sequence[Verdict],
        faults: Mapping[Fault, str],
        overdue: str,
        own_map_used: bool,
    ) -> Degradation:
        """The degradation of a fusion.

        Args:
            stamp: of the sweep, nanoseconds.
            verdicts: on all neighbours.
            faults: of the vehicle's own sensors, with details.
            overdue: why results come too late; empty if they are in time.
            own_map_used: whether the vehicle's own map was fused.
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
        causes = [f'own sensors: {described(fault, text)}' for fault, text in faults.items()] + missed
        if overdue:
            return Degradation(FusionStatus.STALE, '; '.join([overdue, *causes]))
        misleading = own_map_used and not MISLEADING.isdisjoint(faults)
        if misleading or not MISPLACED.isdisjoint(faults):
            level = FusionStatus.STALE
            causes += ['nothing else is fused'] if misleading else []
        elif not own_map_used:
            level, causes = FusionStatus.PEERS_ALONE, [*causes, 'the own map is left out']
        elif not accepted:
            level = FusionStatus.EGO_ALONE
            if not causes:
                return Degradation(level, 'no neighbour in reach', expected=True)
        elif not any(map(_has_map, accepted.values())):
            level, causes = FusionStatus.BOXES_ONLY, [*causes, f'only boxes of {", ".join(accepted)} arrived']
        else:
            level = FusionStatus.FEWER_PEERS if causes else FusionStatus.FULL
        return Degradation(level, '; '.join(causes))


def _has_map(verdict: Verdict) -> bool:
    received = verdict.feature
    if isinstance(received, ReceivedMap):
        return bool(received.bytes_of['coarse'] or received.bytes_of['fine'])
    return True


class DegradationReport:
    """The degradation at present: of the latest fusion, or `STALE` if that is too old. Thread-safe.

    Changes of the level are logged. Built when the node is activated.

    Args:
        clock: seconds; pass as fast as sweeps in a recording that is replayed.
        logger: of the node.
    """

    def __init__(self, clock: Callable[[], float], logger: RcutilsLogger) -> None:
        self._clock, self._logger = clock, logger
        self._lock = threading.Lock()
        self._latest = self._logged = Degradation(FusionStatus.STALE, 'no sweep yet', expected=True)
        # Of the latest fusion, or of the first sweep that was received.
        self._since: float | None = None

    def received(self) -> None:
        """Note that a sweep was received, from the first of which a result is expected."""
        with self._lock:
            if self._since is None:
                self._since = self._clock()

    def fused(self, now: Degradation) -> None:
        """Take the degradation of a fusion whose results were just published."""
        with self._lock:
            self._latest, self._since = now, self._clock()
            self._log(now)

    def current(self, reason: str) -> Degradation:
        """The degradation at present.

        Args:
            reason: why there may be no results; empty if none is known.
        """
        with self._lock:
            now = self._latest
            if self._since is None:
                now = Degradation(FusionStatus.STALE, reason or now.cause, expected=True)
            elif (age := self._clock() - self._since) > _PRESENT:
                now = Degradation(FusionStatus.STALE, reason or f'no result for {age:.1f} s')
            self._log(now)
            return now

    def _log(self, now: Degradation) -> None:
        before, self._logged = self._logged, now
        change = f'{before.name} -> {now}'
        if now.level > before.level:
            self._logger.warning(change, throttle_duration_sec=1.0)
        elif now.level < before.level:
            self._logger.info(change, throttle_duration_sec=1.0)
