# SPDX-License-Identifier: Apache-2.0
"""The receiver's own sweeps, as the clock that neighbours are compared with."""

from __future__ import annotations

import threading
import time

from diffkd_ros.messages.reading import NANOSECONDS

# A longer interval between two own sweeps is a pause, not the LiDAR's period.
_LONGEST_PERIOD = 1 * NANOSECONDS


class SweepClock:
    """Stamp, period and number of the receiver's own sweeps. Thread-safe.

    Attributes:
        period: seconds between the latest two sweeps, 0 if unknown.
        count: sweeps so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamp: int | None = None
        self._arrived = 0.0
        self.period = 0.0
        self.count = 0

    def arrived(self, stamp: int) -> None:
        """Note the stamp of a sweep that just arrived, nanoseconds."""
        with self._lock:
            if self._stamp is not None and 0 < stamp - self._stamp < _LONGEST_PERIOD:
                self.period = (stamp - self._stamp) / NANOSECONDS
            self._stamp, self._arrived = stamp, time.monotonic()
            self.count += 1

    def now(self) -> int | None:
        """Stamp that a sweep would have now, by the time since the newest one; None before the first one."""
        with self._lock:
            elapsed = round((time.monotonic() - self._arrived) * NANOSECONDS)
            return None if self._stamp is None else self._stamp + elapsed

    def newest(self) -> int | None:
        """Stamp of the newest sweep; None if it arrived more than 1.5 sweep periods ago."""
        with self._lock:
            late = time.monotonic() - self._arrived > 1.5 * self.period
            return None if late else self._stamp
