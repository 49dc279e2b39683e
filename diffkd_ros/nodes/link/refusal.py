# SPDX-License-Identifier: Apache-2.0
"""Reasons for which messages of the V2X link are refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Refusal(Enum):
    """Why a neighbour's feature is not fused; the value is the text in FusionStatus and diagnostics."""

    NOT_ALLOWED = 'not an allowed neighbour'
    ABSENT = 'nothing new arrived'
    NO_BASE = 'its boxes did not arrive, an older sweep preferred'
    STALE = 'older than max_age'
    FUTURE = 'from the future: the clocks disagree'
    CLOCK = 'stamped in another epoch: the clocks disagree'
    MODEL = 'of another model'
    GRID = 'of another grid'
    ENCODING = 'of an unknown encoding'
    MAP_FRAME = 'pose given in another map frame'
    POSE = 'pose is no finite rigid transform'
    PAYLOAD = 'payload cannot be decoded'
    CONTRADICTION = 'contradicts other chunks of its sweep'
    PLACE = 'stands in the place of the ego'
    FAR = 'too far away for the maps to overlap'
    UNCERTAIN = 'pose too uncertain'
    MOTION = 'moves faster than a vehicle'
    FAILURES = 'not decoded, as too many others could not be'
    EMPTY = 'nearly empty, while there are more neighbours than the model fuses'
    SIZE = 'larger than any message'
    NAME = 'invalid name'
    PUBLISHER = 'name in use by another participant'
    SENDERS = 'too many neighbours'
    RATE = 'too many sweeps per second'
    FLOOD = 'not read: too many messages'
    UNSIGNED = 'not signed by a known agent'
    SIGNATURE = 'wrongly signed'
    REPLAYED = 'signed, but received before or too late'
    IMPLAUSIBLE = 'implausible'
    WAITING = 'not used yet'
    BEYOND_LIMIT = 'beyond the number of agents the model fuses'


@dataclass(frozen=True)
class Objection:
    """Why a sweep is refused."""

    refusal: Refusal
    detail: str

    def __str__(self) -> str:
        return f'{self.refusal.value}: {self.detail}'
