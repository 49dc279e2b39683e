# SPDX-License-Identifier: Apache-2.0
"""The features neighbours sent: the newest few of each, and what became of every message."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

Message = TypeVar('Message')

_SECOND = 1_000_000_000
# A sender whose stamps fall back by more than this has restarted or replays: what it sent before is void.
_RESTART = 1 * _SECOND
# A silent sender is still reported for this long, measured on the receiver's sweeps, and then forgotten.
_REPORTED = 10 * _SECOND
# Messages kept of one sender: enough to find the one of a sweep while newer ones come in.
_DEPTH = 4
# Another vehicle can invent names: bounds the memory they cost.
_MAX_SENDERS = 64


class Refusal(Enum):
    """Why a neighbour's feature is not fused; the value is what FusionStatus and diagnostics say."""

    OWN = "carries this vehicle's own agent id"
    ABSENT = 'nothing new arrived'
    STALE = 'older than max_age'
    FUTURE = 'from the future: the clocks disagree'
    MODEL = 'of another model'
    GRID = 'of another grid'
    ENCODING = 'of an unknown encoding'
    MAP_FRAME = 'pose given in another map frame'
    POSE = 'pose is no finite rigid transform'
    PAYLOAD = 'payload cannot be decoded'
    BEYOND_LIMIT = 'beyond the number of agents the model fuses'


@dataclass
class Received(Generic[Message]):
    """One message with what was read from it on arrival.

    Attributes:
        sender: agent id.
        stamp: of the sweep it was made from, nanoseconds.
        sequence: counts the sender's messages.
        message: the message.
        decoded: what the buffer's user made of the message, kept for the next sweep; None until then.
        fresh: no sweep has looked at it yet.
    """

    sender: str
    stamp: int
    sequence: int
    message: Message
    decoded: Any = None
    fresh: bool = True


@dataclass
class SenderCounts:
    """Totals of one sender since it was first heard.

    Attributes:
        received: messages that arrived.
        lost: messages missing from the sequence.
        fused: fusions its features took part in.
        refused: times its newest feature was refused, per reason.
        last_refusal: reason and detail of the latest refusal, empty once a feature is fused again.
    """

    received: int = 0
    lost: int = 0
    fused: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    last_refusal: str = ''


@dataclass(frozen=True)
class Pick(Generic[Message]):
    """What one sender has to offer for a sweep: `entry`, unless `refusal` says why not."""

    entry: Received[Message]
    age: int
    refusal: Refusal | None


class PeerBuffer(Generic[Message]):
    """Keeps the newest messages of each sender and picks one of each for a sweep.

    All ages are differences of stamps, so neither the arrival time nor this machine's clock matters.
    Thread-safe: the executor adds while the inference thread picks.

    Args:
        own_id: agent id of the receiver, whose own messages are never fused.
        max_age: oldest age fused, nanoseconds.
        future_tolerance: how much newer than the sweep a feature may be, nanoseconds.
    """

    def __init__(self, own_id: str, max_age: int, future_tolerance: int) -> None:
        self._own_id = own_id
        self._max_age = max_age
        self._future_tolerance = future_tolerance
        self._lock = threading.Lock()
        self._senders: dict[str, deque[Received[Message]]] = {}
        self._last_sequence: dict[str, int] = {}
        self.counts: dict[str, SenderCounts] = {}

    def add(self, sender: str, stamp: int, sequence: int, message: Message) -> None:
        """Store a message that just arrived."""
        with self._lock:
            if sender not in self._senders and len(self._senders) >= _MAX_SENDERS:
                self._forget(min(self._senders, key=lambda name: self._senders[name][-1].stamp))
            queue = self._senders.setdefault(sender, deque(maxlen=_DEPTH))
            if queue and stamp < queue[-1].stamp - _RESTART:
                queue.clear()
            queue.append(Received(sender, stamp, sequence, message))
            counts = self.counts.setdefault(sender, SenderCounts())
            counts.received += 1
            gap = (sequence - self._last_sequence.get(sender, sequence - 1) - 1) % 2**32
            # A step back (restarted sender) looks like an enormous gap.
            if gap < 2**31:
                counts.lost += gap
            self._last_sequence[sender] = sequence

    def pick(self, stamp: int) -> list[Pick[Message]]:
        """The newest message of each sender not newer than a sweep, senders in order of their names.

        Args:
            stamp: the receiver's sweep, nanoseconds.
        """
        with self._lock:
            picks = []
            for sender in sorted(self._senders):
                queue = self._senders[sender]
                fresh = any(entry.fresh for entry in queue)
                candidates = [e for e in queue if e.stamp <= stamp + self._future_tolerance] or list(queue)
                entry = max(candidates, key=lambda candidate: candidate.stamp)
                age = stamp - entry.stamp
                for seen in queue:
                    seen.fresh = False
                if not fresh and abs(age) > max(_REPORTED, self._max_age):
                    self._forget(sender)
                    continue
                picks.append(Pick(entry, age, self._refusal(sender, age, fresh)))
            return picks

    def _refusal(self, sender: str, age: int, fresh: bool) -> Refusal | None:
        if sender == self._own_id:
            return Refusal.OWN
        if age < -self._future_tolerance:
            return Refusal.FUTURE
        if age > self._max_age:
            return Refusal.STALE if fresh else Refusal.ABSENT
        return None

    def _forget(self, sender: str) -> None:
        del self._senders[sender], self._last_sequence[sender], self.counts[sender]

    def count_fused(self, sender: str) -> None:
        """Note that a sender's feature was fused."""
        with self._lock:
            counts = self.counts.setdefault(sender, SenderCounts())
            counts.fused += 1
            counts.last_refusal = ''

    def count_refused(self, sender: str, refusal: Refusal, detail: str) -> None:
        """Note that a sender's feature was refused, and why."""
        with self._lock:
            counts = self.counts.setdefault(sender, SenderCounts())
            counts.refused[refusal] += 1
            counts.last_refusal = detail

    def snapshot(self) -> dict[str, SenderCounts]:
        """A copy of the totals of all senders still known."""
        with self._lock:
            return {
                sender: SenderCounts(c.received, c.lost, c.fused, Counter(c.refused), c.last_refusal)
                for sender, c in sorted(self.counts.items())
            }
