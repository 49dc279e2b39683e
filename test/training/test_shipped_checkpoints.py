# SPDX-License-Identifier: Apache-2.0
"""The checkpoints in models/ are of the model that ships and can be trained further."""

from pathlib import Path

import numpy as np
import torch

from diffkd_ros.export.graphs import EncoderGraph, SenderGraph
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.session import open_session
from diffkd_ros.share import share_directory
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.checkpoint import CHECKPOINT, load_student, read_checkpoint, restore
from diffkd_ros.training.recipe import load_recipe
from diffkd_ros.training.validation import Validation

TEACHER, STUDENT = (
    share_directory() / 'models' / name / CHECKPOINT for name in ('sim_teacher', 'sim_student')
)


def test_the_teacher_is_of_the_model_that_ships() -> None:
    """A run of the first stages of its recipe, under another name."""
    recipe, progress, _ = read_checkpoint(TEACHER)
    whole = load_recipe(share_directory() / 'config' / 'train' / 'sim_edge.yaml')
    first = [stage for stage in whole.stages if stage.name == 'teacher']
    # Wherever its first checkpoint was.
    own = recipe.model_copy(update={'initial': None})
    assert own == whole.model_copy(update={'name': 'teacher', 'stages': first})
    assert progress.step == 0
    assert progress.history[-1]['name'] == 'teacher'


def test_the_teacher_detects_vehicles_on_the_egos_and_on_a_rotated_grid() -> None:
    recipe, _, parts = read_checkpoint(TEACHER)
    few = {
        'simulator': SimulatorConfig(),  # the world of version 0.1
        'augmentation': None,
        'validation_seed': 77,
        'validation_scenarios': 5,
        'validation_frames': 2,
    }
    recipe = recipe.model_copy(update={'data': recipe.data.model_copy(update=few)})
    teacher = Teacher(recipe.model)
    restore(teacher, parts['teacher'], TEACHER)
    scores = Validation(recipe, torch.device('cpu')).teacher(teacher)
    # The margin covers the variance of ten frames, not broken weights.
    assert scores['teacher']['ap50'] > 0.85
    assert scores['turned']['ap50'] > 0.85


def test_the_student_is_the_model_that_ships(shipped_model: Path) -> None:
    """Its encoder and sender compute what the shipped graphs do, with the shipped codes."""
    card = ModelCard.load(shipped_model)
    _, student = load_student(STUDENT)
    frame = Simulator(SimulatorConfig(), 77).scenario(0).frame(0)
    points = frame.agents[frame.ego].points
    points = points[card.grid.contains(points)]
    feature, density = open_session(card.graph_path('encoder.onnx'), 1, 'cpu').run(None, {'points': points})
    sent = open_session(card.graph_path('sender.onnx'), 1, 'cpu').run(
        None, {'feature': feature, 'density': density}
    )
    with torch.no_grad():
        own = EncoderGraph(student)(torch.from_numpy(points))
        of_sender = SenderGraph(student)(*own)
    assert np.abs(own[0].numpy() - feature).max() < 1e-4
    assert np.abs(of_sender[0].numpy() - sent[0]).max() < 1e-3  # the heat map's logits
    scale, codec = student.restoration, student.sender.codec
    vectors = codec.fine_vectors[1:] * scale.deviation.flatten()
    assert np.array_equal(vectors.numpy(), LinkTables.load(card).fine_vectors[1:])


def test_both_have_the_same_teacher() -> None:
    (_, _, alone), (_, progress, parts) = read_checkpoint(TEACHER), read_checkpoint(STUDENT)
    assert alone['teacher'].keys() == parts['teacher'].keys()
    assert all(torch.equal(alone['teacher'][name], tensor) for name, tensor in parts['teacher'].items())
    assert [stage['name'] for stage in progress.history[-3:]] == ['teacher', 'student', 'link']
