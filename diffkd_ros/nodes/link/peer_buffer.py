# SPDX-License-Identifier: Apache-2.0
"""The newest messages of each neighbour, and how each one was used."""

from __future__ import annotations

import copy
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.nodes.link.arrived import ArrivedChunks
from diffkd_ros.nodes.link.peer_record import PeerRecord, Refusal
from diffkd_ros.runtime.neighbours import choose_sweep

Message = TypeVar('Message')

# A sender whose stamps fall back by more than this has restarted or replays: drop its earlier messages.
_RESTART = 1 * NANOSECONDS
# How long a silent sender is still reported, measured by the stamps of the receiver's sweeps.
_REPORTED = 10 * NANOSECONDS
# No link delay and no pause explains a larger difference between stamps.
_OTHER_EPOCH = 60 * NANOSECONDS
# Messages kept per sender: enough to find the one for a sweep while newer ones arrive.
_DEPTH = 4
# Limits the memory that invented sender names can take.
_MAX_SENDERS = 64


@dataclass(eq=False)
class Received(Generic[Message]):
    """A stored message.

    Attributes:
        sender: agent id.
        stamp: of the sweep it was made from, nanoseconds.
        sequence: the sender's counter.
        message: the message.
        fresh: no sweep has considered it yet.
        fused: it took part in a fusion.
        refusal: why it was last refused.
        left: it has left the buffer and is counted.
    """

    sender: str
    stamp: int
    sequence: int
    message: Message
    fresh: bool = True
    fused: bool = False
    refusal: Refusal | None = None
    left: bool = False


@dataclass(frozen=True)
class Pick(Generic[Message]):
    """One sender's message for a sweep, its age in nanoseconds, and why it is refused, if it is."""

    entry: Received[Message]
    age: int
    refusal: Refusal | None


class PeerBuffer(Generic[Message]):
    """Keeps the newest messages of each sender and picks one of each for a sweep.

    All ages are differences of stamps, independent of the arrival time and of this machine's clock.
    Thread-safe: the executor adds while the inference thread picks.

    Args:
        own_id: agent id of the receiver, whose own messages are ignored if the link returns them.
        max_age: oldest age fused, nanoseconds.
        future_tolerance: how much newer than the sweep a feature may be, nanoseconds.

    Attributes:
        max_age: see above; may be changed between two sweeps.
        own: number of messages ignored because they carry the receiver's id.
    """

    def __init__(self, own_id: str, max_age: int, future_tolerance: int) -> None:
        self._own_id = own_id
        self.max_age = max_age
        self._future_tolerance = future_tolerance
        self._lock = threading.RLock()
        self._senders: dict[str, deque[Received[Message]]] = {}
        self._records: dict[str, PeerRecord] = {}
        # Totals of senders whose record was dropped.
        self._dropped = PeerRecord()
        self.own = 0

    def add(
        self,
        sender: str,
        stamp: int,
        sequence: int,
        message: Message,
        size: int = 0,
        newest_sweep: int | None = None,
    ) -> None:
        """Store a message that just arrived.

        Args:
            sender: agent id.
            stamp: nanoseconds.
            sequence: the sender's counter, uint32.
            message: stored unchanged.
            size: of the serialised message, bytes.
            newest_sweep: stamp of the receiver's newest sweep; None if there is no recent one.
        """
        with self._lock:
            record = self._record_of(sender)
            if record is not None:
                self._store(record, Received(sender, stamp, sequence, message), size, newest_sweep)

    def add_chunk(
        self, sender: str, stamp: int, sequence: int, chunk: ArrivedChunks, newest_sweep: int | None = None
    ) -> None:
        """Store a chunk that just arrived, with the other chunks of its sweep.

        Args:
            sender: agent id.
            stamp: of the sweep, nanoseconds.
            sequence: of the sweep, uint32.
            chunk: the chunk.
            newest_sweep: see `add`.
        """
        with self._lock:
            if chunk.problem:
                # Its sender's name may be of any length: no record is made for it.
                known = self._records.get(sender, self._dropped)
                known.chunk_refused(Refusal.CONTRADICTION, chunk.problem)
                return
            record = self._record_of(sender)
            if record is None:
                return
            for entry in self._senders.get(sender, ()):
                sweep = entry.message
                if (entry.sequence, entry.stamp) == (sequence, stamp) and isinstance(sweep, ArrivedChunks):
                    before = sweep.arrived
                    if problem := sweep.join(chunk):
                        record.chunk_refused(Refusal.CONTRADICTION, problem)
                    elif sweep.arrived == before:
                        record.chunks_repeated += 1
                    else:
                        record.chunk_arrived(stamp, chunk.extent.size)
                    return
            # One that arrives after its sweep was used or dropped is counted as lost.
            if not record.is_gone(sequence, stamp, _RESTART) and self._store(
                record, Received(sender, stamp, sequence, chunk), chunk.extent.size, newest_sweep
            ):
                record.chunks_received += 1

    def _record_of(self, sender: str) -> PeerRecord | None:
        """The record of the sender of a message that just arrived; None if it is an own one."""
        if sender == self._own_id:
            self.own += 1
            return None
        # Ordered by the latest message: the first one is forgotten first.
        record = self._records.pop(sender, None) or PeerRecord()
        self._records[sender] = record
        if len(self._records) > _MAX_SENDERS:
            oldest = next(iter(self._records))
            self._forget(oldest)
            self._dropped.include(self._records.pop(oldest))
        return record

    def _store(self, record: PeerRecord, entry: Received[Any], size: int, newest_sweep: int | None) -> bool:
        """Store a message unless it is repeated; returns whether it is stored."""
        if not record.arrived(entry.stamp, entry.sequence, size, newest_sweep):
            return False
        queue = self._senders.setdefault(entry.sender, deque())
        while queue and (entry.stamp < queue[-1].stamp - _RESTART or len(queue) >= _DEPTH):
            self._leave(queue.popleft())
        queue.append(entry)
        return True

    def pick(self, stamp: int) -> list[Pick[Message]]:
        """Pick each sender's newest message that is not newer than a sweep, in order of the senders' names.

        Of several with the same stamp, the last received is picked: the others are from before a restart.
        Newer ones without their first chunk are passed over as `choose_sweep` says, and refused unless a
        later sweep fuses them.

        Args:
            stamp: of the receiver's sweep, nanoseconds.
        """
        with self._lock:
            picks = []
            for sender in sorted(self._senders):
                queue = self._senders[sender]
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
                    queue.remove(outdated)
                    self._leave(outdated)
                for passed in (e for e in due if e.stamp > entry.stamp):
                    passed.refusal = Refusal.NO_BASE
                refusal = self._refusal(age, fresh)
                if entry.fresh:
                    self._records[sender].considered(age)
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

    def _leave(self, entry: Received[Message]) -> None:
        """Count a message that no further sweep will consider."""
        entry.left = True
        self._count(entry, 1)
        sweep = entry.message
        if isinstance(sweep, ArrivedChunks):
            record = self._records.get(entry.sender, self._dropped)
            record.sweep_gone(entry.sequence, entry.stamp, sweep.announced - sweep.arrived)

    def _count(self, entry: Received[Message], by: int) -> None:
        record = self._records.get(entry.sender, self._dropped)
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
        for entry in self._senders.pop(sender, ()):
            self._leave(entry)

    def pause(self) -> None:
        """Drop all messages; those sent before the next one received are not lost."""
        with self._lock:
            for sender in list(self._senders):
                self._forget(sender)
            for record in self._records.values():
                record.pause()

    def forget_after(self, stamp: int) -> None:
        """Drop messages stamped later than `stamp`, to which time has jumped back."""
        with self._lock:
            for sender, queue in list(self._senders.items()):
                for entry in [e for e in queue if e.stamp > stamp + self._future_tolerance]:
                    queue.remove(entry)
                    self._leave(entry)
                if not queue:
                    del self._senders[sender]
            for record in self._records.values():
                record.forget_gone()

    def count_fused(self, entry: Received[Message]) -> None:
        """Note that a message is fused."""
        with self._lock:
            self._decide(entry, fused=True, refusal=entry.refusal)
            if entry.sender in self._records:
                self._records[entry.sender].last_refusal = ''

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
            if sender in self._records:
                record = self._records[sender]
                record.gate_weight, record.layers, record.restored = weight, layers or {}, restored

    def count_damaged_chunk(self, sender: str, detail: str) -> None:
        """Note that a chunk cannot be decoded, and why."""
        with self._lock:
            self._records.get(sender, self._dropped).chunk_refused(Refusal.PAYLOAD, detail)

    def count_refused(self, entry: Received[Message], refusal: Refusal, detail: str) -> None:
        """Note that a message was refused, and why."""
        with self._lock:
            if refusal is not Refusal.ABSENT:
                self._decide(entry, fused=entry.fused, refusal=refusal)
            if entry.sender in self._records:
                record = self._records[entry.sender]
                record.last_refusal = detail
                record.gate_weight = 0.0

    def totals(self) -> PeerRecord:
        """Totals over all senders since the start, also those whose record was dropped."""
        total = PeerRecord()
        with self._lock:
            for record in (self._dropped, *self.snapshot(forgotten=True).values()):
                total.include(record)
        return total

    def snapshot(self, *, forgotten: bool = False) -> dict[str, PeerRecord]:
        """Copy the records of all senders still reported; messages in the buffer count as used so far.

        Args:
            forgotten: include senders that have long been silent.
        """
        with self._lock:
            records = {}
            for sender in sorted(self._records if forgotten else self._senders):
                record = copy.deepcopy(self._records[sender])
                for entry in self._senders.get(sender, ()):
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
