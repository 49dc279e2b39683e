# SPDX-License-Identifier: Apache-2.0
"""The newest messages of each neighbour, and how each one was used."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Generic

from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.nodes.link.arrived import ArrivedChunks
from diffkd_ros.nodes.link.peer_record import PeerRecord
from diffkd_ros.nodes.link.received import Message, Pick, Received
from diffkd_ros.nodes.link.refusal import Objection, Refusal
from diffkd_ros.nodes.link.senders import Senders
from diffkd_ros.runtime.neighbours import choose_sweep

# A sender whose stamps fall back by more than this has restarted or replays.
_RESTART = 1 * NANOSECONDS
# A message stamped further ahead of the receiver's newest sweep is not for the next one.
_AHEAD = 1 * NANOSECONDS
# Seconds for which a message of the future is kept beside newer ones.
_FUTURE_KEPT = 2.0
# How long a silent sender is still reported, measured by the stamps of the receiver's sweeps.
_REPORTED = 10 * NANOSECONDS
# No link delay and no pause explains a larger difference between stamps.
_OTHER_EPOCH = 60 * NANOSECONDS
# Messages kept per sender: enough to find the one for a sweep while newer ones arrive.
_DEPTH = 4
# Bytes of the messages kept of all senders.
_MOST_BYTES = 32_000_000


class PeerBuffer(Generic[Message]):
    """Keeps the newest messages of each sender and picks one of each for a sweep.

    All ages are differences of stamps, independent of the arrival time and of this machine's clock.
    Thread-safe: the executor adds while the inference thread picks.

    Args:
        own_id: agent id of the receiver, whose own messages are ignored if the link returns them.
        max_age: oldest age fused, nanoseconds.
        future_tolerance: how much newer than the sweep a feature may be, nanoseconds.
        clock: seconds, see `SweepClock.seconds`.

    Attributes:
        max_age: see above; may be changed between two sweeps.
        own: number of messages ignored because they carry the receiver's id.
    """

    def __init__(
        self,
        own_id: str,
        max_age: int,
        future_tolerance: int,
        clock: Callable[[], float],
    ) -> None:
        self._own_id = own_id
        self.max_age = max_age
        self._future_tolerance = future_tolerance
        self._lock = threading.RLock()
        self._clock = clock
        self._queues: dict[str, deque[Received[Message]]] = {}
        self._senders = Senders(self._forget, clock)
        self.own = self._bytes = 0

    def add(
        self,
        sender: str,
        stamp: int,
        sequence: int,
        message: Message,
        size: int = 0,
        newest_sweep: int | None = None,
        publisher: bytes = b'',
    ) -> None:
        """Store a message that just arrived.

        Args:
            sender: agent id.
            stamp: nanoseconds.
            sequence: the sender's counter, uint32.
            message: stored unchanged.
            size: of the serialised message, bytes.
            newest_sweep: stamp of the receiver's newest sweep; None if there is no recent one.
            publisher: participant that sent it, empty if unknown.
        """
        with self._lock:
            if (record := self._admitted(sender, publisher, chunk=False)) is not None:
                entry = Received(sender, stamp, sequence, message, self._clock(), size)
                self._store(record, entry, newest_sweep)

    def add_chunk(
        self,
        sender: str,
        stamp: int,
        sequence: int,
        chunk: ArrivedChunks,
        newest_sweep: int | None = None,
        publisher: bytes = b'',
    ) -> None:
        """Store a chunk that just arrived, with the other chunks of its sweep.

        Args:
            sender: agent id.
            stamp: of the sweep, nanoseconds.
            sequence: of the sweep, uint32.
            chunk: the chunk.
            newest_sweep: see `add`.
            publisher: see `add`.
        """
        with self._lock:
            record = self._admitted(sender, publisher, chunk=True)
            if record is None:
                return
            if chunk.problem:
                record.chunk_refused(Refusal.CONTRADICTION, chunk.problem)
                return
            for entry in self._queues.get(sender, ()):
                sweep = entry.message
                if (entry.sequence, entry.stamp) == (sequence, stamp) and isinstance(sweep, ArrivedChunks):
                    before = sweep.arrived
                    if problem := sweep.join(chunk):
                        record.chunk_refused(Refusal.CONTRADICTION, problem)
                    elif sweep.arrived == before:
                        record.chunks_repeated += 1
                    else:
                        record.chunk_arrived(stamp, chunk.extent.size)
                        entry.size += chunk.extent.size
                        self._hold(chunk.extent.size)
                    return
            # One that arrives after its sweep was used or dropped is counted as lost.
            arrived = Received(sender, stamp, sequence, chunk, self._clock(), chunk.extent.size)
            gone = record.is_gone(sequence, stamp, _RESTART)
            if not gone and self._store(record, arrived, newest_sweep):
                record.chunks_received += 1
            elif record.is_over_rate(sequence, stamp):
                record.chunk_refused(Refusal.RATE, f'sweep {sequence}')

    def turn_away(self, why: Objection, *, chunk: bool) -> None:
        """Count a message that no sender's record counts.

        Args:
            why: it is refused.
            chunk: whether it is a chunk, which is counted as such, not as a message.
        """
        with self._lock:
            refused = self._senders.refused
            count = refused.chunk_refused if chunk else refused.turn_away
            count(why.refusal, why.detail)

    def _admitted(self, sender: str, publisher: bytes, *, chunk: bool) -> PeerRecord | None:
        """The record of the sender of a message that just arrived; None if it is an own one or refused."""
        if sender == self._own_id:
            self.own += 1
            return None
        admitted = self._senders.admit(sender, publisher)
        if isinstance(admitted, PeerRecord):
            return admitted
        self.turn_away(Objection(admitted, sender), chunk=chunk)
        return None

    def _store(self, record: PeerRecord, entry: Received[Any], newest_sweep: int | None) -> bool:
        """Store a message unless it is repeated or one too many; returns whether it is stored."""
        if not record.arrived(entry.stamp, entry.sequence, entry.size, newest_sweep):
            return False
        if not record.allowance.take(entry.arrived):
            record.over_rate(entry.sequence, entry.stamp)
            return False
        queue = self._queues.setdefault(entry.sender, deque())
        queue.append(entry)
        while len(queue) > _DEPTH:
            # A stamp that no sweep will ask for replaces no useful one.
            useless = (e for e in queue if not self._in_time(e, newest_sweep))
            self._drop(next(useless, queue[0]))
        self._hold(entry.size)
        return True

    def _hold(self, size: int) -> None:
        """Count so many more bytes; beyond the limit drop the oldest of the participant with most of them."""
        self._bytes += size
        while self._bytes > _MOST_BYTES:
            held: Counter[bytes | str] = Counter()
            for entry in self._entries():
                held[self._participant(entry)] += entry.size
            largest = max(held, key=held.__getitem__)
            of_it = (entry for entry in self._entries() if self._participant(entry) == largest)
            self._drop(min(of_it, key=lambda entry: entry.arrived))

    def _entries(self) -> Iterator[Received[Message]]:
        return chain.from_iterable(self._queues.values())

    def _participant(self, entry: Received[Message]) -> bytes | str:
        return self._senders.record(entry.sender).publisher or entry.sender

    def _drop(self, entry: Received[Message]) -> None:
        queue = self._queues[entry.sender]
        queue.remove(entry)
        self._leave(entry)
        if not queue:
            del self._queues[entry.sender]

    def _in_time(self, entry: Received[Message], newest_sweep: int | None) -> bool:
        return newest_sweep is None or -_AHEAD <= newest_sweep - entry.stamp <= self.max_age

    def pick(self, stamp: int) -> list[Pick[Message]]:
        """Pick each sender's newest message that is not newer than a sweep, in order of the senders' names.

        Of several with the same stamp, the last received is picked: the others are from before a restart.
        Newer ones of which no boxes arrived are passed over as `choose_sweep` says, and refused unless a
        later sweep fuses them.

        Args:
            stamp: of the receiver's sweep, nanoseconds.
        """
        with self._lock:
            picks = []
            for sender in sorted(self._queues):
                queue = self._queues[sender]
                self._drop_future(queue, stamp)
                fresh = any(entry.fresh for entry in queue)
                due = [e for e in reversed(queue) if e.stamp <= stamp + self._future_tolerance]
                entry = choose_sweep(due, stamp - self.max_age, _stamp_of, _has_base)
                if entry is None:
                    entry = min(queue, key=_stamp_of)
                age = stamp - entry.stamp
                if not fresh and abs(age) > max(_REPORTED, self.max_age):
                    self._forget(sender)
                    continue
                # Older ones are of no use to later sweeps either.
                for outdated in [e for e in queue if e.stamp < entry.stamp]:
                    self._drop(outdated)
                for passed in (e for e in due if e.stamp > entry.stamp):
                    passed.refusal = Refusal.NO_BASE
                refusal = self._refusal(age, fresh)
                if entry.fresh:
                    self._senders.record(sender).considered(age)
                for seen in queue:
                    seen.fresh = False
                picks.append(Pick(entry, age, refusal))
            return picks

    def _refusal(self, age: int, fresh: bool) -> Refusal | None:
        if -self._future_tolerance <= age <= self.max_age:
            return None
        if not fresh and age > 0:
            return Refusal.ABSENT
        if abs(age) > _OTHER_EPOCH:
            return Refusal.CLOCK
        return Refusal.FUTURE if age < 0 else Refusal.STALE

    def _drop_future(self, queue: deque[Received[Message]], stamp: int) -> None:
        """Drop messages of the future, except for recent ones, and for the last message.

        After a restart with earlier stamps they would wait until these are reached again.
        """
        now = self._clock()
        for entry in list(queue):
            future = entry.stamp > stamp + self._future_tolerance
            if future and now - entry.arrived > _FUTURE_KEPT and len(queue) > 1:
                self._drop(entry)

    def _leave(self, entry: Received[Message]) -> None:
        """Count a message that no further sweep will consider."""
        entry.left = True
        self._bytes -= entry.size
        self._count(entry, 1)
        sweep = entry.message
        if isinstance(sweep, ArrivedChunks):
            record = self._senders.record(entry.sender)
            record.sweep_gone(entry.sequence, entry.stamp, sweep.announced - sweep.arrived)

    def _count(self, entry: Received[Message], by: int) -> None:
        record = self._senders.record(entry.sender)
        if entry.fused:
            record.fused += by
        elif entry.refusal is not None:
            record.refused[entry.refusal] += by
        else:
            record.overwritten += by

    def _decide(self, entry: Received[Message], *, fused: bool, refusal: Refusal | None) -> None:
        """Set how a sweep used a message; corrects the counts if it has left the buffer meanwhile."""
        if entry.left:
            self._count(entry, -1)
        entry.fused, entry.refusal = fused, refusal
        if entry.left:
            self._count(entry, 1)

    def _forget(self, sender: str) -> None:
        """Drop a sender's messages; its totals are kept in case it returns."""
        for entry in self._queues.pop(sender, ()):
            self._leave(entry)

    def pause(self) -> None:
        """Drop all messages; those sent before the next one received are not lost."""
        with self._lock:
            for sender in list(self._queues):
                self._forget(sender)
            for record in self._senders.records():
                record.pause()

    def forget_after(self, stamp: int) -> None:
        """Drop messages stamped later than `stamp`, to which time has jumped back."""
        with self._lock:
            for entry in [e for e in self._entries() if e.stamp > stamp + self._future_tolerance]:
                self._drop(entry)
            for record in self._senders.records():
                record.forget_gone()

    def count_fused(self, entry: Received[Message]) -> None:
        """Note that a message is fused."""
        with self._lock:
            self._decide(entry, fused=True, refusal=entry.refusal)
            self._senders.fused(entry.sender)

    def count_weight(
        self, sender: str, weight: float, layers: dict[str, int] | None = None, restored: float = 0.0
    ) -> None:
        """Note the gate weight of a sender's fused feature, and of one in layers their bytes and more.

        Args:
            sender: agent id.
            weight: of the feature.
            layers: bytes of the data by layer.
            restored: share of its cells that were estimated.
        """
        with self._lock:
            if sender in self._senders:
                record = self._senders.record(sender)
                record.gate_weight, record.layers, record.restored = weight, layers or {}, restored

    def count_damaged_chunk(self, sender: str, detail: str) -> None:
        """Note that a chunk cannot be decoded, and why."""
        with self._lock:
            self._senders.record(sender).chunk_refused(Refusal.PAYLOAD, detail)

    def count_refused(self, entry: Received[Message], refusal: Refusal, detail: str) -> None:
        """Note that a message was refused, and why."""
        with self._lock:
            if refusal is not Refusal.ABSENT:
                self._decide(entry, fused=entry.fused, refusal=refusal)
            if entry.sender in self._senders:
                record = self._senders.record(entry.sender)
                record.last_refusal = detail
                record.gate_weight = 0.0

    def publisher(self, sender: str) -> bytes:
        """The participant that a sender's name belongs to, empty if unknown."""
        with self._lock:
            return self._senders.record(sender).publisher

    def totals(self) -> PeerRecord:
        """Totals over all senders since the start, also those whose record was dropped."""
        total = PeerRecord()
        with self._lock:
            for record in (
                self._senders.dropped,
                self._senders.refused,
                *self.snapshot(forgotten=True).values(),
            ):
                total.include(record)
        return total

    def turned_away(self) -> PeerRecord:
        """Totals of the messages that were refused before they were any sender's."""
        with self._lock:
            return self._senders.refused.copy()

    def snapshot(self, *, forgotten: bool = False) -> dict[str, PeerRecord]:
        """Copy the records of all senders still reported; messages in the buffer count as used so far.

        Args:
            forgotten: include senders that have long been silent.
        """
        with self._lock:
            records = {}
            for sender in sorted(self._senders if forgotten else self._queues):
                record = self._senders.record(sender).copy()
                for entry in self._queues.get(sender, ()):
                    if entry.fused:
                        record.fused += 1
                    elif entry.refusal is not None:
                        record.refused[entry.refusal] += 1
                    else:
                        record.waiting += 1
                records[sender] = record
            return records


def _has_base(entry: Received[Any]) -> bool:
    return not isinstance(entry.message, ArrivedChunks) or entry.message.has_base


def _stamp_of(entry: Received[Any]) -> int:
    return entry.stamp
