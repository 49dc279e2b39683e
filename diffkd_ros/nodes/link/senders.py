# SPDX-License-Identifier: Apache-2.0
"""Which senders are known: one record for each name, and the participant that it belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from diffkd_ros.nodes.link.peer_record import PeerRecord
from diffkd_ros.nodes.link.refusal import Refusal

# Limits the memory and time that invented names can take.
_MOST = 64
# Seconds after which a name may be taken over: a vehicle that restarts is another participant.
_SILENT = 1.0
# Seconds for which a sender that was fused keeps its record.
_KEPT = 10.0


class Senders:
    """The records of at most 64 senders, in the order of their latest messages.

    A name belongs to the participant that uses it until that one has been silent for a second. Messages that
    another one sends under it are refused, so that they neither replace the sender's nor change its counts.

    With 64 names, a new one replaces one that has not been fused in the last 10 s, of the participant with
    most such names the one that has been silent for longest. If all have been fused, it replaces one of the
    participant that uses more than half of the names. So invented names replace each other, and none replaces
    a neighbour in use, however near it claims to be.

    Args:
        before_dropping: called with the name of a sender whose record is about to be dropped.
        clock: seconds, monotonic.

    Attributes:
        dropped: totals of the senders whose records were dropped.
        refused: totals of the messages that were refused before they were any sender's.
    """

    def __init__(self, before_dropping: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._before_dropping, self._clock = before_dropping, clock
        self._records: dict[str, PeerRecord] = {}
        self.dropped, self.refused = PeerRecord(), PeerRecord()

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def records(self) -> Iterable[PeerRecord]:
        """The records of all senders known."""
        return self._records.values()

    def record(self, name: str) -> PeerRecord:
        """The record of a sender, or that of the dropped ones if it has none."""
        return self._records.get(name, self.dropped)

    def admit(self, name: str, publisher: bytes) -> PeerRecord | Refusal:
        """The record of the sender of a message that just arrived.

        Args:
            name: of the sender.
            publisher: participant that sent it, empty if unknown.
        """
        now = self._clock()
        record = self._records.get(name)
        if record is None:
            if len(self._records) >= _MOST and not self._drop_one(now):
                return Refusal.SENDERS
            record = PeerRecord(publisher=publisher)
        elif record.publisher != publisher:
            if now - record.heard < _SILENT:
                record.contested += 1
                record.contested_at = now
                return Refusal.PUBLISHER
            record.publisher = publisher
        record.heard = now
        self._records.pop(name, None)
        self._records[name] = record
        return record

    def fused(self, name: str) -> None:
        """Note that a sender's message is fused."""
        if name in self._records:
            record = self._records[name]
            record.used, record.last_refusal = self._clock(), ''

    def _drop_one(self, now: float) -> bool:
        """Drop the record of a sender that may be replaced; returns whether there is one."""
        names = [name for name, record in self._records.items() if now - record.used > _KEPT]
        names = names or self._of_majority()
        if not names:
            return False
        count = Counter(self._records[name].publisher for name in names)
        name = max(names, key=lambda each: count[self._records[each].publisher])
        self._before_dropping(name)
        self.dropped.include(self._records.pop(name))
        return True

    def _of_majority(self) -> list[str]:
        """The names of the participant that uses more than half of them, in the order of the messages."""
        ((publisher, count),) = Counter(each.publisher for each in self.records()).most_common(1)
        if not publisher or count <= _MOST // 2:
            return []
        return [name for name, record in self._records.items() if record.publisher == publisher]
