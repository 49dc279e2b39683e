# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a small student, as of a training, whose scores vary."""

from pathlib import Path

import torch
from small_recipe import small_recipe

from diffkd_ros.model.student import Student
from diffkd_ros.training.checkpoint import CHECKPOINT, Progress, save_checkpoint


def untrained_checkpoint(folder: Path) -> Path:
    """Write a checkpoint and return its path."""
    stages = ('teacher', 'student')
    recipe = small_recipe(*stages)
    torch.manual_seed(1)
    student = Student(recipe.model)
    for layer in (student.head.heatmap, student.head.regression):
        # Small at the start of training, so that nothing would be found.
        layer.weight.data *= 20
    student.head.heatmap.bias.data.zero_()
    path = folder / CHECKPOINT
    history = [{'name': name, 'steps': 1, 'samples': 1, 'minutes': 0.0} for name in stages]
    save_checkpoint(path, recipe, {'student': student.state_dict()}, Progress(history))
    return path
