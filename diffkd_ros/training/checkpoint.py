# SPDX-License-Identifier: Apache-2.0
"""Weights as safetensors, with the recipe inside."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

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
    for prefix, module in (('teacher.', teacher), ('student.', student)):
        module.load_state_dict(
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        )
    return json.loads(metadata['minutes'])
