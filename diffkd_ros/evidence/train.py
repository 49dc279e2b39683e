# SPDX-License-Identifier: Apache-2.0
"""Runs the trainings of an experiment, those that share data and networks in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evidence.starts import note_starts
from diffkd_ros.evidence.trainings import Experiment, checkpoint_of
from diffkd_ros.export.model_folder import write_model_folder
from diffkd_ros.runtime.card import CARD
from diffkd_ros.training.checkpoint import CheckpointError, read_checkpoint
from diffkd_ros.training.loop import Job, train_together
from diffkd_ros.training.machine import Machine
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.run import Trained
from diffkd_ros.workers import worker_pool


def unfinished(experiment: Experiment, out: Path) -> list[Job]:
    """The trainings that the experiment needs and that are not finished.

    Raises:
        DiffkdError: if a training in the folder is of another plan, or has started from another checkpoint.
    """
    recipes = [experiment.recipes[name] for name in experiment.runs]
    note_starts(recipes, out)
    return [
        Job(recipe.name, recipe, checkpoint_of(recipe.name, out).parent, experiment.after[recipe.name])
        for recipe in recipes
        if not _done(recipe, out)
    ]


def train_all(jobs: Sequence[Job], out: Path, workers: int, console: Console) -> None:
    """Run trainings; an interrupted training continues.

    Args:
        jobs: from `unfinished`.
        out: folder of the experiment.
        workers: CPU cores to use.
        console: for progress messages.

    Raises:
        DiffkdError: if a training fails; finished ones are kept and the others can be continued.
    """
    # With a GPU the cores have nothing to do but to make samples.
    samplers = max(1, workers - 2) if torch.cuda.is_available() else None
    started = time.monotonic()
    finished = []
    for job, trained in train_together(jobs, Machine(threads=workers, workers=samplers)):
        assert trained is not None, 'there is one process'
        finished.append((job, trained))
        note_starts([each.recipe for each in jobs if each.after == job.name], out)
        minutes = (time.monotonic() - started) / 60
        console.print(f'trained {job.name}, {minutes:.1f} min since the start', highlight=False)
    _export(finished, workers, console)


def _export(finished: Sequence[tuple[Job, Trained]], workers: int, console: Console) -> None:
    """Write the model folders; a run without one is exported by the next call of `train_all`."""
    if not finished:
        return
    console.print(f'exporting {len(finished)} models', highlight=False)
    if workers == 1 or len(finished) == 1:
        for each in finished:
            _write_folder(*each)
        return
    # An export takes up to half a minute of one core.
    with worker_pool(min(workers, len(finished)), torch.set_num_threads, (1,)) as pool:
        for future in [pool.submit(_write_folder, *each) for each in finished]:
            future.result()


def _write_folder(job: Job, trained: Trained) -> None:
    recipe = job.recipe
    write_model_folder(
        trained.student,
        job.out / job.name,
        recipe.description,
        recipe.decoding,
        trained.training,
        trained.results,
    )


def _done(wanted: Recipe, out: Path) -> bool:
    path = checkpoint_of(wanted.name, out)
    if not path.exists() or not (path.parent / wanted.name / CARD).exists():
        return False
    try:
        recipe, progress, _ = read_checkpoint(path)
    except CheckpointError:
        return False
    if recipe != wanted:
        raise DiffkdError(f'{path} was written by another plan; choose another folder')
    stages = [stage.name for stage in recipe.stages]
    return [stage['name'] for stage in progress.history][-len(stages) :] == stages and progress.step == 0
