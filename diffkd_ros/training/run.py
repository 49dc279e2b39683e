# SPDX-License-Identifier: Apache-2.0
"""One training run: its networks, its progress, and the steps of its stages."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffkd_ros.files import results_folder
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training import checkpoint
from diffkd_ros.training.catalogue import STAGES
from diffkd_ros.training.checkpoint import CHECKPOINT, CheckpointError, since_teacher
from diffkd_ros.training.curve import write_curve
from diffkd_ros.training.data import Batch
from diffkd_ros.training.finite import LossWatch
from diffkd_ros.training.frames import expand
from diffkd_ros.training.frozen import FrozenNetworks, channels_last
from diffkd_ros.training.machine import Machine, warn_of_slow_precision
from diffkd_ros.training.optimisation import Optimisation
from diffkd_ros.training.recipe import LINK_STAGES, Data, Recipe, RecipeError, Stage
from diffkd_ros.training.stages import copy_teacher, teacher_as_student
from diffkd_ros.training.validation import Scores, Validation

REPORT_EVERY = 20


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


class Run:
    """A run at a stage of its recipe.

    Args:
        recipe: of the run.
        out: folder for the checkpoint and the logs; a run there is resumed.
        machine: devices to train on.
        validations: held-out frames of the runs of this process, by what they depend on; added to.

    Raises:
        CheckpointError: if `out` holds a run of another recipe, or the initial checkpoint is not usable.
        RecipeError: if no teacher precedes the first stage, or an environment variable is not set.
        DatasetError: if a data set cannot be read.
        DiffkdError: if `out` cannot be written, or this machine has no such devices.
    """

    def __init__(
        self, recipe: Recipe, out: Path, machine: Machine, validations: dict[str, Validation]
    ) -> None:
        results_folder(out)
        self.recipe, self.machine, self.out = recipe, machine, out
        self.fabric = machine.fabric(out)
        self.fabric.launch()
        warn_of_slow_precision(self.fabric, recipe.precision)
        torch.manual_seed(recipe.seed)
        self.teacher, self.student = Teacher(recipe.model), Student(recipe.model)
        self._parts: dict[str, checkpoint.Tensors] = {}
        self.progress = checkpoint.Progress()
        self._before = 0  # stages of the initial checkpoint
        if recipe.initial is not None:
            self._load_initial(expand(recipe.initial))
        elif recipe.new_restoration:
            raise RecipeError('new_restoration: needs initial, whose restoration it replaces')
        if (out / CHECKPOINT).exists():
            self._resume()
        elif recipe.stages[0].name != 'teacher' and not self.progress.history:
            raise RecipeError(
                f'stage {recipe.stages[0].name}: no teacher before it; add a stage teacher, or set initial'
            )
        for network in (self.teacher, self.student.encoder, self.student.head):
            channels_last(network)
        self.fabric.to_device(self.teacher)
        self.fabric.to_device(self.student)
        self.validation: Validation | None = None
        if self.fabric.is_global_zero:  # only the first process computes scores
            key = Validation.key(recipe)
            if key not in validations:
                validations[key] = Validation(recipe, self.fabric.device)
            self.validation = validations[key]

    def _load_initial(self, path: Path) -> None:
        _, progress, parts = checkpoint.read_checkpoint(path)
        if progress.step:
            raise CheckpointError(f'{path} was written in the middle of a stage; finish its run first')
        self.progress.history = progress.history
        self._before = len(progress.history)
        checkpoint.restore(self.teacher, parts['teacher'], path)
        if self.recipe.stages[0].name != 'teacher' and since_teacher(progress.history):
            student = parts['student']
            if self.recipe.new_restoration:
                student = checkpoint.without_restoration(student)
            checkpoint.load_matching(self.student, student)

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        recipe, self.progress, self._parts = checkpoint.read_checkpoint(path)
        if recipe != self.recipe:
            raise CheckpointError(f'{path} was written by another recipe; choose another output folder')
        checkpoint.restore(self.teacher, self._parts['teacher'], path)
        checkpoint.restore(self.student, self._parts['student'], path)

    @property
    def stage(self) -> Stage | None:
        """The stage to train next or to go on with; None after the last one."""
        done = len(self.progress.history) - self._before
        return self.recipe.stages[done] if done < len(self.recipe.stages) else None

    @property
    def steps(self) -> int:
        """Number of steps of the stage."""
        assert self.stage is not None
        return self.stage.steps_of(self.recipe.data.batch * self.fabric.world_size)

    @property
    def stream(self) -> int:
        """Number of the stage's random stream, from its kind and how often that kind has run before.

        Independent of the recipe that ran the earlier stages: a chain of recipes gives the same weights as
        one recipe with all stages.
        """
        assert self.stage is not None
        earlier = sum(stage['name'] == self.stage.name for stage in self.progress.history)
        return 10 * earlier + list(STAGES).index(self.stage.name)

    @property
    def data(self) -> Data:
        """The data of the stage.

        The teacher is trained on clean clouds; the other stages use it in the egos' own grids.
        """
        assert self.stage is not None
        changes: dict[str, Any] = {'augmentation': None} if self.stage.name == 'teacher' else {'turned': 0.0}
        if self.stage.name not in LINK_STAGES:
            changes['earlier'] = False  # which only the memory uses
        workers = {} if self.machine.workers is None else {'workers': self.machine.workers}
        return self.recipe.data.model_copy(update=changes | workers)

    @property
    def needs_student(self) -> bool:
        """Whether the stage begins with a student made from the teacher."""
        assert self.stage is not None
        fresh = not since_teacher(self.progress.history) and self.progress.step == 0
        return self.stage.name != 'teacher' and fresh

    @property
    def needs_codes(self) -> bool:
        """Whether the stage begins with a sender made from the student."""
        assert self.stage is not None
        earlier = any(stage['name'] in LINK_STAGES for stage in since_teacher(self.progress.history))
        return self.stage.name in LINK_STAGES and not earlier and self.progress.step == 0

    def make_student(self) -> None:
        """Initialise the student from the teacher."""
        copy_teacher(self.teacher, self.student)

    def begin(self, freeze: FrozenNetworks) -> None:
        """Prepare the stage's networks and optimiser, from its first step or from the checkpoint's."""
        stage = self.stage
        assert stage is not None
        module = STAGES[stage.name](self.teacher, self.student, self.recipe.target, freeze)
        self._network = self.teacher if stage.name == 'teacher' else self.student
        self._optimisation = Optimisation(self.recipe, stage, self.steps, module, self._network)
        if self.progress.step:
            self._optimisation.load(self._parts, self.progress)
        self._module, self._optimiser = self.fabric.setup(module, self._optimisation.optimiser)
        module.train()
        self._started = time.monotonic() - 60 * self.progress.minutes
        self.shown, self._watch = '', LossWatch(stage.name)

    def step(self, batch: Batch) -> None:
        """Train on a batch; log, score and save when it is time to.

        Raises:
            DiffkdError: if a loss was not finite since the last report.
        """
        recipe, progress, fabric, stage = self.recipe, self.progress, self.fabric, self.stage
        assert stage is not None
        # A seed for each step: a resumed run repeats the draws of an uninterrupted one.
        torch.manual_seed(_seed(recipe.seed, self.stream, progress.step, fabric.global_rank))
        try:
            losses = self._optimise(batch)
        except RuntimeError:
            # Some operators refuse NaN: the loss of the step before may have been the first.
            self._watch.check()
            raise
        self._watch.add(progress.step, losses)
        # The losses stay on the device between reports: reading them waits for it.
        if progress.step % REPORT_EVERY == 0:
            values = {name: loss.item() for name, loss in losses.items()}
            fabric.log_dict({f'{stage.name}/{name}': loss for name, loss in values.items()}, progress.step)
            self.shown = f'loss {values["total"]:.3f}'
        progress.step += 1
        progress.minutes = (time.monotonic() - self._started) / 60
        last = progress.step == self.steps
        score, save = (progress.step % every == 0 for every in (recipe.validate_every, recipe.save_every))
        if last or score or save or progress.step % REPORT_EVERY == 0:
            self._watch.check()
        if score and not last:
            self._score(self._optimisation.average.module)
        if save and not last:
            self._save(self._optimisation.state(progress))

    def _optimise(self, batch: Batch) -> dict[str, Tensor]:
        """Change the weights by one step; the losses before it, and their weighted `total`."""
        weights = self.recipe.weights.model_dump()
        # Not Fabric's mixed precision, which converts inputs too: points would be rounded to 0.25 m.
        mixed = self.recipe.precision == 'bf16-mixed'
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=mixed):
            losses = self._module(batch)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self._optimiser.zero_grad()
        self.fabric.backward(total)
        nn.utils.clip_grad_norm_(self._optimisation.parameters, self.recipe.gradient_clip)
        self._optimiser.step()
        self._optimisation.advance()
        return {name: loss.detach() for name, loss in (*losses.items(), ('total', total))}

    def finish(self) -> None:
        """End the stage: its result is the average of the weights."""
        stage, progress = self.stage, self.progress
        assert stage is not None
        self._optimisation.apply_average()
        if self.fabric.world_size > 1:
            # Batch norm statistics differ between processes; all continue with those the first one saves.
            self._network.load_state_dict(self.fabric.broadcast(self._network.state_dict()))
        scores = self._score(self._network)
        minutes = round(progress.minutes, 1)
        done = {'name': stage.name, 'steps': self.steps, 'samples': self._samples(), 'minutes': minutes}
        progress.history.append(done)
        progress.step, progress.minutes = 0, 0.0
        progress.optimiser, progress.schedule = [], {}
        self.fabric.print(f'{self.recipe.name} after {stage.name} ({minutes} min): {_summary(scores)}')
        self._save({})

    def _samples(self) -> int:
        """Number of samples that the stage has seen."""
        return self.progress.step * self.recipe.data.batch * self.fabric.world_size

    def _save(self, parts: dict[str, checkpoint.Tensors]) -> None:
        if self.fabric.is_global_zero:
            networks = {'teacher': self.teacher.state_dict(), 'student': self.student.state_dict()}
            path = self.out / CHECKPOINT
            checkpoint.save_checkpoint(path, self.recipe, networks | parts, self.progress)
        self.fabric.barrier()

    def _score(self, network: nn.Module) -> Scores:
        """Score on held-out frames in the first process; the others wait and return no scores."""
        scores: Scores = {}
        stage = self.stage
        assert stage is not None
        if self.validation is not None:
            if isinstance(network, Teacher):
                scores = self.validation.teacher(network)
            else:
                assert isinstance(network, Student)
                scores = self.validation.student(network, restore=stage.name in ('joint', *LINK_STAGES))
            flat = {f'{stage.name}/{who}_{k}': v for who, row in scores.items() for k, v in row.items()}
            self.fabric.log_dict(flat, self.progress.step)
            point = {'stage': stage.name, 'samples': self._samples(), 'scores': scores}
            self.progress.curve.append(point)
            write_curve(self.out, self.progress.curve)
        self.fabric.barrier()
        return scores

    def result(self) -> Trained | None:
        """The trained student and its scores in the first process, None in the others."""
        if self.validation is None:
            return None
        if self.recipe.stages[-1].name == 'teacher':
            student = teacher_as_student(self.teacher, self.recipe.model)
        else:
            student = checkpoint.as_trained(self.student, self.progress.history)
        self.fabric.to_device(student)
        results = {
            'data': self.validation.description,
            **self.validation.teacher(self.teacher),
            **self.validation.student(student, restore=True),
            'largest_feature': self.validation.largest_feature(student),
        }
        return Trained(student.cpu(), self._record(), results)

    def _record(self) -> dict[str, Any]:
        recipe, data, fabric = self.recipe, self.recipe.data, self.fabric
        kinds = (source.kind for source in data.sources)
        accelerator = type(fabric.accelerator).__name__.removesuffix('Accelerator')
        return {
            'recipe': recipe.model_dump(mode='json', exclude_defaults=True, exclude={'description'}),
            'data': f"{', '.join(dict.fromkeys(kinds))}; sim is this package's simulator",
            'seeds': {
                'weights': recipe.seed,
                'train_scenarios': data.train_seed,
                'validation_scenarios': data.validation_seed,
            },
            'stages': self.progress.history,
            'machine': f'{platform.machine()}, {os.cpu_count()} CPU cores, {self.machine.threads} torch '
            f'threads, {fabric.world_size} process{"es" if fabric.world_size > 1 else ""} on {accelerator}',
            'torch': str(torch.__version__),
        }


def _summary(scores: Scores) -> str:
    return ', '.join(f'{who} AP@0.5 {row["ap50"]:.3f}' for who, row in scores.items())


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
