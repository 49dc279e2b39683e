# SPDX-License-Identifier: Apache-2.0
"""Scores by distance and by visibility, by hand."""

import numpy as np
import pytest
from scored_frames import cars, coop_frame, found, random_results, returns

from diffkd_ros.frame import Boxes3D
from diffkd_ros.metrics.breakdown import (
    Visibility,
    by_distance,
    by_visibility,
    unobserved_false_alarms,
)
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.metrics.scoring import score_frame

SIM = protocol_named('sim')


def scored(**clouds: np.ndarray) -> FrameResults:
    """Truths at 5, 25, 45 and -45 m; found are the first and the third; false alarms at -10 and 48.5 m."""
    truth = Boxes3D(cars(5, 25, 45, -45))
    detections = found((-10, 0.9), (5, 0.8), (48.5, 0.7), (45, 0.6))
    return score_frame(coop_frame(truth, **clouds), detections, SIM)


def test_each_bin_has_its_own_truths_and_false_alarms() -> None:
    parts = by_distance(scored(), 0.5, edges=(0, 20, 40, 60))
    near, middle, far = parts.values()
    assert list(parts) == [(0, 20), (20, 40), (40, 60)]
    # False alarm, hit: the hit of the far truth plays no part.
    assert (near.average_precision, near.recall, near.truths, near.false_alarms) == (0.5, 1.0, 1, 1)
    assert (middle.average_precision, middle.recall, middle.truths, middle.false_alarms) == (0, 0, 1, 0)
    assert (far.average_precision, far.recall, far.truths, far.false_alarms) == (0.25, 0.5, 2, 1)


def test_a_hit_belongs_to_its_truths_bin() -> None:
    # The truth at 19.9 m is found from 20.5 m, across the edge.
    part = score_frame(coop_frame(Boxes3D(cars(19.9, 30))), found((20.5, 0.9), (30, 0.8)), SIM)
    near, far = by_distance(part, 0.5, edges=(0, 20, 40)).values()
    assert (near.average_precision, near.false_alarms) == (1.0, 0)
    assert (far.average_precision, far.false_alarms) == (1.0, 0)


def test_one_bin_for_all_is_the_whole() -> None:
    part = scored()
    (whole,) = by_distance(part, 0.5, edges=(0, 1e6)).values()
    assert whole.average_precision == pytest.approx(part.average_precision(0.5), abs=1e-12)
    drawn = random_results(np.random.default_rng(1), ['a', 'b'])
    (whole,) = by_distance(drawn, 0.7, edges=(0, 1)).values()
    assert whole.average_precision == pytest.approx(drawn.average_precision(0.7), abs=1e-12)
    assert whole.truths == drawn.counted_truths


def test_visibility_is_who_has_returns_after_corruption() -> None:
    seen = scored(
        ego=returns((5, 0, -1, 5), (25, 0, -1, 4), (48.5, 0, -1, 9)),
        other=returns((5, 0, -1, 9), (45, 0, -1, 5), (-45, 0, -1, 1)),
    )
    parts = by_visibility(seen, 0.5)
    assert {name: part.truths for name, part in parts.items()} == {
        Visibility.EGO: 1, Visibility.OTHERS: 1, Visibility.NONE: 2,
    }  # fmt: skip
    # Ego: hit 0.8, false alarm 0.7. Others: hit 0.6. None: two missed and the false alarm at -10 m.
    assert [part.average_precision for part in parts.values()] == [1.0, 1.0, 0.0]
    assert [part.recall for part in parts.values()] == [1.0, 1.0, 0.0]
    assert [part.false_alarms for part in parts.values()] == [1, 0, 1]
    blind = by_visibility(scored(), 0.5)
    assert blind[Visibility.NONE].truths == 4
    assert np.isnan(blind[Visibility.EGO].average_precision)
    assert np.isnan(blind[Visibility.EGO].recall)


def test_ignored_truths_are_in_no_part() -> None:
    truth = Boxes3D(cars(5, 25), num_points=[9, 1])
    part = score_frame(coop_frame(truth), found((25, 0.9), (5, 0.5)), SIM)
    (whole,) = by_distance(part, 0.5, edges=(0, 100)).values()
    assert (whole.average_precision, whole.truths, whole.false_alarms) == (1.0, 1, 0)


def test_false_alarms_on_unobserved_ground() -> None:
    # A return high above the one at 48.5 m, so that place is observed. None at -10 m.
    part = scored(other=returns((48.5, 0, 4, 1)))
    assert unobserved_false_alarms(part, 0.5) == 1.0
    calm = score_frame(coop_frame(Boxes3D(cars(5))), found((5, 0.9)), SIM)
    assert unobserved_false_alarms(join([part, calm]), 0.5) == 0.5
