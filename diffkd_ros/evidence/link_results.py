# SPDX-License-Identifier: Apache-2.0
"""The results of a study of the layered message, written to `link.json` and read from it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from diffkd_ros.evaluation.summary import Number
from diffkd_ros.metrics.result_file import write_json

RESULTS = 'link.json'
KEYS = ('clean_ap50', 'clean_ap70', 'corrupted_ap50', 'corrupted_ap70')
"""AP of a `RatePoint` and of `ArmFigures`."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class RatePoint(_Part):
    """AP where a sender may use some bytes, the mean over training seeds.

    `kb` is the mean size of a sent sweep in kilobytes, clean, with the other fields of its messages;
    corrupted AP is the mean over the paper's corruptions of all agents' sensors, unknown without any.
    """

    kb: Number
    clean_ap50: Number
    clean_ap70: Number
    corrupted_ap50: Number
    corrupted_ap70: Number


class _Level(_Part):
    """AP at a level of a link corruption: the mean over training seeds, with the interval over scenarios."""

    ap50: Number
    ap70: Number
    ap70_low: Number
    ap70_high: Number


class LossPoint(_Level):
    """AP at a share lost."""

    share: Number


class DelayPoint(_Level):
    """AP at a mean delay."""

    seconds: Number


class Difference(_Part):
    """A difference of the means over training seeds, with its interval over scenarios.

    `by_seed` has the difference of each pair of runs with the same training seed.
    """

    mean: Number
    low: Number
    high: Number
    by_seed: list[Number] = []


class RateDifference(_Part):
    """AP of a way to cooperate less that of another where both may use these kilobytes, by `KEYS`."""

    kb: Number
    less: dict[str, Difference]


class LossDifference(_Part):
    """AP of an arm less that of another where a share of the chunks is lost; keys are `ap50` and `ap70`."""

    share: Number
    less: dict[str, Difference]


class ArmFigures(_Part):
    """An arm, or a receiver without a part of its context, with the plan's bytes: AP of each training seed.

    `less_complete` is the difference of a receiver without a part from the complete one, by `KEYS`.
    """

    clean_ap50: list[Number]
    clean_ap70: list[Number]
    corrupted_ap50: list[Number]
    corrupted_ap70: list[Number]
    less_complete: dict[str, Difference] = {}


class LinkResults(_Part):
    """All results of a study.

    Attributes:
        data: origin of the frames.
        frames, scenarios: how many were scored.
        corruptions, severity: of the sensors.
        budget: most bytes of a sweep, for arms and parts.
        labels: name of each curve and arm in tables.
        runs: number of training seeds of each curve and arm.
        rate: by way to cooperate.
        rate_less: by way to cooperate and the one it is compared with.
        loss, burst, messages: by arm, where chunks are lost independently or in bursts, or messages.
        delay: by arm.
        loss_less: by arm and the one it is compared with, where chunks are lost independently.
        arms, parts: by arm, and by part left out.
        seeds: AP@0.7 of each training seed by arm and share of chunks lost independently.
    """

    data: str = ''
    frames: int = 0
    scenarios: int = 0
    corruptions: str = ''
    severity: str = ''
    budget: int = 0
    labels: dict[str, str] = {}
    runs: dict[str, int] = {}
    rate: dict[str, list[RatePoint]] = {}
    rate_less: dict[str, dict[str, list[RateDifference]]] = {}
    loss: dict[str, list[LossPoint]] = {}
    burst: dict[str, list[LossPoint]] = {}
    messages: dict[str, list[LossPoint]] = {}
    delay: dict[str, list[DelayPoint]] = {}
    loss_less: dict[str, dict[str, list[LossDifference]]] = {}
    arms: dict[str, ArmFigures] = {}
    parts: dict[str, ArmFigures] = {}
    seeds: dict[str, dict[str, list[Number]]] = {}

    def write(self, folder: Path) -> None:
        """Write `link.json`."""
        write_json(folder / RESULTS, self.model_dump())

    @classmethod
    def read(cls, folder: Path) -> LinkResults:
        """Read `link.json`."""
        return cls.model_validate(json.loads((folder / RESULTS).read_text()))
