# SPDX-License-Identifier: Apache-2.0
"""What each agent costs the V2X link: bit rate, messages, losses."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from diffkd_ros.metrics.sequence import SequenceStatistics

# Latest sweeps whose messages may arrive out of order.
_RECENT = 20


class AgentLinkCost(TypedDict):
    """One sender's traffic.

    `mbit_per_s` counts megabits (1e6 bits): all bits received, divided by the span from the oldest to the
    newest stamp plus one period; the period is the median step between successive stamps. So n messages of s
    bytes at a steady rate f give 8 s f, however small n is, and lost messages lower the figure. NaN for a
    sender of fewer than two distinct stamps, which has no period.
    """

    messages: int
    lost: int
    bytes: int
    mbit_per_s: float


@dataclass(slots=True)
class _Sender:
    sequence: SequenceStatistics = field(default_factory=SequenceStatistics)
    stamps: list[int] = field(default_factory=list)
    total_bytes: int = 0
    recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def mbit_per_s(self) -> float:
        steps = np.diff(np.unique(np.asarray(self.stamps, np.int64)))
        if len(steps) == 0:
            return float('nan')
        seconds = (float(steps.sum()) + float(np.median(steps))) * 1e-9
        return 8e-6 * self.total_bytes / seconds


class LinkCost:
    """Counts the messages of every sender; repeated messages cost bytes too."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}

    def add(self, agent: str, size: int, stamp: int, sequence: int, *, part: bool = False) -> None:
        """Record one received message.

        Args:
            agent: name of the sender.
            size: of the payload, bytes.
            stamp: of the message, nanoseconds.
            sequence: the sender's counter, uint32: +1 per message, wraps.
            part: whether it is one of several of the same sequence number, which count as one message.
        """
        sender = self._senders.setdefault(agent, _Sender())
        if part:
            if (sequence, stamp) in sender.recent:
                sender.total_bytes += size
                return
            sender.recent.append((sequence, stamp))
        sender.sequence.follow(sequence, stamp)
        sender.stamps.append(stamp)
        sender.total_bytes += size

    def summary(self) -> dict[str, AgentLinkCost]:
        """Messages, losses, bytes and bit rate by sender, in the order first received."""
        return {
            agent: {
                'messages': len(sender.stamps),
                'lost': sender.sequence.lost,
                'bytes': sender.total_bytes,
                'mbit_per_s': sender.mbit_per_s(),
            }
            for agent, sender in self._senders.items()
        }
