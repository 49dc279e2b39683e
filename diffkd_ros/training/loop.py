# SPDX-License-Identifier: Apache-2.0
"""Run recipes from the first stage to a scored student, several of them in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from diffkd_ros.training.catalogue import STAGES
from diffkd_ros.training.codebooks import copy_sender, prepare_sender
from diffkd_ros.training.data import Batch, training_batches
from diffkd_ros.training.frozen import Frozen, FrozenNetworks
from diffkd_ros.training.machine import Machine
from diffkd_ros.training.recipe import Data, Recipe
from diffkd_ros.training.run import Run, Trained
from diffkd_ros.training.stages import measure_teacher
from diffkd_ros.training.validation import Validation, grid_of

MEASURED_BATCHES = 32
_COLUMNS = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class Job:
    """A training among others.

    Attributes:
        name: of the training.
        recipe: of its run.
        out: folder for its checkpoint and logs.
        after: name of the training whose checkpoint it starts from, None for none.
    """

    name: str
    recipe: Recipe
    out: Path
    after: str | None = None


def train(recipe: Recipe, out: Path, machine: Machine | None = None) -> Trained | None:
    """Train every stage and score on held-out frames.

    An interrupted run resumes from its last checkpoint and gives the same weights, bit for bit.

    Args:
        recipe: of the run.
        out: folder for the checkpoint and the logs.
        machine: devices to train on; one process by default.

    Returns:
        The result in the first process, None in the others.

    Raises:
        CheckpointError: if `out` holds a run of another recipe, or the initial checkpoint is not usable.
        RecipeError: if no teacher precedes the first stage, or an environment variable is not set.
        DatasetError: if a data set cannot be read.
        DiffkdError: if a loss is not finite, `out` cannot be written, or this machine has no such devices.
    """
    [(_, trained)] = train_together([Job(recipe.name, recipe, out)], machine or Machine())
    return trained


def train_together(jobs: Sequence[Job], machine: Machine) -> Iterator[tuple[Job, Trained | None]]:
    """Train several recipes, and give each result when it is finished.

    Runs at an equal stage on equal data take its steps together: samples are made once, and a teacher or an
    encoder that several of them do not change is computed once. Each gets the weights that it would get
    alone, bit for bit.

    Raises:
        DiffkdError: as for `train`.
    """
    machine.prepare()
    validations: dict[str, Validation] = {}
    waiting = {job.name: job for job in jobs}
    running: dict[str, Run] = {}
    begun: dict[str, Job] = {}
    while waiting or running:
        for name, job in list(waiting.items()):
            if job.after not in waiting and job.after not in running:
                begun[name] = waiting.pop(name)
                running[name] = Run(job.recipe, job.out, machine, validations)
        finished = [name for name, run in running.items() if run.stage is None]
        for name in finished:
            yield begun[name], running.pop(name).result()
        if running and not finished:
            _train_stage(_next_runs(list(running.values())))


def _next_runs(runs: list[Run]) -> list[Run]:
    """The runs to go on with: at the earliest stage, so that more of them meet at a later one."""

    def lesson(run: Run) -> tuple[object, ...]:
        assert run.stage is not None
        recipe = run.recipe
        return run.stage.name, run.steps, run.stream, run.data, grid_of(recipe), recipe.precision

    first = min(runs, key=lambda run: list(STAGES).index(run.stage.name))  # type: ignore[union-attr]
    return [run for run in runs if lesson(run) == lesson(first)]


def _train_stage(runs: Sequence[Run]) -> None:
    """Run one stage of several runs, from its first step or from where the checkpoints were written."""
    one = runs[0]
    stage, fabric, data, grid = one.stage, one.fabric, one.data, grid_of(one.recipe)
    assert stage is not None
    freeze = FrozenNetworks()
    _make_students(runs, freeze)
    _make_senders(runs, freeze)
    for run in runs:
        run.begin(freeze)
    # Runs that were interrupted between their checkpoints wait for the others.
    remaining = range(min(run.progress.step for run in runs), one.steps)
    batches = training_batches(
        data,
        grid,
        one.stream,
        remaining,
        fabric.global_rank,
        fabric.world_size,
        clean=any(run.recipe.target == 'local' for run in runs),
        pinned=fabric.device.type == 'cuda',
    )
    name = stage.name if len(runs) == 1 else f'{stage.name} of {", ".join(run.recipe.name for run in runs)}'
    with Progress(*_COLUMNS, disable=not fabric.is_global_zero) as bar:
        task = bar.add_task(name, total=one.steps, completed=remaining.start)
        for step, batch in zip(remaining, batches, strict=True):
            moved = batch.to(fabric.device)
            for run in runs:
                if step == run.progress.step:
                    run.step(moved)
            bar.update(task, advance=1, description=f'{name} {one.shown}')
    for run in runs:
        run.finish()


def _make_students(runs: Sequence[Run], freeze: FrozenNetworks) -> None:
    """Initialise new students from their teachers, each of which is measured once."""
    measured: dict[Frozen, Run] = {}
    for run in runs:
        if not run.needs_student:
            continue
        run.make_student()
        known = measured.setdefault(freeze(run.teacher), run)
        if known is run:
            data = run.data.model_copy(update={'augmentation': None})
            measure_teacher(run.teacher, run.student, _measured_batches(run, data))
        else:
            scale = known.student.restoration
            run.student.restoration.mean.copy_(scale.mean)
            run.student.restoration.deviation.copy_(scale.deviation)


def _make_senders(runs: Sequence[Run], freeze: FrozenNetworks) -> None:
    """Prepare what vehicles send, once for all runs with the same student."""
    prepared: dict[Frozen, Run] = {}
    for run in runs:
        if not run.needs_codes:
            continue
        student = run.student
        parts = nn.ModuleList((student.encoder, student.fusion, student.head))
        known = prepared.setdefault(freeze(parts), run)
        if known is run:
            prepare_sender(student, _measured_batches(run, run.data))
        else:
            copy_sender(known.student, student)


def _measured_batches(run: Run, data: Data) -> Iterator[Batch]:
    # Without a rank: all processes measure the same batches.
    batches = training_batches(data, grid_of(run.recipe), run.stream, range(MEASURED_BATCHES))
    return (batch.to(run.fabric.device) for batch in batches)
