# SPDX-License-Identifier: Apache-2.0
"""Limits the rate of messages."""

from __future__ import annotations


class Allowance:
    """A token bucket: how many messages are taken in the long run, and at once.

    Args:
        rate: messages per second.
        burst: messages at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._time = burst, 0.0

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take a message; returns whether that is allowed.

        Args:
            now: seconds, see `SweepClock.seconds`.
            cost: messages that it counts as, at least 1.
        """
        self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
        self._time = now
        if self._tokens < 1:
            return False
        # A large one may leave a debt.
        self._tokens -= cost
        return True

    def charge(self, cost: float) -> None:
        """Let a message that was taken count as so many more."""
        self._tokens -= cost
