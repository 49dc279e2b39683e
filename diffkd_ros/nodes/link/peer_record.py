# SPDX-License-Identifier: Apache-2.0
"""Statistics of one neighbour's messages and link."""

from __future__ import annotations

import copy
import math
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field

from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.metrics.sequence import SequenceStatistics
from diffkd_ros.metrics.stamp_gaps import StampGaps
from diffkd_ros.nodes.link.allowance import Allowance
from diffkd_ros.nodes.link.refusal import Refusal

# Latest messages that rate, age and clock lead are computed from.
_WINDOW = 20
# Messages needed to judge a clock.
_ENOUGH = 5
# Sweeps of a sender in a second, and at once.
_RATE = 30.0
_BURST = 100.0
# Seconds for which a name is reported as used by two participants.
_CONTESTED = 10.0
# Latest sweeps whose chunks are recognised when they arrive after the sweep was used or dropped.
_LATE_SWEEPS = 20
_COUNTS = (
    *('received', 'repeated', 'lost', 'unheard', 'restarts', 'fused', 'overwritten', 'waiting'),
    *('chunks_received', 'chunks_repeated', 'chunks_lost', 'contested'),
)


@dataclass
class PeerRecord(SequenceStatistics):
    """Totals of one sender since its first message, and rate, age and clock lead of its latest messages.

    Every message received is counted once, so received = fused + refused + overwritten + waiting. The message
    of a sweep that is sent in chunks has been received when one of them has.

    Attributes:
        fused: messages that took part in at least one fusion.
        refused: messages a sweep considered but none fused, by the last reason given.
        overwritten: messages replaced by a newer one before any sweep considered them.
        waiting: messages no sweep has considered yet.
        gaps: of the stamps: messages lost, and sweeps of which the sender made no message.
        gate_weight: share that the latest fused feature supplied over the cells it covers.
        last_refusal: reason and detail of the latest refusal, empty once a feature is fused again.
        chunks_received: chunks that arrived while their sweep could take them, each once.
        chunks_repeated: chunks that arrived again.
        chunks_lost: chunks of received sweeps that did not arrive by then.
        chunks_refused: chunks that are damaged, contradict others of their sweep or are too many, by reason.
        last_chunk_refusal: reason and detail of the latest chunk refused.
        layers: bytes of the data by layer of the latest sweep fused, empty if it was a whole map.
        restored: share of its cells that the ego estimated.
        publisher: participant that the name belongs to; empty if unknown.
        contested: messages that another participant sent under the same name.
        contested_at: when the latest of these arrived, seconds of a monotonic clock.
        heard: when the latest message of the sender arrived.
        used: when one was fused last.
        allowance: limits how many of its sweeps are taken.
    """

    fused: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    overwritten: int = 0
    waiting: int = 0
    gaps: StampGaps = field(default_factory=StampGaps)
    gate_weight: float = 0.0
    last_refusal: str = ''
    chunks_received: int = 0
    chunks_repeated: int = 0
    chunks_lost: int = 0
    chunks_refused: Counter[Refusal] = field(default_factory=Counter)
    last_chunk_refusal: str = ''
    layers: dict[str, int] = field(default_factory=dict)
    restored: float = 0.0
    publisher: bytes = b''
    contested: int = 0
    contested_at: float = -math.inf
    heard: float = -math.inf
    used: float = -math.inf
    allowance: Allowance = field(default_factory=lambda: Allowance(_RATE, _BURST))
    _gone: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_LATE_SWEEPS))
    _over_rate: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_LATE_SWEEPS))
    _window: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _ages: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _leads: deque[int] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def arrived(self, stamp: int, sequence: int, size: int, newest_sweep: int | None) -> bool:
        """Count a message that just arrived.

        Args:
            stamp: nanoseconds.
            sequence: the sender's counter, uint32.
            size: of the serialised message, bytes.
            newest_sweep: stamp of the receiver's newest sweep; None if there is no recent one.

        Returns:
            Whether the message is new, not repeated.
        """
        restarts = self.restarts
        if not self.follow(sequence, stamp):
            return False
        if self.restarts > restarts:
            self.gaps.reset()
        if self._last == (sequence, stamp):  # else it is late
            self.gaps.follow(stamp)
        if self._window and stamp <= self._window[-1][0]:
            self._window.clear()
        self._window.append((stamp, size))
        if newest_sweep is not None:
            self._leads.append(stamp - newest_sweep)
        return True

    def chunk_arrived(self, stamp: int, size: int) -> None:
        """Count a chunk of a sweep that is counted already.

        Args:
            stamp: of the sweep, nanoseconds.
            size: of the chunk's serialised message, bytes.
        """
        self.chunks_received += 1
        for place, (of_sweep, known) in enumerate(self._window):
            if of_sweep == stamp:
                self._window[place] = (stamp, known + size)

    def chunk_refused(self, refusal: Refusal, detail: str) -> None:
        """Count a chunk that is refused, and note why."""
        self.chunks_refused[refusal] += 1
        self.last_chunk_refusal = f'{refusal.value}: {detail}'

    def sweep_gone(self, sequence: int, stamp: int, lost: int) -> None:
        """Note that a sweep takes no more chunks, and that some of it were lost."""
        self.chunks_lost += lost
        self._gone.append((sequence, stamp))

    def over_rate(self, sequence: int, stamp: int) -> None:
        """Count a sweep that is one too many."""
        self.refused[Refusal.RATE] += 1
        self._over_rate.append((sequence, stamp))
        self.sweep_gone(sequence, stamp, 0)

    def is_over_rate(self, sequence: int, stamp: int) -> bool:
        """Whether a sweep was one too many, so that its chunks are refused."""
        return (sequence, stamp) in self._over_rate

    def is_gone(self, sequence: int, stamp: int, restart: int) -> bool:
        """Whether a sweep takes no more chunks.

        Stamps that fall back by more than `restart` nanoseconds are of a restarted or replaying sender.
        """
        if self._gone and stamp < self._gone[-1][1] - restart:
            self.forget_gone()
        return (sequence, stamp) in self._gone

    def forget_gone(self) -> None:
        """Let all sweeps take chunks again, after time has jumped back."""
        self._gone.clear()
        self._over_rate.clear()

    def pause(self) -> None:
        """Count the messages sent before the next one received neither as lost nor as missing."""
        super().pause()
        self.gaps.reset()

    @property
    def is_contested(self) -> bool:
        """Whether another participant has used the name recently."""
        return self.heard - self.contested_at < _CONTESTED

    def turn_away(self, refusal: Refusal, detail: str) -> None:
        """Count a message that is received but not stored, and note why."""
        self.received += 1
        self.refused[refusal] += 1
        self.last_refusal = f'{refusal.value}: {detail}'

    def copy(self) -> PeerRecord:
        """A copy that stays as it is."""
        copied = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (dict, deque, StampGaps)):
                setattr(copied, name, copy.copy(value))
        return copied

    def include(self, other: PeerRecord) -> None:
        """Add the totals of another sender."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.refused.update(other.refused)
        self.chunks_refused.update(other.chunks_refused)
        self.gaps.missing += other.gaps.missing

    def considered(self, age: int) -> None:
        """Note the age of a message, nanoseconds, when a sweep first considers it."""
        self._ages.append(age)

    @property
    def rate(self) -> float:
        """Messages per second of their stamps, 0 if unknown."""
        span = self._span()
        return (len(self._window) - 1) / span if span else 0.0

    @property
    def kilobytes_per_s(self) -> float:
        """Serialised messages, in thousands of bytes per second of the stamps, 0 if unknown."""
        span = self._span()
        return sum(size for _, size in list(self._window)[1:]) / span / 1e3 if span else 0.0

    def _span(self) -> float:
        return (self._window[-1][0] - self._window[0][0]) / NANOSECONDS if len(self._window) > 1 else 0.0

    @property
    def age(self) -> float | None:
        """Median age when a sweep first considered a message, seconds; None if unknown."""
        return statistics.median(self._ages) / NANOSECONDS if self._ages else None

    @property
    def lead(self) -> float | None:
        """Median of stamp minus the receiver's newest sweep on arrival, seconds; None if unknown.

        As transmission takes time, it is at most the receiver's sweep period if the clocks agree.
        """
        return statistics.median(self._leads) / NANOSECONDS if len(self._leads) >= _ENOUGH else None
