# SPDX-License-Identifier: Apache-2.0
"""What each vehicle costs the V2X link: bit rate, messages, losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from diffkd_ros.errors import DiffkdError

_SEQUENCE_RANGE = 1 << 32


class LinkCostError(DiffkdError):
    """A message whose size, stamp or sequence number cannot be."""


class AgentLinkCost(TypedDict):
    """One sender's traffic; `mbit_per_s` is NaN where it is not defined, see `LinkCost.mbit_per_s`."""

    messages: int
    lost: int
    bytes: int
    mbit_per_s: float


@dataclass(slots=True)
class _Sender:
    stamps: list[int] = field(default_factory=list)
    total_bytes: int = 0
    lost: int = 0
    last_sequence: int | None = None
    newest_stamp: int = 0


class LinkCost:
    """Counts the messages of every sender. A sender is known by its agent id, a number or a name."""

    def __init__(self) -> None:
        self._senders: dict[int | str, _Sender] = {}

    def add(self, agent_id: int | str, size: int, stamp_ns: int, sequence: int | None = None) -> None:
        """Record one received message.

        Args:
            agent_id: the sender.
            size: payload in bytes.
            stamp_ns: the message's own stamp, nanoseconds.
            sequence: the sender's uint32 counter, +1 per message, wrapping; None if it has none, and then
                no losses are seen.

        Raises:
            LinkCostError: if the size is negative or the sequence is not a uint32.
        """
        if size < 0:
            raise LinkCostError(f'agent {agent_id!r}: a message of {size} bytes')
        if sequence is not None and not 0 <= sequence < _SEQUENCE_RANGE:
            raise LinkCostError(f'agent {agent_id!r}: sequence {sequence} is not a uint32')
        sender = self._senders.setdefault(agent_id, _Sender())
        if sequence is not None:
            self._follow(sender, stamp_ns, sequence)
        sender.newest_stamp = max(stamp_ns, sender.newest_stamp) if sender.stamps else stamp_ns
        sender.stamps.append(stamp_ns)
        sender.total_bytes += size

    @staticmethod
    def _follow(sender: _Sender, stamp_ns: int, sequence: int) -> None:
        """Count losses: a gap adds to them, a late arrival takes one back, a restart begins anew."""
        if sender.last_sequence is None:
            sender.last_sequence = sequence
            return
        ahead = (sequence - sender.last_sequence) % _SEQUENCE_RANGE
        if ahead == 0:
            return
        if ahead < _SEQUENCE_RANGE // 2:
            sender.lost += ahead - 1
            sender.last_sequence = sequence
        elif stamp_ns > sender.newest_stamp:
            # A newer sweep with a smaller number: the sender began to count again.
            sender.last_sequence = sequence
        else:
            sender.lost = max(0, sender.lost - 1)

    @property
    def agents(self) -> list[int | str]:
        """The senders, in the order first heard."""
        return list(self._senders)

    def mbit_per_s(self) -> dict[int | str, float]:
        """Megabits (1e6 bits) per second by sender.

        Defined as all bits received over the time they stand for: the span from the oldest to the newest
        stamp plus one period, the period being the median step between successive stamps. So n messages of s
        bytes at a steady rate f give 8 s f, however small n is, and lost messages lower the figure. A sender
        of fewer than two distinct stamps has no period: NaN.
        """
        rates = {}
        for agent_id, sender in self._senders.items():
            steps = np.diff(np.unique(np.asarray(sender.stamps, np.int64)))
            if len(steps) == 0:
                rates[agent_id] = float('nan')
                continue
            seconds = (float(steps.sum()) + float(np.median(steps))) * 1e-9
            rates[agent_id] = 8e-6 * sender.total_bytes / seconds
        return rates

    def summary(self) -> dict[int | str, AgentLinkCost]:
        """Messages, losses, bytes and bit rate by sender."""
        rates = self.mbit_per_s()
        return {
            agent_id: {
                'messages': len(sender.stamps),
                'lost': sender.lost,
                'bytes': sender.total_bytes,
                'mbit_per_s': rates[agent_id],
            }
            for agent_id, sender in self._senders.items()
        }
