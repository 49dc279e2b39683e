# SPDX-License-Identifier: Apache-2.0
"""Runs the trainings of an experiment, each as a `diffkd train` process, several at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evidence.plan import Experiment, checkpoint_of
from diffkd_ros.files import write_text
from diffkd_ros.launching.processes import in_child
from diffkd_ros.runtime.card import CARD
from diffkd_ros.training.checkpoint import CheckpointError, read_checkpoint

_POLL = 1.0  # seconds
_TAIL = 2000  # characters of a failed training's log


def train_all(experiment: Experiment, out: Path, workers: int, console: Console) -> None:
    """Run the unfinished trainings; an interrupted training continues.

    Args:
        experiment: what to train.
        out: folder for the runs and their logs.
        workers: trainings at a time, one CPU thread each.
        console: for progress messages.

    Raises:
        DiffkdError: if a training fails; the others are ended and can be continued.
    """
    waiting = [name for name in experiment.recipes if not _done(experiment, name, out)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            for name in list(waiting):
                after = experiment.plan.trainings[name].after
                if len(running) < workers and after not in (*waiting, *running):
                    waiting.remove(name)
                    running[name] = _start(experiment, name, out)
                    console.print(f'training {name}', highlight=False)
            time.sleep(_POLL)
            for name, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                log = _log(name, out)
                if process.returncode:
                    tail = log.read_text(errors='replace')[-_TAIL:]
                    raise DiffkdError(f'training {name} failed, see {log}:\n{tail}')
                console.print(f'trained {name}', highlight=False)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


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


def _start(experiment: Experiment, name: str, out: Path) -> subprocess.Popen[bytes]:
    folder = checkpoint_of(name, out).parent
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / f'{name}.yaml'
    write_text(recipe, yaml.safe_dump(experiment.recipes[name].model_dump(mode='json'), sort_keys=False))
    command = [sys.executable, '-m', 'diffkd_ros.cli', 'train', str(recipe), '--out', str(folder)]
    with _log(name, out).open('ab') as log:
        command += ['--threads', '1']
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=in_child)


def _log(name: str, out: Path) -> Path:
    return checkpoint_of(name, out).parent / 'log.txt'
