# SPDX-License-Identifier: Apache-2.0
"""Every loss term against a value calculated by hand."""

import math

import numpy as np
import pytest
import torch

from diffkd_ros.training.losses import (
    feature_loss,
    focal_loss,
    prediction_loss,
    regression_loss,
    reliability_loss,
    squared_distance,
    weighted_square,
)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_focal_loss_ignores_uncounted_cells_and_is_small_for_the_truth() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[0, 0, 2, 2] = 1
    wrong = torch.full((1, 1, 8, 8), -6.0)
    wrong[0, 0, 2, 2] = 6.0
    wrong[0, 0, 6, 6] = 6.0
    counted = torch.ones_like(target)
    assert focal_loss(wrong, target, counted) > 5
    counted[0, 0, 6, 6] = 0
    assert focal_loss(wrong, target, counted) < 0.01
    # By hand: one centre at p = 0.5 costs (1 - p)^2 * -log(p).
    half = torch.full((1, 1, 8, 8), -30.0)
    half[0, 0, 2, 2] = 0.0
    assert focal_loss(half, target, counted).item() == pytest.approx(0.25 * np.log(2), rel=1e-2)


def test_the_loss_of_a_false_centre_decreases_toward_a_true_one() -> None:
    target = torch.tensor([1.0, 0.8, 0.0]).view(1, 1, 1, 3)
    logits = torch.tensor([logit(0.9), logit(0.4), logit(0.3)]).view(1, 1, 1, 3)
    hit = 0.1**2 * -math.log(0.9)
    near = 0.4**2 * -math.log(0.6) * 0.2**4
    far = 0.3**2 * -math.log(0.7)
    loss = focal_loss(logits, target, torch.ones_like(target))
    assert loss.item() == pytest.approx(hit + near + far, rel=1e-5)


def test_a_frame_without_centres_does_not_divide_by_zero() -> None:
    loss = focal_loss(torch.full((1, 1, 1, 2), logit(0.5)), torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert loss.item() == pytest.approx(2 * 0.25 * math.log(2), rel=1e-5)
    assert regression_loss(torch.ones(1, 8, 1, 2), torch.zeros(1, 8, 1, 2), torch.zeros(1, 1, 1, 2)) == 0


def test_regression_is_smooth_l1_at_centres() -> None:
    predicted, target = torch.zeros(1, 8, 1, 3), torch.zeros(1, 8, 1, 3)
    predicted[0, 0, 0, 0] = 0.05  # within beta: 0.5 * 0.05^2 / beta
    predicted[0, 1, 0, 0] = 1.0  # beyond: 1 - beta / 2
    predicted[0, 2, 0, 2] = 100.0  # no centre
    where = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    expected = (0.5 * 0.05**2 * 9 + 1 - 0.5 / 9) / 2
    assert regression_loss(predicted, target, where).item() == pytest.approx(expected, rel=1e-5)


def test_weighted_square_is_a_mean_over_channels_and_weighted_cells() -> None:
    difference = torch.tensor([[1.0, 2.0], [3.0, 10.0]]).view(1, 2, 1, 2)
    weight = torch.tensor([5.0, 0.25]).view(1, 1, 1, 2)
    expected = (5 * (1 + 9) + 0.25 * (4 + 100)) / (2 * 5.25)
    assert weighted_square(difference, weight).item() == pytest.approx(expected)
    assert weighted_square(difference, torch.zeros_like(weight)) == 0


def test_feature_loss_weights_vehicles_more_than_background() -> None:
    fused = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)
    teacher = torch.tensor([1.0, 5.0]).view(1, 1, 1, 2)
    foreground = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    deviation = torch.full((1, 1, 1, 1), 2.0)
    # In deviations: 1 on the vehicle, 2 next to it.
    loss = feature_loss(fused, teacher, deviation, foreground)
    assert loss.item() == pytest.approx(1.0 + 0.1 * 4.0)


def test_prediction_loss_is_weighted_by_disagreement() -> None:
    ours, theirs = [0.4, 0.2], [0.9, 0.2]
    heatmap = torch.tensor([logit(p) for p in ours]).view(1, 1, 1, 2)
    teacher = torch.tensor([logit(p) for p in theirs]).view(1, 1, 1, 2)
    regression, wanted = torch.zeros(1, 8, 1, 2), torch.zeros(1, 8, 1, 2)
    regression[0, 0, 0, 0] = 1.0
    regression[0, 0, 0, 1] = 50.0  # the teacher is not confident there
    classification = 0.5 * -(0.9 * math.log(0.4) + 0.1 * math.log(0.6))
    loss = prediction_loss(heatmap, regression, teacher, wanted)
    assert loss.item() == pytest.approx(classification + 1 - 0.5 / 9, rel=1e-5)
    assert prediction_loss(teacher, wanted, teacher, wanted) == 0


def test_distance_from_the_teacher_is_in_its_deviations_and_without_gradient() -> None:
    feature = torch.tensor([2.0, 8.0]).view(1, 2, 1, 1).requires_grad_()
    deviation = torch.tensor([1.0, 4.0]).view(1, 2, 1, 1)
    distance = squared_distance(feature, torch.zeros(1, 2, 1, 1), deviation)
    assert distance.item() == pytest.approx((2.0**2 + 2.0**2) / 2)
    assert not distance.requires_grad


def test_the_target_of_reliability_is_an_exponential_of_the_distance() -> None:
    reliability = torch.tensor([0.7, 0.2, 0.5]).view(1, 1, 1, 3)
    distance, unit = torch.tensor([0.0, 3.0, 9.0]).view(1, 1, 1, 3), torch.tensor(1.5)
    weight = torch.tensor([1.0, 5.0, 0.0]).view(1, 1, 1, 3)
    wanted = [1.0, math.exp(-2.0)]
    expected = [
        -(t * math.log(r) + (1 - t) * math.log(1 - r)) for t, r in zip(wanted, (0.7, 0.2), strict=True)
    ]
    by_hand = (expected[0] + 5 * expected[1]) / 6
    assert reliability_loss(reliability, distance, unit, weight).item() == pytest.approx(by_hand, rel=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.isfinite(reliability_loss(reliability.bfloat16(), distance, unit, weight))
