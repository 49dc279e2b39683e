# SPDX-License-Identifier: Apache-2.0
"""What became of every message of one neighbour, and how its link does."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum

_SECOND = 1_000_000_000
# Messages that rate, age and clock lead are taken from.
_WINDOW = 20
# Nearly two hours at 10 Hz: no link loses so many on end.
_LONGEST_GAP = 1 << 16
# A clock is judged by at least so many messages.
_ENOUGH = 5


class Refusal(Enum):
    """Why a neighbour's feature is not fused; the value is what FusionStatus and diagnostics say."""

    ABSENT = 'nothing new arrived'
    STALE = 'older than max_age'
    FUTURE = 'from the future: the clocks disagree'
    CLOCK = 'stamped in another epoch: the clocks disagree'
    MODEL = 'of another model'
    GRID = 'of another grid'
    ENCODING = 'of an unknown encoding'
    MAP_FRAME = 'pose given in another map frame'
    POSE = 'pose is no finite rigid transform'
    PAYLOAD = 'payload cannot be decoded'
    BEYOND_LIMIT = 'beyond the number of agents the model fuses'


@dataclass
class PeerRecord:
    """Totals of one sender since it was first heard, and a window of its latest messages.

    Every message that arrived meets one fate: fused (took part in at least one fusion), refused (a sweep
    looked at it but never fused it), overwritten (a newer one was there before any sweep looked at it); until
    then it waits. So sent = lost + received and received = fused + refused + overwritten + waiting; messages
    sent before the first one heard are in `unheard`, and what a sender sent last nobody can miss.

    Attributes:
        received: messages that arrived, repeated ones left out.
        repeated: messages that arrived again.
        lost: messages missing from the sequence.
        unheard: messages sent before the first one heard, and again after each restart of the sender.
        restarts: how often the sender began its sequence anew, or went on farther ahead than links lose.
        fused: messages, see above.
        refused: messages by the last reason given, see above.
        overwritten: messages, see above.
        waiting: messages no sweep has looked at yet.
        gate_weight: share that its latest fused feature supplied over the cells it covers.
        last_refusal: reason and detail of the latest refusal, empty once a feature is fused again.
    """

    received: int = 0
    repeated: int = 0
    lost: int = 0
    unheard: int = 0
    restarts: int = 0
    fused: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    overwritten: int = 0
    waiting: int = 0
    gate_weight: float = 0.0
    last_refusal: str = ''
    _sequence: int | None = None
    _stamp: int = 0
    _missing: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _window: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _ages: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _leads: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def arrived(self, stamp: int, sequence: int, size: int, newest_sweep: int | None) -> bool:
        """Count a message that just arrived.

        Args:
            stamp: nanoseconds.
            sequence: of the sender, modulo 2**32.
            size: of the payload, bytes.
            newest_sweep: stamp of the receiver's newest sweep; None if none came lately.

        Returns:
            False if it is one that came before.
        """
        if sequence == self._sequence and stamp == self._stamp:
            self.repeated += 1
            return False
        self.received += 1
        self._count_gap(stamp, sequence)
        if self._window and stamp <= self._window[-1][0]:
            self._window.clear()
        self._window.append((stamp, size))
        if newest_sweep is not None:
            self._leads.append(stamp - newest_sweep)
        return True

    def _count_gap(self, stamp: int, sequence: int) -> None:
        last = self._sequence
        if last is None:
            self.unheard += sequence
        else:
            gap = (sequence - last - 1) % 2**32
            if gap <= _LONGEST_GAP:
                self.lost += gap
                self._missing.extend((last + 1 + k) % 2**32 for k in range(min(gap, _WINDOW)))
            elif sequence in self._missing and stamp < self._stamp:
                # Overtaken by a later one on the way; it was counted as lost then.
                self._missing.remove(sequence)
                self.lost -= 1
                return
            else:
                self.restarts += 1
                self.unheard += gap if gap < 2**31 else sequence
                self._missing.clear()
        self._sequence, self._stamp = sequence, stamp

    def looked_at(self, age: int) -> None:
        """Note how old a message was, nanoseconds, when a sweep first looked at it."""
        self._ages.append(age)

    @property
    def rate(self) -> float:
        """Messages per second of their stamps, 0 if unknown."""
        span = self._span()
        return (len(self._window) - 1) / span if span else 0.0

    @property
    def kilobytes_per_s(self) -> float:
        """Payload, in thousands of bytes per second of the stamps, 0 if unknown."""
        span = self._span()
        return sum(size for _, size in list(self._window)[1:]) / span / 1e3 if span else 0.0

    def _span(self) -> float:
        return (self._window[-1][0] - self._window[0][0]) / _SECOND if len(self._window) > 1 else 0.0

    @property
    def loss(self) -> float:
        """Share of what was sent, since the sender was first heard, that did not arrive."""
        return self.lost / (self.lost + self.received) if self.received else 0.0

    @property
    def age(self) -> float | None:
        """Median age when a sweep first looked at a message, seconds."""
        return statistics.median(self._ages) / _SECOND if self._ages else None

    @property
    def lead(self) -> float | None:
        """Median of stamp minus the receiver's newest sweep on arrival, seconds; None until known.

        A message takes time, so with clocks that agree it lies at or below the receiver's sweep period.
        """
        return statistics.median(self._leads) / _SECOND if len(self._leads) >= _ENOUGH else None

    @property
    def accounted(self) -> int:
        """Messages whose fate is known, waiting ones included; equals `received`."""
        return self.fused + self.refused.total() + self.overwritten + self.waiting
