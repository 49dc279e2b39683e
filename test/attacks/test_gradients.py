# SPDX-License-Identifier: Apache-2.0
"""Maps that are optimised through a student keep to the honest range and reach their goal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_checkpoint import untrained_checkpoint

from diffkd_ros.attacks.optimised import CheckpointOptimiser
from diffkd_ros.attacks.statement import Statement
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import ModelCard, ModelError, sha256
from diffkd_ros.runtime.decoding import boxes_at
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.training.checkpoint import CheckpointError, Progress, load_student, save_checkpoint
from diffkd_ros.training.validation import grid_of


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def statements(checkpoint) -> list[Statement]:
    """Of the ego, of the liar and of one more, with random maps."""
    rng = np.random.default_rng(0)
    config = load_student(checkpoint)[0].model
    shape = config.height, config.width

    def say(x: float) -> Statement:
        feature = rng.normal(size=(config.channels, *shape)).astype(np.float32)
        return Statement(
            BevFeature(feature, np.ones(shape, np.float32)), None, pose_from_euler([x, 1.0, 0.0])
        )

    return [say(0.0), say(4.0), say(-6.0)]


@pytest.fixture(scope='module')
def limits(statements):
    feature = statements[1].bev.feature
    ends = feature.min(axis=(1, 2), keepdims=True), feature.max(axis=(1, 2), keepdims=True)
    return tuple(np.broadcast_to(end, feature.shape).copy() for end in ends)


def outcome(checkpoint, statements, targets):
    """Mean score of the cells whose boxes overlap the targets, weighted by the overlap."""
    recipe, student = load_student(checkpoint)
    grid = grid_of(recipe)
    maps = torch.from_numpy(np.stack([each.bev.feature for each in statements]))
    density = torch.from_numpy(np.stack([each.bev.density for each in statements])[:, None])
    with torch.no_grad():
        warps = torch.from_numpy(grid_warps([each.pose for each in statements], grid))
        heatmap, regression, _ = student(maps, density, warps)
    row, column = np.indices((grid.height, grid.width)).reshape(2, -1)
    boxes = boxes_at(row, column, regression[0].numpy(), grid)
    score = torch.sigmoid(heatmap[0, 0]).numpy().ravel()
    overlap = bev_iou(boxes, targets).max(axis=1)
    return float((overlap * score).sum() / overlap.sum())


TARGETS = np.array([[5.0, 2.0, -1.0, 4.5, 2.0, 1.6, 0.2], [-8.0, -4.0, -1.0, 4.5, 2.0, 1.6, 1.0]])


@pytest.mark.parametrize(('goal', 'rises'), [('spoof', True), ('removal', False)])
def test_scores_at_the_targets_rise_or_fall(goal, rises, checkpoint, statements, limits):
    optimiser = CheckpointOptimiser(checkpoint, 'x')
    bev = optimiser(goal, statements, TARGETS, limits)
    lying = [statements[0], Statement(bev, None, statements[1].pose), statements[2]]
    before, after = (outcome(checkpoint, each, TARGETS) for each in (statements, lying))
    assert after > before + 0.1 if rises else after < before - 0.1
    assert (bev.feature >= limits[0]).all()
    assert (bev.feature <= limits[1]).all()
    assert (bev.feature != statements[1].bev.feature).any()
    again = optimiser(goal, statements, TARGETS, limits)
    np.testing.assert_array_equal(again.feature, bev.feature)


def test_a_checkpoint_of_other_maps_is_refused(checkpoint, shipped_model):
    with pytest.raises(ModelError, match='maps of'):
        CheckpointOptimiser.open(checkpoint, ModelCard.load(shipped_model))


def test_another_checkpoint_at_the_same_path_is_refused(checkpoint, tmp_path):
    optimiser = CheckpointOptimiser(checkpoint, sha256(checkpoint))
    optimiser.prepare()
    path = tmp_path / checkpoint.name
    optimiser = replace(optimiser, path=path)
    recipe, _ = load_student(checkpoint)
    history = [{'name': stage.name, 'steps': 1, 'samples': 1, 'minutes': 0.0} for stage in recipe.stages]
    save_checkpoint(path, recipe, {'student': Student(recipe.model).state_dict()}, Progress(history))
    with pytest.raises(ModelError, match='another checkpoint'):
        optimiser.prepare()
    path.unlink()
    with pytest.raises(CheckpointError):
        optimiser.prepare()
