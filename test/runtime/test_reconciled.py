# SPDX-License-Identifier: Apache-2.0
"""What is published of boxes that the ego contradicts, misses or sees."""

from __future__ import annotations

import numpy as np
import pytest
from own_views import at, cars, said_by, view_of

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.decoding import Decoding
from diffkd_ros.runtime.plausibility.output import reconciled

LIMITS = Decoding(0.1, 0.2, 100)
EGO = view_of((10.0, 0.0), (-12.0, 4.0), hidden=[(0.0, 14.0)])
POSE = at(20.0, 6.0)
WIDE = Boxes3D(np.array([[10.0, 1.15, -1.0, 4.5, 4.2, 1.5, 0.0]]), scores=np.float32([0.99]))


def places(boxes):
    return sorted(map(tuple, boxes.boxes[:, :2].round(6).tolist()))


def test_what_the_ego_contradicts_is_left_out_however_many_say_it():
    ghost = cars((-20.0, -10.0))
    places_of = np.concatenate((cars((10.0, 0.0), (-12.0, 4.0)).boxes, ghost.boxes))
    fused = Boxes3D(places_of, scores=np.float32([0.9, 0.8, 0.95]))
    liars = [said_by(name, POSE, cars((-40.0, -16.0))) for name in ('one', 'two', 'three')]
    boxes, seen_by = reconciled(fused, EGO, liars, LIMITS)
    assert places(boxes) == [(-12.0, 4.0), (10.0, 0.0)]
    assert seen_by.tolist() == [1, 1]


def test_what_the_ego_does_not_see_is_published_with_who_does():
    fused = cars((0.0, 14.0))
    boxes, seen_by = reconciled(fused, view_of(hidden=[(0.0, 14.0)]), [said_by('cav_2', POSE, None)], LIMITS)
    assert (places(boxes), seen_by.tolist()) == ([(0.0, 14.0)], [0])
    neighbour = said_by('cav_2', POSE, cars((-20.0, 8.0)))
    assert reconciled(fused, view_of(hidden=[(0.0, 14.0)]), [neighbour], LIMITS)[1].tolist() == [1]


def test_what_the_ego_surely_sees_is_not_lost_or_moved():
    moved = cars((13.0, 0.0), (30.0, 10.0), score=0.99)
    boxes, _ = reconciled(moved, view_of((10.0, 0.0), hidden=[(30.0, 10.0)]), [], LIMITS)
    assert places(boxes) == [(10.0, 0.0), (30.0, 10.0)]


@pytest.mark.parametrize(
    ('hole', 'score', 'stays'),
    [
        (11.6, 0.9, True),
        (11.6, 0.4, False),  # a planner may not use it
        (12.6, 0.9, False),
    ],
)
def test_a_vehicle_of_few_returns_gives_way_to_a_sure_box(hole, score, stays):
    """With the first hole, 8 cells with returns remain on the car, with the other one 12."""
    few = view_of((10.0, 0.0), hidden=[(hole, 0.0)])
    moved = cars((12.8, 0.0), score=score)
    assert places(reconciled(moved, few, [], LIMITS)[0]) == [(12.8, 0.0) if stays else (10.0, 0.0)]
    assert places(reconciled(moved[:0], few, [], LIMITS)[0]) == [(10.0, 0.0)]


def test_a_box_that_is_replaced_hides_no_other_vehicle():
    """It lies over two cars, one of them with few returns."""
    two = view_of((10.0, 0.0), (10.0, 2.3), hidden=[(10.9, 5.0)])
    assert places(reconciled(WIDE, two, [], LIMITS)[0]) == [(10.0, 0.0), (10.0, 2.3)]


def test_one_box_is_not_two_vehicles():
    """Over two parked cars side by side, with an IoU of 0.45 with each of them."""
    two = view_of((10.0, 0.0), (10.0, 2.3))
    assert places(reconciled(WIDE, two, [], LIMITS)[0]) == [(10.0, 0.0), (10.0, 2.3)]
    # One box near both is one of them.
    one = cars((10.0, 0.6), score=0.99)
    assert len(reconciled(one, two, [], LIMITS)[0]) == 2


def test_a_small_correction_of_what_the_ego_sees_stays():
    corrected = cars((10.5, 0.2), (-12.0, 4.0))
    assert places(reconciled(corrected, EGO, [], LIMITS)[0]) == [(-12.0, 4.0), (10.5, 0.2)]
