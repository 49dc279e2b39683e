# SPDX-License-Identifier: Apache-2.0
"""Run a recipe from the first stage to a scored student, in one process or several."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from diffkd_ros.errors import DiffkdError
from diffkd_ros.files import results_folder
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training import checkpoint
from diffkd_ros.training.checkpoint import CHECKPOINT, CheckpointError
from diffkd_ros.training.data import Batch, training_batches
from diffkd_ros.training.finite import LossWatch
from diffkd_ros.training.frames import expand
from diffkd_ros.training.optimisation import Optimisation
from diffkd_ros.training.recipe import Recipe, RecipeError, Stage
from diffkd_ros.training.stages import STAGES, copy_teacher, measure_teacher, teacher_as_student
from diffkd_ros.training.validation import Scores, Validation, grid_of

MEASURED_BATCHES = 32
REPORT_EVERY = 20
_COLUMNS = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
BFLOAT16 = ('avx512_bf16', 'amx_bf16', 'bf16')
"""Names in `torch.cpu.get_capabilities`, on x86 and ARM, of hardware support for bfloat16."""


@dataclass(frozen=True)
class Machine:
    """The devices to train on. Under `torchrun`, its numbers of devices and nodes are used.

    Attributes:
        accelerator: of Lightning Fabric: `auto`, `cpu`, `gpu`, ...
        devices: number of devices of this node, or `auto`.
        nodes: number of nodes.
        threads: CPU threads of each process.
    """

    accelerator: str = 'auto'
    devices: int | str = 1
    nodes: int = 1
    threads: int = 1

    def fabric(self, out: Path) -> Fabric:
        """Create Fabric, with loggers that write to `out`.

        Raises:
            DiffkdError: if this machine has no such devices.
        """
        devices, nodes = self.devices, self.nodes
        if TorchElasticEnvironment.detect():
            devices, nodes = int(os.environ['LOCAL_WORLD_SIZE']), int(os.environ['GROUP_WORLD_SIZE'])
        several = devices != 1 or nodes > 1
        try:
            return Fabric(
                accelerator=self.accelerator,
                devices=devices,
                num_nodes=nodes,
                # No stage uses all parameters of the student.
                strategy='ddp_find_unused_parameters_true' if several else 'auto',
                loggers=[
                    CSVLogger(out, 'csv', flush_logs_every_n_steps=1),
                    TensorBoardLogger(out, 'tensorboard'),
                ],
            )
        except (ImportError, MisconfigurationException, RuntimeError, ValueError) as error:
            raise DiffkdError(f'accelerator {self.accelerator}, {devices} devices: {error}') from error


@dataclass(frozen=True)
class Trained:
    """Result of a training run.

    Attributes:
        student: in evaluation mode; if only a teacher was trained, a student that computes the same.
        training: recipe, seeds, time and machine, for the model card.
        results: scores on held-out frames, for the model card.
    """

    student: Student
    training: dict[str, Any]
    results: dict[str, Any]


class _Run:
    """State of a run: networks, progress and the path of the checkpoint."""

    def __init__(self, recipe: Recipe, out: Path, fabric: Fabric) -> None:
        self.recipe, self.fabric, self.path = recipe, fabric, out / CHECKPOINT
        torch.manual_seed(recipe.seed)
        self.teacher, self.student = Teacher(recipe.model), Student(recipe.model)
        self.parts: dict[str, checkpoint.Tensors] = {}
        self.progress = checkpoint.Progress()
        self.before = 0  # stages of the initial checkpoint
        if recipe.initial is not None:
            self._load_initial(expand(recipe.initial))
        if self.path.exists():
            self._resume()
        fabric.to_device(self.teacher)
        fabric.to_device(self.student)
        # Only the first process computes scores.
        self.validation = Validation(recipe, fabric.device) if fabric.is_global_zero else None

    def _load_initial(self, path: Path) -> None:
        _, progress, parts = checkpoint.read_checkpoint(path)
        if progress.step:
            raise CheckpointError(f'{path} was written in the middle of a stage; finish its run first')
        self.progress.history = progress.history
        self.before = len(progress.history)
        checkpoint.restore(self.teacher, parts['teacher'], path)
        if self._has_student():
            checkpoint.load_matching(self.student, parts['student'])

    def _resume(self) -> None:
        recipe, self.progress, self.parts = checkpoint.read_checkpoint(self.path)
        if recipe != self.recipe:
            raise CheckpointError(f'{self.path} was written by another recipe; choose another output folder')
        checkpoint.restore(self.teacher, self.parts['teacher'], self.path)
        checkpoint.restore(self.student, self.parts['student'], self.path)

    def _has_student(self) -> bool:
        return any(stage['name'] != 'teacher' for stage in self.progress.history)

    def save(self, parts: dict[str, checkpoint.Tensors]) -> None:
        if self.fabric.is_global_zero:
            networks = {'teacher': self.teacher.state_dict(), 'student': self.student.state_dict()}
            checkpoint.save_checkpoint(self.path, self.recipe, networks | parts, self.progress)
        self.fabric.barrier()

    def stage(self, stage: Stage) -> None:
        """Run a stage, from its first step or from where the checkpoint was written."""
        recipe, progress, fabric = self.recipe, self.progress, self.fabric
        stream = _stream(stage, progress.history)
        grid = grid_of(recipe)
        # The teacher is trained on clean clouds; the other stages use it in the egos' own grids.
        clean, straight = {'augmentation': None}, {'turned': 0.0}
        data = recipe.data.model_copy(update=clean if stage.name == 'teacher' else straight)
        if stage.name != 'teacher' and not self._has_student() and progress.step == 0:
            copy_teacher(self.teacher, self.student)
            # Without a rank: all processes measure the same batches.
            clean_data = data.model_copy(update=clean)
            measured = training_batches(clean_data, grid, stream, range(MEASURED_BATCHES))
            measure_teacher(self.teacher, self.student, (batch.to(fabric.device) for batch in measured))
        module = STAGES[stage.name](self.teacher, self.student, recipe.target)
        network = self.teacher if stage.name == 'teacher' else self.student
        if stage.name == 'teacher':
            network.requires_grad_(True)
        optimisation = Optimisation(recipe, stage, module, network)
        if progress.step:
            optimisation.load(self.parts, progress)
        trained, optimiser = fabric.setup(module, optimisation.optimiser)
        module.train()
        started = time.monotonic() - 60 * progress.minutes
        remaining = range(progress.step, stage.steps)
        batches = training_batches(data, grid, stream, remaining, fabric.global_rank, fabric.world_size)
        shown, watch = '', LossWatch(stage.name)
        checks = REPORT_EVERY, recipe.validate_every, recipe.save_every
        with Progress(*_COLUMNS, disable=not fabric.is_global_zero) as bar:
            task = bar.add_task(stage.name, total=stage.steps, completed=progress.step)
            for step, batch in zip(remaining, batches, strict=True):
                # A seed for each step: a resumed run repeats the draws of an uninterrupted one.
                torch.manual_seed(_seed(recipe.seed, stream, step, fabric.global_rank))
                try:
                    losses = self._step(trained, optimiser, optimisation, batch.to(fabric.device))
                except RuntimeError:
                    # Some operators refuse NaN: the loss of the step before may have been the first.
                    watch.check()
                    raise
                watch.add(step, losses)
                progress.step, progress.minutes = step + 1, (time.monotonic() - started) / 60
                if step % REPORT_EVERY == 0:
                    fabric.log_dict({f'{stage.name}/{k}': v.item() for k, v in losses.items()}, step)
                text = f'{stage.name} loss {losses["total"]:.3f} {shown}'
                bar.update(task, advance=1, description=text)
                last = step + 1 == stage.steps
                if last or any((step + 1) % every == 0 for every in checks):
                    watch.check()
                if (step + 1) % recipe.validate_every == 0 and not last:
                    shown = _summary(self._score(stage, optimisation.average.module, step + 1))
                if (step + 1) % recipe.save_every == 0 and not last:
                    self.save(optimisation.state(progress))
        optimisation.apply_average()
        if fabric.world_size > 1:
            # Batch norm statistics differ between processes; all continue with those the first one saves.
            network.load_state_dict(fabric.broadcast(network.state_dict()))
        progress.history.append(
            {'name': stage.name, 'steps': stage.steps, 'minutes': round(progress.minutes, 1)}
        )
        progress.step, progress.minutes = 0, 0.0
        progress.optimiser, progress.schedule = [], {}
        scores = self._score(stage, network, stage.steps)
        fabric.print(f'after {stage.name} ({progress.history[-1]["minutes"]} min): {_summary(scores)}')
        self.save({})

    def _step(
        self, module: nn.Module, optimiser: Any, optimisation: Optimisation, batch: Batch
    ) -> dict[str, Tensor]:
        weights = self.recipe.weights.model_dump()
        # Not Fabric's mixed precision, which converts inputs too: points would be rounded to 0.25 m.
        mixed = self.recipe.precision == 'bf16-mixed'
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=mixed):
            losses = module(batch)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        optimiser.zero_grad()
        self.fabric.backward(total)
        nn.utils.clip_grad_norm_(optimisation.parameters, self.recipe.gradient_clip)
        optimiser.step()
        optimisation.advance()
        return {name: loss.detach() for name, loss in (*losses.items(), ('total', total))}

    def _score(self, stage: Stage, network: nn.Module, step: int) -> Scores:
        """Score on held-out frames in the first process; the others wait and return no scores."""
        scores: Scores = {}
        if self.validation is not None:
            if isinstance(network, Teacher):
                scores = self.validation.teacher(network)
            else:
                assert isinstance(network, Student)
                scores = self.validation.student(network, restore=stage.name == 'joint')
            flat = {f'{stage.name}/{who}_{k}': v for who, row in scores.items() for k, v in row.items()}
            self.fabric.log_dict(flat, step)
        self.fabric.barrier()
        return scores


def _summary(scores: Scores) -> str:
    return ', '.join(f'{who} AP@0.5 {row["ap50"]:.3f}' for who, row in scores.items())


def _stream(stage: Stage, history: list[dict[str, Any]]) -> int:
    """Number of the random stream of a stage, from its kind and how often that kind has run before.

    Independent of the recipe that ran the earlier stages: a chain of recipes gives the same weights as one
    recipe with all stages.
    """
    return 10 * sum(earlier['name'] == stage.name for earlier in history) + list(STAGES).index(stage.name)


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


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
    machine = machine or Machine()
    torch.set_num_threads(machine.threads)
    results_folder(out)
    fabric = machine.fabric(out)
    fabric.launch()
    if recipe.precision != '32-true' and fabric.device.type == 'cpu' and not _has_bfloat16():
        fabric.print(
            f'this processor has no bfloat16 instructions: with precision {recipe.precision} '
            'a step can take ten times as long as with 32-true'
        )
    run = _Run(recipe, out, fabric)
    done = len(run.progress.history) - run.before
    if recipe.stages[0].name != 'teacher' and not run.progress.history:
        raise RecipeError(
            f'stage {recipe.stages[0].name}: no teacher before it; add a stage teacher, or set initial'
        )
    for stage in recipe.stages[done:]:
        run.stage(stage)
    if run.validation is None:
        return None
    teacher = run.teacher
    if recipe.stages[-1].name == 'teacher':
        student = teacher_as_student(teacher, recipe.model)
    else:
        student = checkpoint.as_trained(run.student, run.progress.history)
    fabric.to_device(student)
    results = {
        'data': run.validation.description,
        **run.validation.teacher(teacher),
        **run.validation.student(student, restore=True),
    }
    return Trained(student.cpu(), _training_record(recipe, run.progress, fabric, machine), results)


def _has_bfloat16() -> bool:
    """Whether the processor has bfloat16 instructions; True if this torch cannot say."""
    describe = getattr(torch.cpu, 'get_capabilities', None)
    return describe is None or any(describe().get(name) for name in BFLOAT16)


def _training_record(
    recipe: Recipe, progress: checkpoint.Progress, fabric: Fabric, machine: Machine
) -> dict[str, Any]:
    data = recipe.data
    accelerator = type(fabric.accelerator).__name__.removesuffix('Accelerator')
    return {
        'recipe': recipe.model_dump(mode='json', exclude_defaults=True, exclude={'description'}),
        'data': ', '.join(source.kind for source in data.sources) + "; sim is this package's simulator",
        'seeds': {
            'weights': recipe.seed,
            'train_scenarios': data.train_seed,
            'validation_scenarios': data.validation_seed,
        },
        'stages': progress.history,
        'machine': f'{platform.machine()}, {os.cpu_count()} CPU cores, {machine.threads} torch threads, '
        f'{fabric.world_size} process{"es" if fabric.world_size > 1 else ""} on {accelerator}',
        'torch': str(torch.__version__),
    }
