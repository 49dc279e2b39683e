# SPDX-License-Identifier: Apache-2.0
"""The teacher in models/ can be used for training, and its maps are valid in any grid."""

import torch

from diffkd_ros.model.teacher import Teacher
from diffkd_ros.share import share_directory
from diffkd_ros.sources.simulator import SimulatorConfig
from diffkd_ros.training.checkpoint import CHECKPOINT, read_checkpoint, restore
from diffkd_ros.training.recipe import load_recipe
from diffkd_ros.training.validation import Validation

PATH = share_directory() / 'models' / 'sim_teacher' / CHECKPOINT


def test_it_is_the_teacher_of_the_model_that_ships() -> None:
    """A run of the first stages of its recipe, under another name."""
    recipe, progress, _ = read_checkpoint(PATH)
    whole = load_recipe(share_directory() / 'config' / 'train' / 'sim_edge.yaml')
    first = [stage for stage in whole.stages if stage.name == 'teacher']
    # Wherever its first checkpoint was.
    own = recipe.model_copy(update={'initial': None})
    assert own == whole.model_copy(update={'name': 'teacher', 'stages': first})
    assert progress.step == 0
    assert progress.history[-1]['name'] == 'teacher'


def test_it_detects_vehicles_on_the_egos_and_on_a_rotated_grid() -> None:
    recipe, _, parts = read_checkpoint(PATH)
    few = {
        'simulator': SimulatorConfig(),  # the world of version 0.1
        'augmentation': None,
        'validation_seed': 77,
        'validation_scenarios': 5,
        'validation_frames': 2,
    }
    recipe = recipe.model_copy(update={'data': recipe.data.model_copy(update=few)})
    teacher = Teacher(recipe.model)
    restore(teacher, parts['teacher'], PATH)
    scores = Validation(recipe, torch.device('cpu')).teacher(teacher)
    # The margin covers the variance of ten frames, not broken weights.
    assert scores['teacher']['ap50'] > 0.85
    assert scores['turned']['ap50'] > 0.85
