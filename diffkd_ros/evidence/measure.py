# SPDX-License-Identifier: Apache-2.0
"""Measures every row of an experiment under the same conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from diffkd_ros.evaluation.cooperation import INTERMEDIATE
from diffkd_ros.evaluation.evaluate import Outcome, evaluate
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.evidence.plan import Conditions, Experiment, checkpoint_of
from diffkd_ros.export.model_folder import holds_export, write_model_folder
from diffkd_ros.model.student import StudentConfig
from diffkd_ros.runtime.card import sha256
from diffkd_ros.training.checkpoint import load_student, with_model


def measure_rows(experiment: Experiment, out: Path, workers: int, console: Console) -> dict[str, Outcome]:
    """Run `diffkd evaluate` for each row.

    Raises:
        EvaluationError: if a measurement fails.
    """
    conditions = experiment.plan.conditions
    return {
        name: _measure(
            out / 'rows' / name, model_of(row.training, out), conditions, workers, console, row.cooperation
        )
        for name, row in experiment.plan.rows.items()
    }


def measure_reliability(experiment: Experiment, out: Path, workers: int, console: Console) -> Summary | None:
    """Measure the row whose ego is corrupted; None if the plan has no such section."""
    wanted = experiment.plan.reliability
    if wanted is None:
        return None
    model = model_of(experiment.plan.rows[wanted.row].training, out)
    return _measure(out / 'reliability', model, wanted, workers, console).summary


def measure_steps(
    experiment: Experiment, out: Path, workers: int, console: Console
) -> dict[tuple[str, int], Summary]:
    """Measure the sampler's settings, by start and number of steps; without steps there is one start."""
    wanted = experiment.plan.steps
    if wanted is None:
        return {}
    config = experiment.recipes[wanted.training].model
    summaries: dict[tuple[str, int], Summary] = {}
    for steps in wanted.steps:
        for start in wanted.starts if steps else wanted.starts[:1]:
            changed = replace(config, start_from=start, steps=steps)
            model = export_with(wanted.training, out, changed)
            folder = out / 'steps' / f'{start}_{steps}'
            summaries[start, steps] = _measure(folder, model, wanted, workers, console).summary
    return summaries


def _measure(
    folder: Path,
    model: Path,
    conditions: Conditions,
    workers: int,
    console: Console,
    cooperation: str = INTERMEDIATE,
) -> Outcome:
    console.print(f'measuring {folder.name}', highlight=False)
    source = conditions.frames()
    plan = Plan(folder, source, model, source.protocol, cooperation)
    return evaluate(plan, conditions.levels(), console, workers, draw=False)


def model_of(training: str, out: Path) -> Path:
    """The model folder that a training has written."""
    return checkpoint_of(training, out).parent / training


def export_with(training: str, out: Path, config: StudentConfig) -> Path:
    """Export a training's student with other settings, unless done before, and return the model folder."""
    checkpoint = checkpoint_of(training, out)
    folder = out / 'models' / f'{training}_{config.start_from}_{config.steps}'
    origin = {'checkpoint_sha256': sha256(checkpoint), 'start_from': config.start_from, 'steps': config.steps}
    if not holds_export(folder, origin):
        recipe, student = load_student(checkpoint)
        write_model_folder(
            with_model(student, config), folder, recipe.description, recipe.decoding, origin, {}
        )
    return folder
