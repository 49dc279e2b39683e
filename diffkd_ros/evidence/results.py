# SPDX-License-Identifier: Apache-2.0
"""The results of an experiment as one typed object that is written to `evidence.json` and read from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from diffkd_ros.evaluation.summary import LevelMeans, Number, Summary
from diffkd_ros.evidence.compare import Differences
from diffkd_ros.evidence.plan import Experiment
from diffkd_ros.metrics.result_file import write_json

EVIDENCE = 'evidence.json'


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Measured(_Part):
    """One measurement.

    Attributes:
        summary: its figures.
        corrupted: AP under corruption, each corruption with the same weight: of a row those of the paper.
    """

    summary: Summary
    corrupted: LevelMeans = LevelMeans()


class MeasuredRow(Measured):
    """One row of the table.

    Attributes:
        label: name in the table.
        less_subject: difference from the subject with the ends of its interval, by figure; see `Differences`.
    """

    label: str
    less_subject: dict[str, tuple[Number, Number, Number]] = {}


class MeasuredSteps(Measured):
    """The sampler with one setting.

    Attributes:
        start: its start, empty without steps.
        steps: number of steps.
    """

    start: str
    steps: int


class Evidence(_Part):
    """All results of an experiment.

    Attributes:
        data: origin of the frames.
        frames, scenarios: how many were scored.
        seeds, severity, corruptions: as in the plan.
        reference, subject: rows that others are compared with.
        rows: by name.
        reliability: of the row whose ego was corrupted.
        steps: of the sampler's settings.
    """

    data: str
    frames: int = 0
    scenarios: int = 0
    seeds: str = ''
    severity: str = ''
    corruptions: str = ''
    reference: str
    subject: str
    rows: dict[str, MeasuredRow]
    reliability: Summary | None = None
    steps: list[MeasuredSteps] = []

    def write(self, folder: Path) -> None:
        """Write `evidence.json`."""
        write_json(folder / EVIDENCE, self.model_dump(exclude_unset=True))

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Read `evidence.json`."""
        return cls.model_validate(json.loads((folder / EVIDENCE).read_text()))


def gather(
    experiment: Experiment,
    rows: Mapping[str, Summary],
    differences: Mapping[str, Differences],
    reliability: Summary | None,
    steps: Mapping[tuple[str, int], Summary],
) -> Evidence:
    """Collect the results of an experiment: `differences` by row, `steps` by start and number of steps."""
    plan = experiment.plan
    conditions = plan.conditions
    any_row = next(iter(rows.values()))
    simulated = conditions.frames().kind == 'sim'
    return Evidence(
        data='simulated (diffkd_ros.sources.simulator)' if simulated else conditions.source,
        frames=any_row.frames,
        scenarios=any_row.scenarios,
        seeds=conditions.seeds,
        severity=conditions.severity,
        corruptions=conditions.corruptions,
        reference=plan.reference,
        subject=plan.subject,
        rows={
            name: MeasuredRow(
                label=plan.rows[name].label,
                summary=summary,
                corrupted=_corrupted(summary, summary.mrce_of),
                less_subject={key: astuple(value) for key, value in differences.get(name, {}).items()},
            )
            for name, summary in rows.items()
        },
        reliability=reliability,
        steps=[
            MeasuredSteps(
                start=start if count else '',
                steps=count,
                summary=summary,
                corrupted=_corrupted(summary, summary.corruptions),
            )
            for (start, count), summary in steps.items()
        ],
    )


def _corrupted(summary: Summary, names: Iterable[str]) -> LevelMeans:
    parts = [summary.corruptions[name] for name in names]
    if not parts:
        return LevelMeans()
    return LevelMeans(
        **{key: sum(getattr(part, key) for part in parts) / len(parts) for key in ('ap50', 'ap70')}
    )
