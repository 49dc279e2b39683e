# SPDX-License-Identifier: Apache-2.0
"""Whether a vehicle can be where another one says it is."""

from __future__ import annotations

import pytest
from own_views import cars, view_of

from diffkd_ros.runtime.plausibility.view import cells_on

SEEN = view_of((10.0, 0.0), hidden=[(-15.0, 5.0)])


@pytest.mark.parametrize(
    ('place', 'contradicted'),
    [
        ((10.0, 0.0), False),  # seen there
        ((11.5, 0.6), False),  # a vehicle is seen next to it: an error of the position
        ((20.0, 8.0), True),  # the ground is seen
        ((-15.0, 5.0), False),  # nothing is seen
        ((1.0, 0.5), False),  # the own vehicle
        ((55.0, 0.0), False),  # outside the grid
    ],
)
def test_a_box_is_contradicted_where_the_ground_is_seen(place, contradicted):
    assert SEEN.contradicts(cars(place).boxes).tolist() == [contradicted]


def test_a_few_returns_are_not_enough():
    """Of 15 cells around this box, two rows have returns."""
    box = cars((20.0, 8.0)).boxes
    on_it = int(cells_on(box, SEEN.returns)[0])
    assert on_it >= 10
    assert SEEN.contradicts(box, on_it).tolist() == [True]
    assert SEEN.contradicts(box, on_it + 1).tolist() == [False]


def test_no_boxes():
    assert SEEN.contradicts(cars().boxes).shape == (0,)
