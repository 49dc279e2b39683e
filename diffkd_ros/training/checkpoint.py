# SPDX-License-Identifier: Apache-2.0
"""Weights as safetensors, with the recipe inside."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffkd_ros.model.student import Student
from diffkd_ros.training.recipe import Recipe


class CheckpointError(RuntimeError):
    """A checkpoint that belongs to another recipe or model."""


def save_checkpoint(
    path: Path, recipe: Recipe, teacher: nn.Module, student: nn.Module, minutes: list[float]
) -> None:
    """Write both networks; `minutes` are those of the stages completed."""
    tensors = {f'teacher.{name}': tensor.contiguous() for name, tensor in teacher.state_dict().items()}
    tensors |= {f'student.{name}': tensor.contiguous() for name, tensor in student.state_dict().items()}
    save_file(tensors, path, metadata={'recipe': recipe.model_dump_json(), 'minutes': json.dumps(minutes)})


def load_student(path: Path) -> tuple[Recipe, Student]:
    """Read a checkpoint's recipe and its student, in evaluation mode.

    Raises:
        CheckpointError: if the file is no checkpoint of this version.
    """
    try:
        with safe_open(path, 'pt') as file:
            recipe = Recipe.model_validate_json(file.metadata()['recipe'])
        student = Student(recipe.model)
        _load(student, 'student.', load_file(path))
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f'{path} is not a checkpoint: {error}') from error
    return recipe, student.eval()


def _load(module: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    module.load_state_dict(
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    )


def load_checkpoint(path: Path, recipe: Recipe, teacher: nn.Module, student: nn.Module) -> list[float]:
    """Read both networks back and return the minutes of the stages completed.

    Raises:
        CheckpointError: if it was written by another recipe.
    """
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    if Recipe.model_validate_json(metadata['recipe']) != recipe:
        raise CheckpointError(f'{path} was written by another recipe; choose another output folder')
    tensors = load_file(path)
    _load(teacher, 'teacher.', tensors)
    _load(student, 'student.', tensors)
    return json.loads(metadata['minutes'])
