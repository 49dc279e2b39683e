# SPDX-License-Identifier: Apache-2.0
"""Measures every row of an experiment under the same conditions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from diffkd_ros.evaluation.cooperations import INTERMEDIATE
from diffkd_ros.evaluation.evaluate import Outcome, evaluate
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.evidence.plan import Conditions, Row
from diffkd_ros.evidence.plan import Plan as EvidencePlan
from diffkd_ros.evidence.trainings import Experiment, checkpoint_of
from diffkd_ros.export.model_folder import holds_export, write_model_folder
from diffkd_ros.model.student import StudentConfig
from diffkd_ros.runtime.card import ModelCard, sha256
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.training.checkpoint import load_student, with_model


@dataclass(frozen=True)
class Measurements:
    """Everything that a plan asks for.

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


class Measurer:
    """Runs `diffkd evaluate` for the parts of a plan; what is measured already is not measured again.

    Args:
        experiment: whose trainings are finished.
        out: folder of the experiment.
        workers: processes.
        console: for progress messages.
    """

    def __init__(
        self, experiment: Experiment[EvidencePlan], out: Path, workers: int, console: Console
    ) -> None:
        self._experiment, self._out, self._workers, self._console = experiment, out, workers, console

    def measure(self) -> Measurements:
        """Measure everything.

        Raises:
            EvaluationError: if a measurement fails.
        """
        plan = self._experiment.plan
        rows = {name: self._row(name) for name in plan.rows}
        return Measurements(
            rows,
            {name: self._samples(row) for name, row in plan.rows.items()},
            {
                world: {row: self._of_row(row, conditions, f'worlds/{world}/{row}') for row in plan.rows}
                for world, conditions in plan.worlds.items()
            },
            self._forced('intensity'),
            self._forced('sensors'),
            self._reliability(),
            self._steps(),
        )

    def _row(self, name: str) -> list[Outcome]:
        row = self._experiment.plan.rows[name]
        conditions = self._experiment.plan.conditions
        return [
            self._evaluate(
                f'rows/{name}_seed{number}' if number > 1 else f'rows/{name}', model, conditions, row
            )
            for number, model in enumerate(self._models(row), 1)
        ]

    def _samples(self, row: Row) -> dict[str, int]:
        samples: Counter[str] = Counter()
        for stage in ModelCard.load(self._models(row)[0]).training.get('stages', []):
            samples[stage['name']] += stage.get('samples', 0)
        return dict(samples)

    def _forced(self, section: Literal['intensity', 'sensors']) -> dict[str, Summary]:
        parts = self._experiment.plan.forced(section)
        return {name: self._of_row(row, part, f'{section}/{name}') for name, (row, part) in parts.items()}

    def _reliability(self) -> Summary | None:
        wanted = self._experiment.plan.reliability
        return None if wanted is None else self._of_row(wanted.row, wanted, 'reliability')

    def _steps(self) -> dict[tuple[str, int], Summary]:
        """Measure the sampler's settings; without steps there is one start."""
        wanted = self._experiment.plan.steps
        if wanted is None:
            return {}
        config = self._experiment.recipes[wanted.training].model
        summaries: dict[tuple[str, int], Summary] = {}
        for steps in wanted.steps:
            for start in wanted.starts if steps else wanted.starts[:1]:
                changed = replace(config, start_from=start, steps=steps)
                model = export_with(wanted.training, self._out, changed)
                outcome = self._evaluate(f'steps/{start}_{steps}', model, wanted)
                summaries[start, steps] = outcome.summary
        return summaries

    def _of_row(self, row: str, conditions: Conditions, folder: str) -> Summary:
        chosen = self._experiment.plan.rows[row]
        return self._evaluate(folder, self._models(chosen)[0], conditions, chosen).summary

    def _evaluate(self, folder: str, model: Path, conditions: Conditions, row: Row | None = None) -> Outcome:
        self._console.print(f'measuring {folder}', highlight=False)
        source = conditions.frames()
        cooperation = INTERMEDIATE if row is None else row.cooperation
        plan = Plan(self._out / folder, source, model, source.protocol, cooperation)
        return evaluate(plan, conditions.levels(), self._console, self._workers, draw=False)

    def _models(self, row: Row) -> list[Path]:
        """The model folder of each run of a row."""
        if row.training is None:
            return [model_folder(row.model or '')]
        return [model_of(run, self._out) for run in self._experiment.plan.runs_of(row.training)]


def model_of(run: str, out: Path) -> Path:
    """The model folder that a run has written."""
    return checkpoint_of(run, out).parent / run


def export_with(run: str, out: Path, config: StudentConfig) -> Path:
    """Export a run's student with another start or number of steps, unless done before; its model folder."""
    checkpoint = checkpoint_of(run, out)
    folder = out / 'models' / f'{run}_{config.start_from}_{config.steps}'
    origin = {
        'checkpoint_sha256': sha256(checkpoint), 'start_from': config.start_from, 'steps': config.steps
    }  # fmt: skip
    if not holds_export(folder, origin):
        recipe, student = load_student(checkpoint)
        write_model_folder(
            with_model(student, config), folder, recipe.description, recipe.decoding, origin, {}
        )
    return folder
