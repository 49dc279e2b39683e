# SPDX-License-Identifier: Apache-2.0
"""A stored message, and the one that is picked for a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from diffkd_ros.nodes.link.refusal import Refusal

Message = TypeVar('Message')


@dataclass(eq=False)
class Received(Generic[Message]):
    """A stored message.

    Attributes:
        sender: agent id.
        stamp: of the sweep it was made from, nanoseconds.
        sequence: the sender's counter.
        message: the message.
        arrived: when it did, seconds of a monotonic clock.
        size: bytes, serialised; of a sweep in chunks, of those that arrived.
        fresh: no sweep has considered it yet.
        fused: it took part in a fusion.
        refusal: why it was last refused.
        left: it has left the buffer and is counted.
    """

    sender: str
    stamp: int
    sequence: int
    message: Message
    arrived: float
    size: int = 0
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
