# SPDX-License-Identifier: Apache-2.0
"""Evidence for and against what a neighbour says, in scenes made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from own_views import at, cars, said_by, view_of

from diffkd_ros.runtime.plausibility.evidence import Said, by_ego, by_others

# The neighbour stands at (20, 6) in the frame of the ego, where the ego sees a car.
EGO = view_of((10.0, 0.0), (-12.0, 4.0), (20.0, 6.0), hidden=[(35.0, 14.0)])
POSE = at(20.0, 6.0)
SHARED = (-10.0, -6.0)
"""The car at (10, 0) as the neighbour sees it."""


def test_an_honest_neighbour_has_nothing_against_it():
    said = said_by('cav_2', POSE, cars(SHARED, (15.0, 8.0)), view_of(SHARED, (15.0, 8.0), (-32.0, -2.0)))
    found = by_ego(EGO, said)
    # Two cars of its map, of which it sent one; the ego does not see the place of the other one that it sent.
    assert found.agreed == 2
    assert found.against['boxes where the ego sees none'] == 0
    assert found.against['vehicles missing that the ego sees'] == 0
    assert found.against['points as it is not seen in its place'] == 0


def test_invented_boxes_count_whether_they_are_sent_or_in_the_map():
    ghosts = [(-5.0, 4.0), (5.0, -14.0)]
    sent = by_ego(EGO, said_by('liar', POSE, cars(SHARED, *ghosts)))
    assert (sent.agreed, sent.points) == (1, 2)
    in_map = by_ego(EGO, said_by('liar', POSE, cars(SHARED), view_of(SHARED, (-32.0, -2.0), *ghosts)))
    assert in_map.against['boxes where the ego sees none'] == 2
    # Each is also a difference to what it sent, and so is the car behind the ego.
    assert in_map.against['differences between its boxes and its map'] == 3


def test_boxes_that_were_sent_and_are_not_in_the_map_differ():
    sent = cars(SHARED, (15.0, 8.0), (-20.0, 5.0))
    found = by_ego(EGO, said_by('liar', POSE, sent, view_of(SHARED)))
    assert found.against['differences between its boxes and its map'] == 2


def test_what_is_not_among_a_part_of_its_boxes_may_have_been_sent():
    view = view_of(SHARED, (-32.0, -2.0), (15.0, 8.0))
    whole = said_by('cav_2', POSE, cars(SHARED), view)
    part = replace(whole, partial=True)
    assert by_ego(EGO, whole).against['differences between its boxes and its map'] == 2
    assert by_ego(EGO, part).against['differences between its boxes and its map'] == 0
    # A box that was sent still has to be in the map.
    invented = replace(part, boxes=cars(SHARED, (-20.0, 5.0)))
    assert by_ego(EGO, invented).against['differences between its boxes and its map'] == 1


def test_a_sender_of_which_a_part_of_the_boxes_arrived_is_not_silent():
    ego = view_of((10.0, 0.0), (14.0, 8.0), (20.0, 6.0))
    returns = np.concatenate([view_of(SHARED, (-6.0, 2.0)).returns, [(0.0, 0.0, 0.0)]])
    said = Said('cav_2', POSE, cars(), returns)
    assert by_ego(ego, said).silent
    assert not by_ego(ego, replace(said, partial=True)).silent


def test_a_vehicle_elsewhere_in_the_map_is_one_difference():
    found = by_ego(EGO, said_by('cav_2', POSE, cars(SHARED, (-27.0, -2.0)), view_of(SHARED, (-32.0, -2.0))))
    assert found.against['differences between its boxes and its map'] == 1


def test_a_whole_map_has_no_boxes_to_differ_from():
    found = by_ego(EGO, said_by('cav_2', POSE, None, view_of(SHARED, (-32.0, -2.0))))
    assert (found.agreed, found.points) == (2, 0)


def test_vehicles_missing_from_the_map_count_where_it_has_returns():
    blind = view_of((-32.0, -2.0), hidden=[SHARED])
    assert (
        by_ego(EGO, said_by('cav_2', POSE, cars(), blind)).against['vehicles missing that the ego sees'] == 0
    )
    erased = by_ego(EGO, said_by('liar', POSE, cars(), view_of((-32.0, -2.0))))
    assert erased.against['vehicles missing that the ego sees'] == 1


@pytest.mark.parametrize(
    ('pose', 'points'),
    [
        (at(20.0, 6.0), 0),  # the ego sees a car there
        (at(0.0, -12.0), 2),  # the ego sees the road there
        (at(0.0, -12.0, 5.0), 0),  # on a mast
        (at(60.0, 0.0), 0),  # beyond the grid
    ],
)
def test_the_place_of_the_sender_is_looked_at(pose, points):
    assert by_ego(EGO, said_by('cav_2', pose, cars())).points == points


def test_two_others_contradict_in_their_own_frames():
    other = said_by('cav_3', at(-20.0, 0.0), cars(), view_of((15.0, 5.0)))
    third = said_by('cav_4', at(0.0, -10.0), cars(), view_of((-5.0, 15.0)))
    # (-5, 5) in the frame of the ego is (15, 5) and (-5, 15) for them; both see that car, and no other.
    said = said_by('cav_2', POSE, cars((-25.0, -1.0), (-25.0, -16.0)))
    assert by_others([other, third], said) == 1
    assert by_others([other], said) == 0
    assert by_others([other, said_by('cav_4', at(0.0, -10.0), cars())], said) == 0


def test_what_is_late_may_have_moved():
    """A car that drove 6 m in 0.3 s, and its sender that did."""
    said = cars((-4.0, -6.0))
    late = said_by('cav_2', at(20.0, 0.0), said, age=0.3)
    assert by_ego(EGO, said_by('cav_2', at(20.0, 0.0), said)).points == 3
    assert by_ego(EGO, late).points == 0


def test_a_pose_that_is_off_moves_all_boxes():
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    turned = POSE.copy()
    turned[:2, :2] = [[cos, -sin], [sin, cos]]
    seen = [SHARED, (-32.0, -2.0)]
    assert by_ego(EGO, said_by('cav_2', POSE, cars(*seen))).agreed == 2
    found = by_ego(EGO, said_by('cav_2', turned, cars(*seen)))
    assert (found.agreed, found.against['boxes where the ego sees none']) == (0, 2)


def test_a_neighbour_is_silent_that_sent_none_of_the_vehicles_that_both_see_well():
    ego = view_of((10.0, 0.0), (-12.0, 4.0))
    other = view_of((15.0, 12.0))
    assert by_ego(ego, said_by('liar', POSE, cars((15.0, 12.0)), other)).silent is True
    # One of them is enough.
    assert by_ego(ego, said_by('cav_2', POSE, cars(SHARED), other)).silent is False
    # Without returns there it need not know.
    assert by_ego(ego, said_by('cav_2', POSE, cars((15.0, 12.0)))).silent is None
    # Of a single one, it may be wrong.
    assert by_ego(view_of((10.0, 0.0)), said_by('cav_2', POSE, cars(), other)).silent is None
