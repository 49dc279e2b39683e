# SPDX-License-Identifier: Apache-2.0
"""The results of an experiment as one typed object that is written to `evidence.json` and read from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from diffkd_ros.evaluation.summary import LevelMeans, Number, Summary
from diffkd_ros.evidence.compare import differences, figures
from diffkd_ros.evidence.plan import Plan
from diffkd_ros.evidence.rows import Measurements
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
    """One row of the table; what has one value for each training seed is in the order of the seeds.

    Attributes:
        label: name in the table.
        samples: training frames of its network, by stage.
        ego_only, neighbours_only: as `corrupted`, where only these agents are corrupted.
        by_seed: each run's figures by the keys of `compare.figures`; empty for a single training seed.
        less_subject: difference from the subject with the ends of its interval, by the same keys; the mean
            over training seeds. Empty if the subject was not measured.
        less_subject_by_seed: the differences of runs with the same seed; empty for a single one.
    """

    label: str
    samples: dict[str, int] = {}
    ego_only: LevelMeans = LevelMeans()
    neighbours_only: LevelMeans = LevelMeans()
    by_seed: dict[str, list[Number]] = {}
    less_subject: dict[str, tuple[Number, Number, Number]] = {}
    less_subject_by_seed: dict[str, list[Number]] = {}

    @property
    def runs(self) -> int:
        """Number of training seeds."""
        return max(map(len, self.by_seed.values()), default=1)


class MeasuredElsewhere(_Part):
    """AP of a row on other frames than those of the table."""

    clean: LevelMeans
    corrupted: LevelMeans = LevelMeans()


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
        worlds: by world and row.
        intensity, sensors: clean AP of one row by intensity law and by sensor.
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
    rows: dict[str, MeasuredRow] = {}
    worlds: dict[str, dict[str, MeasuredElsewhere]] = {}
    intensity: dict[str, LevelMeans] = {}
    sensors: dict[str, LevelMeans] = {}
    reliability: Summary | None = None
    steps: list[MeasuredSteps] = []

    def write(self, folder: Path) -> None:
        """Write `evidence.json`."""
        write_json(folder / EVIDENCE, self.model_dump(exclude_unset=True))

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Read `evidence.json`."""
        return cls.model_validate(json.loads((folder / EVIDENCE).read_text()))


def gather(plan: Plan, measured: Measurements) -> Evidence:
    """Collect the results of an experiment."""
    conditions = plan.conditions
    any_row = next(iter(measured.rows.values()))[0].summary
    simulated = conditions.frames().kind == 'sim'
    evaluations = {name: [run.evaluation for run in runs] for name, runs in measured.rows.items()}
    subject = evaluations.get(plan.subject)
    rows = {}
    for name, runs in evaluations.items():
        summary = measured.rows[name][0].summary
        less = {} if subject is None or name == plan.subject else differences(runs, subject)
        found = [figures(run) for run in runs]
        rows[name] = MeasuredRow(
            label=plan.rows[name].label,
            samples=measured.samples[name],
            summary=summary,
            corrupted=_corrupted(summary, summary.mrce_of),
            ego_only=_hit(found[0], 'ego_only'),
            neighbours_only=_hit(found[0], 'neighbours_only'),
            by_seed={key: [each[key] for each in found] for key in found[0]} if len(found) > 1 else {},
            less_subject={key: astuple(value.mean) for key, value in less.items()},
            less_subject_by_seed={
                key: list(value.by_seed) for key, value in less.items() if len(value.by_seed) > 1
            },
        )
    return Evidence(
        data='simulated (diffkd_ros.sources.simulator)' if simulated else conditions.source,
        frames=any_row.frames,
        scenarios=any_row.scenarios,
        seeds=conditions.seeds,
        severity=conditions.severity,
        corruptions=conditions.corruptions,
        reference=plan.reference,
        subject=plan.subject,
        rows=rows,
        worlds={
            world: {
                name: MeasuredElsewhere(clean=_clean(summary), corrupted=_corrupted(summary, summary.mrce_of))
                for name, summary in summaries.items()
            }
            for world, summaries in measured.worlds.items()
        },
        intensity={name: _clean(summary) for name, summary in measured.intensity.items()},
        sensors={name: _clean(summary) for name, summary in measured.sensors.items()},
        reliability=measured.reliability,
        steps=[
            MeasuredSteps(
                start=start if count else '',
                steps=count,
                summary=summary,
                corrupted=_corrupted(summary, summary.corruptions),
            )
            for (start, count), summary in measured.steps.items()
        ],
    )


def _hit(found: Mapping[str, float], part: str) -> LevelMeans:
    values = {key: found[f'{part}_{key}'] for key in ('ap50', 'ap70') if f'{part}_{key}' in found}
    return LevelMeans(**values)


def _clean(summary: Summary) -> LevelMeans:
    return LevelMeans(ap50=summary.clean.ap50, ap70=summary.clean.ap70)


def _corrupted(summary: Summary, names: Iterable[str]) -> LevelMeans:
    parts = [summary.corruptions[name] for name in names]
    if not parts:
        return LevelMeans()
    return LevelMeans(
        **{key: sum(getattr(part, key) for part in parts) / len(parts) for key in ('ap50', 'ap70')}
    )
