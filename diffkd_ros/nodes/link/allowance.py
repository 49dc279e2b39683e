# SPDX-License-Identifier: Apache-2.0
"""Limits the rate of messages."""

from __future__ import annotations

# The ego's sweeps in a second: limits keep up with a recording that is replayed faster than in real time.
_SWEEPS = 10


class Allowance:
    """A token bucket: how many messages are taken in the long run, and at once.

    Args:
        rate: messages in a second, or in `_SWEEPS` sweeps of the ego, whichever are more.
        burst: messages at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._time, self._sweeps = burst, 0.0, 0

    def take(self, now: float, sweeps: int, cost: float = 1.0) -> bool:
        """Take a message; returns whether that is allowed.

        Args:
            now: seconds of a monotonic clock.
            sweeps: number of the ego's sweeps so far.
            cost: messages that it counts as, at least 1.
        """
        gained = max(now - self._time, (sweeps - self._sweeps) / _SWEEPS) * self._rate
        self._tokens = min(self._burst, self._tokens + gained)
        self._time, self._sweeps = now, sweeps
        if self._tokens < 1:
            return False
        # A large one may leave a debt.
        self._tokens -= cost
        return True
