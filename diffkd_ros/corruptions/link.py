# SPDX-License-Identifier: Apache-2.0
"""Model of the link from one sender to the ego: loss, delay and degradation of messages.

A `Link` takes a sender's messages in the order of their stamps and gives those that have arrived by a time.
A message is any dataclass. A link may degrade a feature map in the fields `feature` and `density`, and lose
some of the packets in the field `chunks`; other fields arrive unchanged.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.corruptions.payload import Map, SizeOf, cap_bytes, lose_tiles, quantise
from diffkd_ros.corruptions.randomness import generator

Payload = TypeVar('Payload')


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """Properties of a link; the defaults are those of a perfect one.

    Attributes:
        tile_loss: probability of each tile of a map to be lost.
        tile: cells along a tile's side.
        chunk_loss: probability of each chunk of a message to be lost, independently.
        chunk_burst: share of chunks lost in bursts, as `burst_loss`; a burst may go on in the next message.
        message_loss: probability of each message to be lost, independently.
        burst_loss: share of messages lost in bursts (Gilbert-Elliott model: all messages are lost in the bad
            state, none in the good one).
        burst_length: mean number of messages, or chunks, in a burst, at least 1.
        delay: mean seconds from sending to arrival.
        jitter: standard deviation of the delay, seconds; Gaussian, cut at a delay of 0. Messages may overtake
            each other.
        bits: per feature value, or None for no quantisation.
        bandwidth: limit of the sender in Mbit/s, or None for no limit.
        period: seconds between messages, over which the bandwidth counts.
        message_bytes: limit of the sender in bytes of a message, or None for no limit.

    Raises:
        CorruptionError: if a value is out of range, or the bursts cannot reach their share.
    """

    tile_loss: float = 0.0
    tile: int = 8
    chunk_loss: float = 0.0
    chunk_burst: float = 0.0
    message_loss: float = 0.0
    burst_loss: float = 0.0
    burst_length: float = 5.0
    delay: float = 0.0
    jitter: float = 0.0
    bits: int | None = None
    bandwidth: float | None = None
    period: float = 0.1
    message_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ('tile_loss', 'chunk_loss', 'chunk_burst', 'message_loss', 'burst_loss'):
            require_within(0.0, 1.0, **{name: getattr(self, name)})
        require_within(1, tile=self.tile, burst_length=self.burst_length)
        require_within(0.0, delay=self.delay, jitter=self.jitter)
        require_within(1e-3, period=self.period)
        if self.bits is not None:
            require_within(2, 16, bits=self.bits)
        for name, limit in (('bandwidth', self.bandwidth), ('message_bytes', self.message_bytes)):
            if limit is not None:
                require_within(0.0, **{name: limit})
        for name in ('burst_loss', 'chunk_burst'):
            share = getattr(self, name)
            if 0.0 < share < 1.0 and _into_burst(share, self.burst_length) > 1.0:
                raise CorruptionError(
                    f'bursts of {self.burst_length:g} cannot make up {share:.0%} of all: use a larger '
                    f'burst_length or a smaller {name}'
                )

    @property
    def loses_chunks(self) -> bool:
        """Whether chunks of messages are lost."""
        return max(self.chunk_loss, self.chunk_burst) > 0

    @property
    def random(self) -> bool:
        """Whether anything is random, so that results depend on the seed."""
        return self.loses_chunks or max(self.tile_loss, self.message_loss, self.burst_loss, self.jitter) > 0

    @property
    def limits_sender(self) -> bool:
        """Whether the sender reduces its messages before sending."""
        return self.bits is not None or self.budget is not None

    @property
    def budget(self) -> float | None:
        """Maximum bytes of a message, or None for no limit."""
        limits = [] if self.bandwidth is None else [self.bandwidth * 1e6 / 8 * self.period]
        limits += [] if self.message_bytes is None else [self.message_bytes]
        return min(limits, default=None)

    def limit(self, feature: Map, density: Map, size_of: SizeOf | None = None) -> tuple[Map, Map]:
        """Reduce a map at the sender: quantise, then keep the strongest cells within the bandwidth.

        Args:
            feature: (channels, height, width) float32.
            density: (height, width) float32.
            size_of: gives the bytes of a map as sent; the size before compression by default.
        """
        if self.bits is not None:
            feature, density = quantise(feature, density, self.bits)
        if self.budget is not None:
            feature, density = cap_bytes(feature, density, self.budget, self.bits or 8, size_of)
        return feature, density

    def degrade(
        self, feature: Map, density: Map, rng: np.random.Generator, size_of: SizeOf | None = None
    ) -> tuple[Map, Map]:
        """Reduce a map as `limit` does, then drop tiles."""
        feature, density = self.limit(feature, density, size_of)
        if self.tile_loss > 0:
            feature, density = lose_tiles(feature, density, rng, self.tile_loss, self.tile)
        return feature, density


def _into_burst(share: float, length: float) -> float:
    """Probability that a burst starts with the next message (derived here from share and mean length)."""
    return 1.0 if share >= 1.0 else share / (1.0 - share) / length


class _Losses:
    """Independent losses, and losses in bursts (Gilbert-Elliott model), of successive messages or chunks.

    Args:
        share: probability of each to be lost independently.
        burst: share lost in bursts.
        length: mean length of a burst.
        start: draw in [0, 1) that decides whether the first is in a burst.
    """

    def __init__(self, share: float, burst: float, length: float, start: float) -> None:
        self._share, self._burst, self._length = share, burst, length
        self._in_burst = start < burst

    def lost(self, rng: np.random.Generator) -> bool:
        """Whether the next one is lost; takes two draws."""
        turn, chance = rng.random(2)
        lost = self._in_burst or bool(chance < self._share)
        if self._in_burst:
            self._in_burst = self._burst >= 1.0 or turn >= 1.0 / self._length
        else:
            self._in_burst = bool(turn < _into_burst(self._burst, self._length))
        return lost


@dataclass(frozen=True, slots=True)
class Arrival(Generic[Payload]):
    """A received message.

    Attributes:
        stamp: of the message, nanoseconds.
        at: time of arrival, nanoseconds.
        payload: the message's content on arrival.
    """

    stamp: int
    at: int
    payload: Payload


class Link(Generic[Payload]):
    """The link from one sender to one receiver.

    Args:
        conditions: properties of the link.
        seed: of the experiment.
        scenario: its name.
        sender: id of the agent; the links of different senders are independent.
        size_of: gives the bytes of a map as sent, for the bandwidth; the size before compression by default.
        prefer: whether a message, as it arrives, is preferred to newer ones that are not; by default all are.
    """

    def __init__(
        self,
        conditions: LinkConditions,
        seed: int,
        scenario: str,
        sender: int,
        size_of: SizeOf | None = None,
        prefer: Callable[[Payload], bool] = lambda _: True,
    ) -> None:
        self.conditions = conditions
        self._key = (seed, 'link', scenario, sender)
        self._size_of, self._prefer = size_of, prefer
        length = conditions.burst_length
        start, first_chunk = generator(*self._key).random(2)
        self._messages = _Losses(conditions.message_loss, conditions.burst_loss, length, start)
        self._chunks = _Losses(conditions.chunk_loss, conditions.chunk_burst, length, first_chunk)
        self._travelling: list[tuple[int, int, Arrival[Payload]]] = []
        # The newest of all messages, and of those that are preferred.
        self._newest: dict[bool, Arrival[Payload]] = {}
        self._last_stamp: int | None = None
        self._received_until: int | None = None
        self.sent = 0
        self.lost = 0

    def send(self, stamp: int, payload: Payload) -> None:
        """Send a message at its stamp, nanoseconds. Without any of its chunks, it is lost.

        Raises:
            CorruptionError: if the stamp is not later than that of the previous message.
        """
        if self._last_stamp is not None and stamp <= self._last_stamp:
            raise CorruptionError(f'message of stamp {stamp} sent after that of {self._last_stamp}')
        self._last_stamp = stamp
        # A generator for each message: its draws do not depend on the content of other messages.
        rng = generator(*self._key, self.sent)
        self.sent += 1
        lost = self._messages.lost(rng)
        delay = max(0.0, self.conditions.delay + self.conditions.jitter * rng.standard_normal())
        if self.conditions.loses_chunks:
            chunks = [chunk for chunk in cast(Any, payload).chunks if not self._chunks.lost(rng)]
            payload = replace(cast(Any, payload), chunks=chunks)
            lost = lost or not chunks
        if lost:
            self.lost += 1
            return
        at = stamp + round(delay * 1e9)
        if self.conditions.tile_loss > 0 or self.conditions.limits_sender:
            bev = cast(Any, payload)
            feature, density = self.conditions.degrade(bev.feature, bev.density, rng, self._size_of)
            payload = replace(bev, feature=feature, density=density)
        heapq.heappush(self._travelling, (at, self.sent, Arrival(stamp, at, payload)))

    def receive(self, until: int) -> list[Arrival[Payload]]:
        """Messages that arrived since the last call, up to and including `until` nanoseconds, by arrival.

        Raises:
            CorruptionError: if `until` is earlier than in the last call.
        """
        if self._received_until is not None and until < self._received_until:
            raise CorruptionError(
                f'asked for arrivals until {until} after those until {self._received_until}'
            )
        self._received_until = until
        arrived = []
        while self._travelling and self._travelling[0][0] <= until:
            arrival = heapq.heappop(self._travelling)[2]
            arrived.append(arrival)
            for kind in {False, self._prefer(arrival.payload)}:
                if kind not in self._newest or arrival.stamp > self._newest[kind].stamp:
                    self._newest[kind] = arrival
        return arrived

    def newest(self, until: int, preferred: bool = False) -> Arrival[Payload] | None:
        """The message of the latest stamp among all, or the preferred, that arrived by `until`, or None.

        Raises:
            CorruptionError: if `until` is earlier than in the last call.
        """
        self.receive(until)
        return self._newest.get(preferred)
