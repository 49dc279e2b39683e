# SPDX-License-Identifier: Apache-2.0
"""The receiver's own sweeps, as the clock that neighbours are compared with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from diffkd_ros.messages.reading import NANOSECONDS

# A longer interval between two own sweeps is a pause, not the LiDAR's period.
_LONGEST_PERIOD = 1 * NANOSECONDS
# Seconds by which sweeps that arrive late may be followed by early ones, without seconds passing faster.
_JITTER = 1.0


class SweepClock:
    """Stamp and period of the receiver's own sweeps. Thread-safe.

    Args:
        clock: seconds, monotonic.

    Attributes:
        period: seconds between the latest two sweeps, 0 if unknown.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: int | None = None
        self._arrived = self._ahead = self._late = 0.0
        self.period = 0.0

    def arrived(self, stamp: int) -> None:
        """Note the stamp of a sweep that just arrived, nanoseconds."""
        with self._lock:
            now = self._clock()
            if self._stamp is not None and 0 < stamp - self._stamp < _LONGEST_PERIOD:
                self.period = (stamp - self._stamp) / NANOSECONDS
                late = self._late + now - self._arrived - self.period
                self._ahead += max(0.0, -late)
                self._late = min(max(0.0, late), _JITTER)
            self._stamp, self._arrived = stamp, now

    def seconds(self) -> float:
        """Time for limits, monotonic: a recording replayed faster than in real time has as many seconds."""
        with self._lock:
            return self._clock() + self._ahead

    def now(self) -> int | None:
        """Stamp that a sweep would have now, by the time since the newest one; None before the first one."""
        with self._lock:
            elapsed = round((self._clock() - self._arrived) * NANOSECONDS)
            return None if self._stamp is None else self._stamp + elapsed

    def newest(self) -> int | None:
        """Stamp of the newest sweep; None if it arrived more than 1.5 sweep periods ago."""
        with self._lock:
            late = self._clock() - self._arrived > 1.5 * self.period
            return None if late else self._stamp
