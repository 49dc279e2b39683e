# SPDX-License-Identifier: Apache-2.0
"""Counts received, repeated and lost messages of one sender from its sequence numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_SEQUENCE_RANGE = 1 << 32
# Nearly two hours at 10 Hz: no link loses so many consecutive messages.
_LONGEST_GAP = 1 << 16
# Latest lost messages that may still arrive late.
_LATE_WINDOW = 20


@dataclass
class SequenceStatistics:
    """Totals of one sender since its first message; sent = unheard + lost + received.

    The messages lost after the last one received are unknown, also before a restart.

    Attributes:
        received: messages that arrived, without repeated ones.
        repeated: messages that arrived twice in succession.
        lost: messages missing from the sequence; one that arrives late is not lost.
        unheard: messages sent before the first one received, again after each restart, and during pauses.
        restarts: how often the sequence started again, or continued farther ahead than a link can lose.
    """

    received: int = 0
    repeated: int = 0
    lost: int = 0
    unheard: int = 0
    restarts: int = 0
    _last: tuple[int, int] | None = None
    _paused: bool = False
    _missing: deque[int] = field(default_factory=lambda: deque(maxlen=_LATE_WINDOW))

    def follow(self, sequence: int, stamp: int) -> bool:
        """Count a received message.

        Args:
            sequence: the sender's counter, uint32: +1 per message, wraps.
            stamp: of the message, nanoseconds; distinguishes a late message from a restart.

        Returns:
            Whether the message is new, not repeated.
        """
        if self._last == (sequence, stamp):
            self.repeated += 1
            return False
        self.received += 1
        if self._last is None:
            self.unheard = sequence
        else:
            last, last_stamp = self._last
            gap = (sequence - last - 1) % _SEQUENCE_RANGE
            if gap <= _LONGEST_GAP and self._paused:
                self.unheard += gap
            elif gap <= _LONGEST_GAP:
                self.lost += gap
                newest = range(max(0, gap - _LATE_WINDOW), gap)
                self._missing.extend((last + 1 + k) % _SEQUENCE_RANGE for k in newest)
            elif sequence in self._missing and stamp < last_stamp:
                # Late: it was counted as lost when a newer message arrived.
                self._missing.remove(sequence)
                self.lost -= 1
                return True
            else:
                self.restarts += 1
                self.unheard += gap if gap < _SEQUENCE_RANGE // 2 else sequence
                self._missing.clear()
        self._last, self._paused = (sequence, stamp), False
        return True

    def pause(self) -> None:
        """Count the messages sent before the next one received as unheard, not as lost."""
        self._paused = True

    @property
    def loss(self) -> float:
        """Share of the messages sent since the first one received that were lost."""
        return self.lost / (self.lost + self.received) if self.received else 0.0
