# SPDX-License-Identifier: Apache-2.0
"""A training run on disk: one safetensors file with weights, optimiser state, recipe and progress."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diffkd_ros.errors import DiffkdError
from diffkd_ros.files import whole_file
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.finite import check_tensors
from diffkd_ros.training.recipe import RESTORING_STAGES, Recipe
from diffkd_ros.training.stages import teacher_as_student

CHECKPOINT = 'checkpoint.safetensors'
"""File name of the checkpoint in a run's folder."""

Tensors = dict[str, Tensor]


class CheckpointError(DiffkdError):
    """A file that is not a checkpoint, or a checkpoint of another recipe or model."""


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        history: name, steps, samples and minutes of every completed stage, those of an initial checkpoint
            first.
        step: completed steps of the current stage.
        minutes: time spent on the current stage.
        optimiser: hyperparameters of each parameter group; empty between stages.
        schedule: state of the learning rate schedule; empty between stages.
        curve: scores on held-out frames so far, see `training.curve`.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    minutes: float = 0.0
    optimiser: list[dict[str, Any]] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    path: Path, recipe: Recipe, parts: dict[str, dict[str, Tensor]], progress: Progress
) -> None:
    """Write a checkpoint. If the process is killed, the previous one stays.

    `parts` are state dictionaries by name: `teacher`, `student` and, within a stage, the optimiser's.

    Raises:
        DiffkdError: if a tensor is not finite, or the file cannot be written.
    """
    tensors = {
        f'{part}.{name}': tensor.detach().cpu().contiguous().clone()
        for part, state in parts.items()
        for name, tensor in state.items()
    }
    check_tensors(tensors, path)
    metadata = {'recipe': recipe.model_dump_json(), 'progress': json.dumps(asdict(progress))}
    with whole_file(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata))


def read_checkpoint(path: Path) -> tuple[Recipe, Progress, dict[str, Tensors]]:
    """Read a checkpoint's recipe, progress and state dictionaries.

    Raises:
        CheckpointError: if the file is not a checkpoint of this version.
    """
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata()
        recipe = Recipe.model_validate_json(metadata['recipe'])
        progress = Progress(**json.loads(metadata['progress']))
        tensors = load_file(path)
    except Exception as error:  # whatever the bytes lead to
        raise CheckpointError(f'{path} is not a checkpoint: {error}') from error
    parts: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition('.')
        parts.setdefault(part, {})[name] = tensor
    return recipe, progress, parts


def restore(module: nn.Module, part: Tensors, path: Path) -> None:
    """Load a complete state dictionary.

    Raises:
        CheckpointError: if its names or shapes are not the module's.
    """
    try:
        module.load_state_dict(part)
    except RuntimeError as error:
        raise CheckpointError(f'{path} holds another model: {error}') from error


def load_matching(module: nn.Module, part: Tensors) -> None:
    """Load the tensors that match by name and shape; the others of the module stay unchanged."""
    own = module.state_dict()
    module.load_state_dict(own | {k: t for k, t in part.items() if k in own and own[k].shape == t.shape})


def without_restoration(student: Tensors) -> Tensors:
    """A student's tensors without those of its restoration, but for the teacher's scale."""
    scale = 'restoration.mean', 'restoration.deviation'
    return {n: tensor for n, tensor in student.items() if n in scale or not n.startswith('restoration.')}


def load_student(path: Path) -> tuple[Recipe, Student]:
    """Load a checkpoint's recipe and its student, in evaluation mode.

    If only a teacher was trained, the student computes the same as the teacher; see also `as_trained`.

    Raises:
        CheckpointError: if the file is not a checkpoint of this version.
    """
    recipe, progress, parts = read_checkpoint(path)
    if not since_teacher(progress.history):
        teacher = Teacher(recipe.model)
        restore(teacher, parts['teacher'], path)
        return recipe, teacher_as_student(teacher, recipe.model).eval()
    student = Student(recipe.model)
    restore(student, parts['student'], path)
    return recipe, as_trained(student, progress.history).eval()


def since_teacher(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages that have trained the student: those after the last one that trained its teacher."""
    teachers = [place for place, stage in enumerate(history) if stage['name'] == 'teacher']
    return history[teachers[-1] + 1 :] if teachers else history


def as_trained(student: Student, history: list[dict[str, Any]]) -> Student:
    """Remove the student's restoration unless a stage has trained it: random weights would lower the scores.

    `history` is that of the run, as in `Progress`.
    """
    if any(stage['name'] in RESTORING_STAGES for stage in since_teacher(history)):
        return student
    return with_model(student, replace(student.config, restoration='none'))


def with_model(student: Student, config: StudentConfig) -> Student:
    """The same weights in a student of another configuration, such as another number of steps."""
    other = Student(config)
    load_matching(other, student.state_dict())
    return other.eval()
