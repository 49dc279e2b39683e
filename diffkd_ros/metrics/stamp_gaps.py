# SPDX-License-Identifier: Apache-2.0
"""Counts the messages missing from a periodic topic by the gaps between their stamps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Nanoseconds. A longer interval is a pause of the sender, or lies between two scenarios.
_PAUSE = 1_000_000_000
# Latest intervals from which the period is estimated.
_WINDOW = 40
# Intervals needed for that.
_ENOUGH = 4


@dataclass
class StampGaps:
    """Messages missing between the first and the latest one received.

    The period is the lower quartile of the latest intervals, so that it is right although up to about half of
    the messages are missing. An interval of k periods, rounded, is a gap of k - 1 messages, unless it is
    longer than 1 s.

    Attributes:
        missing: number of messages missing.
        pauses: number of intervals longer than 1 s.
    """

    missing: int = 0
    pauses: int = 0
    _last: int | None = None
    _intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def follow(self, stamp: int) -> None:
        """Note the stamp of a message that arrived, nanoseconds; an earlier one starts a new sequence."""
        interval = 0 if self._last is None else stamp - self._last
        self._last = stamp
        self.pauses += interval > _PAUSE
        if not 0 < interval <= _PAUSE:
            return
        self._intervals.append(interval)
        known = len(self._intervals)
        if known < _ENOUGH:
            return
        period = sorted(self._intervals)[known // 4]
        judged = self._intervals if known == _ENOUGH else (interval,)
        self.missing += sum(max(0, round(length / period) - 1) for length in judged)

    def reset(self) -> None:
        """Start a new sequence with the next message: none is missing before it."""
        self._last = None
