# SPDX-License-Identifier: Apache-2.0
"""A recipe that trains in seconds: a small grid, small networks, a coarse LiDAR, few steps."""

from typing import Any

import torch

from diffkd_ros.model.modulation import LightweightGatedModulation
from diffkd_ros.model.student import Student
from diffkd_ros.training.data import Batch, training_batches
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.validation import grid_of

MODEL: dict[str, Any] = {
    'grid_range': (-25.6, -12.8, -3.0, 25.6, 12.8, 1.0),
    'stages': (8, 16, 16),
    'depth': 1,
    'channels': 8,
    'latent_channels': 8,
    'blocks': 1,
    'head_channels': 16,
    'key_channels': 8,
}
# Model of a layered message.
LINK: dict[str, Any] = {
    'link': True,
    'entries': 16,
    'coarse_entries': 8,
    'steps': 1,
    'start': 700,
    'vectors': 2,
    'context': ('mask', 'boxes', 'ego', 'others'),
}
# Of data with one frame of three agents in a batch.
ONE_FRAME: dict[str, Any] = {
    'drop_neighbours': 0,
    'batch': 1,
    'simulator': {'agents': 3, 'vehicles': (20, 20), 'lidar': {'columns': 256}},
}
WHOLE_MAPS = ('teacher', 'student', 'diffuser', 'joint')
SIMULATOR = {'agents': 2, 'vehicles': (20, 20), 'lidar': {'columns': 256}}
DATA: dict[str, Any] = {
    'simulator': SIMULATOR,
    'batch': 2,
    'workers': 0,
    'validation_scenarios': 1,
    'validation_frames': 1,
}


def small_recipe(*stages: str, steps: int = 2, **changes: Any) -> Recipe:
    """The recipe with these stages, `WHOLE_MAPS` by default; given sections override single keys."""
    sections = {'model': MODEL, 'data': DATA}
    changes = {key: sections[key] | value if key in sections else value for key, value in changes.items()}
    wanted = [{'name': name, 'steps': steps} for name in stages or WHOLE_MAPS]
    text = {'name': 'small', 'description': 'A few steps, for a test.', 'stages': wanted}
    return Recipe.model_validate(text | sections | changes)


def first_batch(recipe: Recipe) -> Batch:
    """One batch of the training data."""
    return next(iter(training_batches(recipe.data, grid_of(recipe), 1, range(1))))


def make_lively(student: Student) -> None:
    """Give the parts effects that they do not have before training."""
    student.restoration.mean.normal_()
    student.restoration.deviation.uniform_(0.5, 2)
    for block in student.modules():
        if isinstance(block, LightweightGatedModulation):
            torch.nn.init.normal_(block.scale, std=0.5)  # 0 at the start of training
    if student.sender is not None:
        codec = student.sender.codec
        codec.coarse_vectors[1:].normal_()
        codec.fine_vectors.normal_()
        codec.fine_vectors[0, 0] = 0
    context = student.restoration.context
    assert isinstance(context, torch.nn.Module)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
