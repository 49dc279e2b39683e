# SPDX-License-Identifier: Apache-2.0
"""Model of the link from one sender to the ego: loss, delay and degradation of messages.

A `Link` takes a sender's messages in the order of their stamps and gives those that have arrived by a time. A
message is any dataclass with the fields `feature` and `density`; its other fields arrive unchanged.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np

from diffkd_ros.corruptions.errors import CorruptionError, require_within
from diffkd_ros.corruptions.payload import Map, SizeOf, cap_bytes, lose_tiles, quantise
from diffkd_ros.corruptions.randomness import generator


class FeatureMap(Protocol):
    """A message: a dataclass with these fields, such as the runtime's `BevFeature`."""

    @property
    def feature(self) -> Map:
        """(channels, height, width)."""

    @property
    def density(self) -> Map:
        """(height, width)."""


Payload = TypeVar('Payload', bound=FeatureMap)


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """Properties of a link; the defaults are those of a perfect one.

    Attributes:
        tile_loss: probability of each tile of a map to be lost.
        tile: cells along a tile's side.
        message_loss: probability of each message to be lost, independently.
        burst_loss: share of messages lost in bursts (Gilbert-Elliott model: all messages are lost in the bad
            state, none in the good one).
        burst_length: mean number of messages in a burst, at least 1.
        delay: mean seconds from sending to arrival.
        jitter: standard deviation of the delay, seconds; Gaussian, cut at a delay of 0. Messages may overtake
            each other.
        bits: per feature value, or None for no quantisation.
        bandwidth: limit of the sender in Mbit/s, or None for no limit.
        period: seconds between messages, over which the bandwidth counts.

    Raises:
        CorruptionError: if a value is out of range, or the bursts cannot reach `burst_loss`.
    """

    tile_loss: float = 0.0
    tile: int = 8
    message_loss: float = 0.0
    burst_loss: float = 0.0
    burst_length: float = 5.0
    delay: float = 0.0
    jitter: float = 0.0
    bits: int | None = None
    bandwidth: float | None = None
    period: float = 0.1

    def __post_init__(self) -> None:
        for name in ('tile_loss', 'message_loss', 'burst_loss'):
            require_within(0.0, 1.0, **{name: getattr(self, name)})
        require_within(1, tile=self.tile, burst_length=self.burst_length)
        require_within(0.0, delay=self.delay, jitter=self.jitter)
        require_within(1e-3, period=self.period)
        if self.bits is not None:
            require_within(2, 16, bits=self.bits)
        if self.bandwidth is not None:
            require_within(0.0, bandwidth=self.bandwidth)
        if 0.0 < self.burst_loss < 1.0 and self.into_burst > 1.0:
            raise CorruptionError(
                f'bursts of {self.burst_length:g} messages cannot make up {self.burst_loss:.0%} of all: '
                'use a larger burst_length or a smaller burst_loss'
            )

    @property
    def into_burst(self) -> float:
        """Probability that a burst starts with the next message (derived here from loss and length)."""
        if self.burst_loss >= 1.0:
            return 1.0
        return self.burst_loss / (1.0 - self.burst_loss) / self.burst_length

    @property
    def random(self) -> bool:
        """Whether anything is random, so that results depend on the seed."""
        return max(self.tile_loss, self.message_loss, self.burst_loss, self.jitter) > 0

    @property
    def limits_sender(self) -> bool:
        """Whether the sender reduces its maps before sending."""
        return self.bits is not None or self.bandwidth is not None

    @property
    def budget(self) -> float | None:
        """Maximum bytes of a message, or None for no limit."""
        return None if self.bandwidth is None else self.bandwidth * 1e6 / 8 * self.period

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
    """

    def __init__(
        self,
        conditions: LinkConditions,
        seed: int,
        scenario: str,
        sender: int,
        size_of: SizeOf | None = None,
    ) -> None:
        self.conditions = conditions
        self._key = (seed, 'link', scenario, sender)
        self._size_of = size_of
        self._in_burst = generator(*self._key).random() < conditions.burst_loss
        self._travelling: list[tuple[int, int, Arrival[Payload]]] = []
        self._newest: Arrival[Payload] | None = None
        self._last_stamp: int | None = None
        self._received_until: int | None = None
        self.sent = 0
        self.lost = 0

    def send(self, stamp: int, payload: Payload) -> None:
        """Send a message at its stamp, nanoseconds.

        Raises:
            CorruptionError: if the stamp is not later than that of the previous message.
        """
        if self._last_stamp is not None and stamp <= self._last_stamp:
            raise CorruptionError(f'message of stamp {stamp} sent after that of {self._last_stamp}')
        self._last_stamp = stamp
        # A generator for each message: its draws do not depend on the content of other messages.
        rng = generator(*self._key, self.sent)
        self.sent += 1
        lost = self._fails(rng)
        delay = max(0.0, self.conditions.delay + self.conditions.jitter * rng.standard_normal())
        if lost:
            self.lost += 1
            return
        at = stamp + round(delay * 1e9)
        if self.conditions.tile_loss > 0 or self.conditions.limits_sender:
            feature, density = self.conditions.degrade(payload.feature, payload.density, rng, self._size_of)
            # A dataclass instance, which a protocol cannot express.
            payload = cast(Payload, replace(cast(Any, payload), feature=feature, density=density))
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
            if self._newest is None or arrival.stamp > self._newest.stamp:
                self._newest = arrival
        return arrived

    def newest(self, until: int) -> Arrival[Payload] | None:
        """The message of the latest stamp among all that arrived by `until`, or None.

        Raises:
            CorruptionError: if `until` is earlier than in the last call.
        """
        self.receive(until)
        return self._newest

    def _fails(self, rng: np.random.Generator) -> bool:
        """Whether the next message is lost; updates the state of the burst."""
        turn, chance = rng.random(2)
        lost = self._in_burst or bool(chance < self.conditions.message_loss)
        if self._in_burst:
            self._in_burst = self.conditions.burst_loss >= 1.0 or turn >= 1.0 / self.conditions.burst_length
        else:
            self._in_burst = turn < self.conditions.into_burst
        return lost
