# SPDX-License-Identifier: Apache-2.0
"""Average precision against precision-recall curves worked out by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkd_ros.frame import Boxes3D
from diffkd_ros.metrics.average_precision import (
    AveragePrecision,
    EvaluationError,
    average_precision,
    match,
)


def cars(*places: float) -> np.ndarray:
    """Cars of 4 x 2 m along the x axis; moved by d metres along x their IoU is (4 - d) / (4 + d)."""
    boxes = np.tile([0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0], (len(places), 1))
    boxes[:, 0] = places
    return boxes


def truth(*places: float, num_points: list[int] | None = None) -> Boxes3D:
    return Boxes3D(cars(*places), num_points=num_points)


def detections(*placed: tuple[float, float]) -> Boxes3D:
    return Boxes3D(cars(*(x for x, _ in placed)), scores=[score for _, score in placed])


NOTHING = Boxes3D(np.zeros((0, 7)))


def ap(*frames: tuple[Boxes3D, Boxes3D], threshold: float = 0.5) -> float:
    metric = AveragePrecision([threshold])
    for found, there in frames:
        metric.add(found, there)
    return metric.compute()[threshold]


def test_one_frame_by_hand() -> None:
    # Hit, false alarm, hit, false alarm, hit: precision 1, 1/2, 2/3, 1/2, 3/5.
    # The envelope at recall 1/3, 2/3 and 1: 1, then 2/3, then 3/5.
    found = detections((0, 0.9), (50, 0.8), (10, 0.7), (60, 0.6), (20, 0.5))
    assert ap((found, truth(0, 10, 20))) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3, abs=1e-9)


def test_scores_are_sorted_over_all_frames_at_once() -> None:
    # Frame 1: false alarm 0.9, hit 0.4. Frame 2: hit 0.8, hit 0.3. One truth is never found.
    # Globally: FP, TP, TP, TP: precision 0, 1/2, 2/3, 3/4; the envelope is 3/4 all along.
    first = detections((0, 0.4), (50, 0.9)), truth(0, 20)
    second = detections((0, 0.3), (10, 0.8)), truth(0, 10)
    expected = 3 / 4 * 3 / 4
    assert ap(first, second) == pytest.approx(expected, abs=1e-9)
    assert ap(second, first) == pytest.approx(expected, abs=1e-9)


def test_each_threshold_has_its_own_curve() -> None:
    # Moved by 1 m: IoU 0.6. Moved by 2 m: IoU 1/3.
    metric = AveragePrecision()
    metric.add(detections((0, 0.9), (11, 0.8), (22, 0.7)), truth(0, 10, 20))
    result = metric.compute()
    assert result[0.3] == pytest.approx(1.0, abs=1e-9)
    assert result[0.5] == pytest.approx(2 / 3, abs=1e-9)
    assert result[0.7] == pytest.approx(1 / 3, abs=1e-9)


def test_second_detection_of_one_car_is_a_false_alarm() -> None:
    # Precision 1, 1/2, 2/3: the envelope is 1, then 2/3.
    found = detections((0, 0.9), (0.1, 0.8), (10, 0.7))
    assert ap((found, truth(0, 10))) == pytest.approx((1 + 2 / 3) / 2, abs=1e-9)
    assert match(found, truth(0, 10), 0.5).false_alarm.tolist() == [False, True, False]


def test_the_better_score_chooses_first_and_takes_the_best_overlap() -> None:
    # The better score sits between both truths, nearer to the second, and takes it; the other gets the first.
    found = detections((0.3, 0.5), (0.9, 0.9))
    assert match(found, truth(0, 1.5), 0.5).truth_index.tolist() == [0, 1]
    # Without a free truth left that overlaps enough, the second is a false alarm.
    assert match(found, truth(0.9), 0.5).truth_index.tolist() == [-1, 0]


def test_overlap_equal_to_the_threshold_is_a_hit() -> None:
    assert match(detections((0, 0.5)), Boxes3D([[0, 0, 0, 4, 1, 1.5, 0]]), 0.5).hit.tolist() == [True]


def test_cars_with_few_returns_are_neither_hit_nor_miss() -> None:
    there = truth(0, 10, 20, num_points=[5, 4, 0])
    # Two detections on an ignored car: both vanish. The unseen ignored car costs nothing.
    found = detections((10, 0.9), (10.2, 0.8), (0, 0.7))
    assert ap((found, there)) == pytest.approx(1.0, abs=1e-9)
    matching = match(found, there, 0.5)
    assert matching.dropped.tolist() == [True, True, False]
    assert matching.hit.tolist() == [False, False, True]
    assert not matching.false_alarm.any()
    assert not matching.missed.any()


def test_a_counted_car_goes_before_an_ignored_one() -> None:
    # The detection overlaps the ignored car more (IoU 0.9) yet also finds the counted one (IoU 0.6).
    there = truth(0.2, 1.0, num_points=[0, 50])
    matching = match(detections((0.0, 0.9)), there, 0.5)
    assert matching.truth_index.tolist() == [1]
    # A second detection there may then still be dropped on the ignored one.
    assert match(detections((0.0, 0.9), (0.1, 0.8)), there, 0.5).dropped.tolist() == [False, True]


def test_min_points_is_a_setting() -> None:
    there = truth(0, 10, num_points=[3, 2])
    metric = AveragePrecision([0.5], min_points=3)
    metric.add(detections((0, 0.9)), there)
    assert metric.compute() == {0.5: 1.0}
    assert (metric.frames, metric.truths) == (1, 1)


def test_frames_without_boxes() -> None:
    assert ap((NOTHING, truth(0, 10))) == 0.0
    # A false alarm of high score in an otherwise empty frame halves the precision of the only hit.
    assert ap((detections((0, 0.9)), NOTHING), (detections((0, 0.5)), truth(0))) == pytest.approx(
        0.5, abs=1e-9
    )
    assert ap((NOTHING, NOTHING), (detections((0, 0.5)), truth(0))) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    'frames',
    [
        [],
        [(NOTHING, NOTHING)],
        [(detections((0, 0.9)), NOTHING)],
        [(detections((0, 0.9)), truth(0, num_points=[1]))],
    ],
)
def test_with_nothing_to_find_there_is_no_figure(frames: list) -> None:
    assert np.isnan(ap(*frames))


def test_missed_cars_are_known_by_index() -> None:
    matching = match(detections((10, 0.9), (40, 0.2)), truth(0, 10, 20, num_points=[9, 9, 1]), 0.5)
    assert matching.missed.tolist() == [True, False, False]
    assert matching.counted.tolist() == [True, True, False]
    assert matching.false_alarm.tolist() == [False, True]


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 3))
def test_area_is_the_integral_of_the_best_precision_at_or_beyond_each_recall(
    hits: list[bool], missed: int
) -> None:
    truths = sum(hits) + missed
    area = average_precision(np.zeros(len(hits)), np.array(hits, bool), truths)
    if truths == 0:
        assert np.isnan(area)
        return
    curve = [
        (Fraction(sum(hits[: k + 1]), truths), Fraction(sum(hits[: k + 1]), k + 1)) for k in range(len(hits))
    ]
    steps = (
        max((precision for recall, precision in curve if recall >= Fraction(j, truths)), default=Fraction(0))
        for j in range(1, truths + 1)
    )
    assert area == pytest.approx(float(sum(steps) / truths), abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_ap_depends_on_the_order_of_scores_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 60, 12)
    scores = rng.permutation(np.linspace(0.1, 0.9, 12))
    there = truth(*rng.uniform(0, 60, 8))
    found = Boxes3D(cars(*places), scores=scores)
    shuffled = rng.permutation(12)
    reference = ap((found, there), threshold=0.3)
    assert ap((found[shuffled], there), threshold=0.3) == pytest.approx(reference, abs=1e-12)
    assert ap((Boxes3D(cars(*places), scores=scores**3), there), threshold=0.3) == pytest.approx(reference)
    assert 0.0 <= reference <= 1.0


def test_a_refused_frame_leaves_no_trace() -> None:
    metric = AveragePrecision([0.5])
    with pytest.raises(EvaluationError, match='1 detections came without scores'):
        metric.add(truth(0), truth(0))
    with pytest.raises(EvaluationError, match='NaN'):
        metric.add(detections((0, float('nan'))), truth(0))
    assert (metric.frames, metric.truths) == (0, 0)
    metric.add(detections((0, 0.5)), truth(0))
    assert metric.compute() == {0.5: 1.0}


@pytest.mark.parametrize('thresholds', [(), (0.5, 0.5), (0.0,), (1.2,), (float('nan'),)])
def test_bad_thresholds_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(EvaluationError, match='IoU threshold'):
        AveragePrecision(thresholds)
