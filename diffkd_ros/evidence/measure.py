# SPDX-License-Identifier: Apache-2.0
"""Measurements of an experiment: runs of `diffkd evaluate`, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.cooperation import Plausibility
from diffkd_ros.evaluation.cooperations import cooperation_named
from diffkd_ros.evaluation.evaluate import Outcome, evaluate
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.run import make_jobs, settle
from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.evidence.plan import Line
from diffkd_ros.evidence.trainings import Trainings, checkpoint_of
from diffkd_ros.export.model_folder import holds_export, write_model_folder
from diffkd_ros.model.student import StudentConfig
from diffkd_ros.runtime.card import sha256
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.sources.source import Source
from diffkd_ros.training.checkpoint import load_student, with_model
from diffkd_ros.workers import Workers


@dataclass(frozen=True)
class Network:
    """A model to be measured.

    Attributes:
        folder: of the model, at the latest after `export`.
        export: writes it, where no training has.
    """

    folder: Path
    export: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Measurement:
    """One run of `diffkd evaluate`.

    Attributes:
        out: folder for its results.
        network: the model.
        source: of the frames.
        levels: the conditions.
        cooperation: name of the way to cooperate.
        asked: whether to run it; if not, earlier results are used if they are complete.
        budget, plausibility: as of `evaluation.plan.Plan`.
    """

    out: Path
    network: Network
    source: Source
    levels: Sequence[Condition]
    cooperation: str
    asked: bool
    budget: int | None = None
    plausibility: Plausibility = 'sweep'

    @property
    def plan(self) -> Plan:
        """What is evaluated."""
        source = self.source
        model, protocol = self.network.folder, source.protocol
        return Plan(
            *(self.out, source, model, protocol, self.cooperation),
            budget=self.budget,
            plausibility=self.plausibility,
        )

    def measured(self) -> bool:
        """Returns whether an earlier run measured all of it, but what it had to leave out."""
        plan = self.plan
        try:
            left_out = Summary.read(self.out).run.left_out
            settle(plan)
        except DiffkdError:
            return False
        meets = cooperation_named(self.cooperation).meets
        levels = [each for each in self.levels if meets(each) and each.name not in left_out.conditions]
        drives = [drive for drive in self.source.names() if drive not in left_out.scenarios]
        return not make_jobs(plan, levels, drives)


Measure = Callable[[Measurement], Outcome | None]
"""Runs a measurement; None for one that was not asked for and has no complete results."""


def measuring(out: Path, workers: Workers, console: Console) -> Measure:
    """Run measurements; what is measured already is not measured again.

    Args:
        out: folder of the experiment.
        workers: which run the jobs.
        console: for progress messages.

    Returns:
        The function, which raises EvaluationError if a measurement fails.
    """

    def measure(each: Measurement) -> Outcome | None:
        if not each.asked and not each.measured():
            return None
        console.print(f'measuring {each.out.relative_to(out)}', highlight=False)
        each.network.export()
        return evaluate(each.plan, each.levels, console, workers, draw=False)

    return measure


def complete(outcomes: Iterable[Outcome | None]) -> list[Outcome]:
    """The outcomes of all training seeds; empty unless all have been measured."""
    every = list(outcomes)
    found = [outcome for outcome in every if outcome is not None]
    return found if len(found) == len(every) else []


def networks_of(line: Line, trainings: Trainings, out: Path) -> list[Network]:
    """The model of each run of a line's training, or its existing model."""
    if line.training is None:
        return [Network(model_folder(line.model or ''))]
    return [network_of(run, out) for run in trainings.runs_of(line.training)]


def network_of(run: str, out: Path, config: StudentConfig | None = None) -> Network:
    """The model that a run has written, or its student with another start or number of steps."""
    checkpoint = checkpoint_of(run, out)
    if config is None:
        return Network(checkpoint.parent / run)
    folder = out / 'models' / f'{run}_{config.start_from}_{config.steps}'
    return Network(folder, partial(_export, checkpoint, folder, config))


def _export(checkpoint: Path, folder: Path, config: StudentConfig) -> None:
    """Export a checkpoint's student with another configuration, unless done before."""
    origin = {
        'checkpoint_sha256': sha256(checkpoint), 'start_from': config.start_from, 'steps': config.steps
    }  # fmt: skip
    if not holds_export(folder, origin):
        recipe, student = load_student(checkpoint)
        write_model_folder(
            with_model(student, config), folder, recipe.description, recipe.decoding, origin, {}
        )
