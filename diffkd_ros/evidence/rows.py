# SPDX-License-Identifier: Apache-2.0
"""Measures every row of an ablation study under the same conditions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from diffkd_ros.evaluation.cooperations import INTERMEDIATE
from diffkd_ros.evaluation.evaluate import Outcome
from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.evidence.measure import Measure, Measurement, Network, complete, network_of, networks_of
from diffkd_ros.evidence.plan import Conditions, Plan, Row
from diffkd_ros.evidence.trainings import Experiment
from diffkd_ros.runtime.card import ModelCard

_Key = TypeVar('_Key')


@dataclass(frozen=True)
class Measurements:
    """What was measured of a plan, now or before.

    Attributes:
        rows: by row, one for each training seed.
        samples: by row, the training frames of each stage of its network, as stated in its card.
        worlds: by world and row, of the first training seed.
        intensity, sensors: by law and by sensor.
        reliability: of the row whose ego is corrupted.
        steps: by start and number of steps of the sampler.
    """

    rows: dict[str, list[Outcome]]
    samples: dict[str, dict[str, int]]
    worlds: dict[str, dict[str, Summary]]
    intensity: dict[str, Summary]
    sensors: dict[str, Summary]
    reliability: Summary | None
    steps: dict[tuple[str, int], Summary]


def measure_rows(experiment: Experiment[Plan], out: Path, measure: Measure) -> Measurements:
    """Measure everything that the plan asks for.

    Args:
        experiment: whose trainings are finished.
        out: folder of the experiment.
        measure: runs a measurement.

    Raises:
        EvaluationError: if a measurement fails.
    """
    return _Measurer(experiment, out, measure).measure()


class _Measurer:
    def __init__(self, experiment: Experiment[Plan], out: Path, measure: Measure) -> None:
        self._experiment, self._plan, self._out, self._measure = experiment, experiment.plan, out, measure

    def measure(self) -> Measurements:
        plan = self._plan
        rows = {name: found for name in plan.rows if (found := self._row(name))}
        worlds = {
            world: _known({row: self._of_row(row, conditions, f'worlds/{world}/{row}') for row in plan.rows})
            for world, conditions in plan.worlds.items()
        }
        return Measurements(
            rows,
            {name: self._samples(plan.rows[name]) for name in rows},
            {world: found for world, found in worlds.items() if found},
            self._forced('intensity'),
            self._forced('sensors'),
            self._reliability(),
            self._steps(),
        )

    def _row(self, name: str) -> list[Outcome]:
        row, asked = self._plan.rows[name], name in self._experiment.asked
        return complete(
            self._run(
                f'rows/{name}_seed{number}' if number > 1 else f'rows/{name}',
                network,
                self._plan.conditions,
                row.cooperation,
                asked,
            )
            for number, network in enumerate(networks_of(row, self._plan, self._out), 1)
        )

    def _samples(self, row: Row) -> dict[str, int]:
        samples: Counter[str] = Counter()
        first = networks_of(row, self._plan, self._out)[0]
        for stage in ModelCard.load(first.folder).training.get('stages', []):
            samples[stage['name']] += stage.get('samples', 0)
        return dict(samples)

    def _forced(self, section: Literal['intensity', 'sensors']) -> dict[str, Summary]:
        parts = self._plan.forced(section)
        return _known(
            {name: self._of_row(row, part, f'{section}/{name}') for name, (row, part) in parts.items()}
        )

    def _reliability(self) -> Summary | None:
        wanted = self._plan.reliability
        return None if wanted is None else self._of_row(wanted.row, wanted, 'reliability')

    def _steps(self) -> dict[tuple[str, int], Summary]:
        """Measure the sampler's settings; without steps there is one start."""
        wanted = self._plan.steps
        if wanted is None:
            return {}
        config = self._experiment.recipes[wanted.training].model
        asked = any(self._plan.lines[name] == wanted.training for name in self._experiment.asked)
        summaries: dict[tuple[str, int], Summary | None] = {}
        for steps in wanted.steps:
            for start in wanted.starts if steps else wanted.starts[:1]:
                changed = replace(config, start_from=start, steps=steps)
                network = network_of(wanted.training, self._out, changed)
                outcome = self._run(f'steps/{start}_{steps}', network, wanted, INTERMEDIATE, asked)
                summaries[start, steps] = _summary(outcome)
        return _known(summaries)

    def _of_row(self, name: str, conditions: Conditions, folder: str) -> Summary | None:
        row, asked = self._plan.rows[name], name in self._experiment.asked
        network = networks_of(row, self._plan, self._out)[0]
        return _summary(self._run(folder, network, conditions, row.cooperation, asked))

    def _run(
        self, folder: str, network: Network, conditions: Conditions, cooperation: str, asked: bool
    ) -> Outcome | None:
        source, levels = conditions.frames(), conditions.levels()
        return self._measure(Measurement(self._out / folder, network, source, levels, cooperation, asked))


def _summary(outcome: Outcome | None) -> Summary | None:
    return None if outcome is None else outcome.summary


def _known(summaries: dict[_Key, Summary | None]) -> dict[_Key, Summary]:
    return {key: summary for key, summary in summaries.items() if summary is not None}
