# SPDX-License-Identifier: Apache-2.0
"""A training run on disk: weights and optimiser as safetensors, recipe and progress inside."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffkd_ros.errors import DiffkdError
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.stages import lone_student

CHECKPOINT = 'checkpoint.safetensors'
"""What a run's checkpoint is called in its folder."""

Tensors = dict[str, Tensor]


class CheckpointError(DiffkdError):
    """A checkpoint that is none, or that belongs to another recipe or model."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        history: name, steps and minutes of every stage completed, those of an initial checkpoint first.
        step: steps done of the stage under way.
        minutes: spent on it.
        optimiser: hyperparameters of each of the optimiser's groups, if a stage is under way.
        schedule: state of the learning rate's schedule, likewise.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    minutes: float = 0.0
    optimiser: list[dict[str, Any]] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path, recipe: Recipe, parts: dict[str, dict[str, Tensor]], progress: Progress
) -> None:
    """Write a checkpoint; a process killed meanwhile leaves the one before.

    Args:
        path: file to write.
        recipe: of the run.
        parts: state dictionaries by name: `teacher`, `student`, and more while a stage is under way.
        progress: to go on from.
    """
    tensors = {
        f'{part}.{name}': tensor.detach().cpu().contiguous().clone()
        for part, state in parts.items()
        for name, tensor in state.items()
    }
    metadata = {'recipe': recipe.model_dump_json(), 'progress': json.dumps(asdict(progress))}
    partial = path.with_suffix('.partial')
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)


def read_checkpoint(path: Path) -> tuple[Recipe, Progress, dict[str, Tensors]]:
    """Read a checkpoint's recipe, progress and state dictionaries.

    Raises:
        CheckpointError: if the file is no checkpoint of this version.
    """
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata()
        recipe = Recipe.model_validate_json(metadata['recipe'])
        progress = Progress(**json.loads(metadata['progress']))
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f'{path} is not a checkpoint: {error}') from error
    parts: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition('.')
        parts.setdefault(part, {})[name] = tensor
    return recipe, progress, parts


def restore(module: nn.Module, part: Tensors, path: Path) -> None:
    """Load a whole state dictionary.

    Raises:
        CheckpointError: if it is not this module's.
    """
    try:
        module.load_state_dict(part)
    except RuntimeError as error:
        raise CheckpointError(f'{path} holds another model: {error}') from error


def adopt(module: nn.Module, part: Tensors) -> None:
    """Load what fits by name and shape; the rest of the module stays as it is."""
    own = module.state_dict()
    module.load_state_dict(own | {k: t for k, t in part.items() if k in own and own[k].shape == t.shape})


def load_student(path: Path) -> tuple[Recipe, Student]:
    """A checkpoint's recipe and its student, in evaluation mode.

    If no more than a teacher was trained, the student computes the same; see also `as_trained`.

    Raises:
        CheckpointError: if the file is no checkpoint of this version.
    """
    recipe, progress, parts = read_checkpoint(path)
    if all(stage['name'] == 'teacher' for stage in progress.history):
        teacher = Teacher(recipe.model)
        restore(teacher, parts['teacher'], path)
        return recipe, lone_student(teacher, recipe.model).eval()
    student = Student(recipe.model)
    restore(student, parts['student'], path)
    return recipe, as_trained(student, progress.history).eval()


def as_trained(student: Student, history: list[dict[str, Any]]) -> Student:
    """A student without its restoration, if no stage has trained that yet: drawn at random, it does harm.

    Args:
        student: as a run has left it.
        history: of the run, as in `Progress`.
    """
    if any(stage['name'] in ('diffuser', 'joint') for stage in history):
        return student
    return with_model(student, replace(student.config, restoration='none'))


def with_model(student: Student, config: StudentConfig) -> Student:
    """The same weights in a student of other settings, such as another number of steps."""
    other = Student(config)
    adopt(other, student.state_dict())
    return other.eval()
