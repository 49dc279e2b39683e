# SPDX-License-Identifier: Apache-2.0
"""Run a recipe from the first stage to a scored student."""

from __future__ import annotations

import csv
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.checkpoint import load_checkpoint, save_checkpoint
from diffkd_ros.training.data import training_batches, validation_frames
from diffkd_ros.training.recipe import Recipe, Stage
from diffkd_ros.training.stages import STAGES, copy_teacher, measure_teacher
from diffkd_ros.training.validation import grid_of, validate

MEASURED_BATCHES = 32
REPORT_EVERY = 20


def _train_stage(recipe: Recipe, stage: Stage, module: nn.Module, offset: int, log: Path) -> None:
    """Optimise one stage's parameters; losses go to `log` as CSV."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, stage.learning_rate, total_steps=stage.steps, pct_start=0.2
    )
    weights = recipe.weights.model_dump()
    module.train()
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, log.open('w', newline='') as file:
        task = progress.add_task(stage.name, total=stage.steps)
        writer = None
        for step, batch in enumerate(training_batches(recipe.data, grid_of(recipe), stage.steps, offset)):
            losses = module(batch)
            total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
            optimiser.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimiser.step()
            schedule.step()
            progress.update(task, advance=1, description=f'{stage.name} loss {total.item():.3f}')
            if step % REPORT_EVERY == 0:
                row = {'step': step, 'total': total.item(), **{k: v.item() for k, v in losses.items()}}
                writer = writer or csv.DictWriter(file, row)
                if step == 0:
                    writer.writeheader()
                writer.writerow(row)
                file.flush()


@dataclass(frozen=True)
class Trained:
    """What a recipe gave.

    Attributes:
        student: in evaluation mode.
        training: recipe, seeds, time and machine, for the model card.
        results: scores on held-out scenarios, for the model card.
    """

    student: Student
    training: dict[str, Any]
    results: dict[str, Any]


def train(recipe: Recipe, out: Path, threads: int) -> Trained:
    """Train every stage and score on held-out scenarios.

    A run that was stopped goes on after its last finished stage.

    Args:
        recipe: what to do.
        out: folder for the checkpoint and the logs.
        threads: CPU threads for torch.

    Raises:
        CheckpointError: if `out` holds another recipe's run.
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / 'checkpoint.safetensors'
    torch.manual_seed(recipe.seed)
    teacher, student = Teacher(recipe.model), Student(recipe.model)
    minutes = load_checkpoint(checkpoint, recipe, teacher, student) if checkpoint.exists() else []
    data, grid = recipe.data, grid_of(recipe)
    held_out = validation_frames(
        data.simulator, data.validation_seed, data.validation_scenarios, data.validation_frames
    )
    offset = 0
    for number, stage in enumerate(recipe.stages):
        if number >= len(minutes):
            # Every stage draws from its own stream, so a resumed run repeats what an unbroken one does.
            torch.manual_seed(recipe.seed + number + 1)
            started = time.monotonic()
            if stage.name == 'student' and recipe.stages[number - 1].name == 'teacher':
                copy_teacher(teacher, student)
                batches = iter(training_batches(data, grid, MEASURED_BATCHES, offset))
                measure_teacher(teacher, student, batches, MEASURED_BATCHES)
            module = STAGES[stage.name](teacher, student)
            _train_stage(recipe, stage, module, offset, out / f'{number}_{stage.name}.csv')
            minutes.append(round((time.monotonic() - started) / 60, 1))
            scores = validate(recipe, teacher, student, stage.name == 'joint', held_out)
            print(f'after {stage.name} ({minutes[-1]} min): {scores}', flush=True)
            save_checkpoint(checkpoint, recipe, teacher, student, minutes)
        offset += stage.steps * data.batch
    return Trained(
        student,
        training={
            'command': f'diffkd train config/train/{recipe.name}.yaml',
            'data': 'simulated only (diffkd_ros.sources.simulator)',
            'seeds': {
                'weights': recipe.seed,
                'train_scenarios': data.train_seed,
                'validation_scenarios': data.validation_seed,
            },
            'stages': [
                {'name': stage.name, 'steps': stage.steps, 'minutes': spent}
                for stage, spent in zip(recipe.stages, minutes, strict=True)
            ],
            'machine': f'{platform.machine()}, {os.cpu_count()} CPU cores, {threads} torch threads, no GPU',
            'torch': str(torch.__version__),
        },
        results={
            'data': f'{len(held_out)} simulated frames in {data.validation_scenarios} held-out scenarios',
            **validate(recipe, teacher, student, True, held_out),
        },
    )
