# SPDX-License-Identifier: Apache-2.0
"""Runs the trainings of an experiment, those that share data and networks in one pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evidence.trainings import Experiment, checkpoint_of
from diffkd_ros.export.model_folder import write_model_folder
from diffkd_ros.runtime.card import CARD
from diffkd_ros.training.checkpoint import CheckpointError, read_checkpoint
from diffkd_ros.training.loop import Job, train_together
from diffkd_ros.training.machine import Machine
from diffkd_ros.training.run import Trained
from diffkd_ros.workers import worker_pool


def train_all(experiment: Experiment, out: Path, workers: int, console: Console) -> None:
    """Run the unfinished trainings; an interrupted training continues.

    Args:
        experiment: what to train.
        out: folder for the runs.
        workers: CPU cores to use.
        console: for progress messages.

    Raises:
        DiffkdError: if a training fails; finished ones are kept and the others can be continued.
    """
    jobs = [
        Job(name, recipe, checkpoint_of(name, out).parent, experiment.after[name])
        for name, recipe in experiment.recipes.items()
        if not _done(experiment, name, out)
    ]
    # With a GPU the cores have nothing to do but to make samples.
    samplers = max(1, workers - 2) if torch.cuda.is_available() else None
    started = time.monotonic()
    finished = []
    for job, trained in train_together(jobs, Machine(threads=workers, workers=samplers)):
        assert trained is not None, 'there is one process'
        finished.append((job, trained))
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


def _done(experiment: Experiment, name: str, out: Path) -> bool:
    path = checkpoint_of(name, out)
    if not path.exists() or not (path.parent / name / CARD).exists():
        return False
    try:
        recipe, progress, _ = read_checkpoint(path)
    except CheckpointError:
        return False
    if recipe != experiment.recipes[name]:
        raise DiffkdError(f'{path} was written by another plan; choose another folder')
    stages = [stage.name for stage in recipe.stages]
    return [stage['name'] for stage in progress.history][-len(stages) :] == stages and progress.step == 0
