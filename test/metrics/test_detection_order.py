# SPDX-License-Identifier: Apache-2.0
"""The two published orders of detections: a global sort, and frame after frame."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_frames import cars, found

from diffkd_ros.frame import Boxes3D
from diffkd_ros.metrics.average_precision import AveragePrecision, DetectionOrder, average_precision


def ap(order: DetectionOrder, *frames: tuple[Boxes3D, Boxes3D]) -> float:
    metric = AveragePrecision([0.5], order=order)
    for detections, truth in frames:
        metric.add(detections, truth)
    return metric.compute()[0.5]


# Frame 1: false alarm 0.9, hit 0.4. Frame 2: hit 0.8, hit 0.3. One of the four truths is never found.
FIRST = found((0, 0.4), (50, 0.9)), Boxes3D(cars(0, 20))
SECOND = found((0, 0.3), (10, 0.8)), Boxes3D(cars(0, 10))


def test_a_hand_case_where_the_orders_differ() -> None:
    # Globally FP, TP (0.8), TP (0.4), TP (0.3): precision 0, 1/2, 2/3, 3/4: the envelope is 3/4 at 3 recalls.
    assert ap(DetectionOrder.GLOBAL, FIRST, SECOND) == pytest.approx(9 / 16, abs=1e-9)
    # Frame after frame FP, TP, TP, TP: by chance the same here ...
    assert ap(DetectionOrder.PER_FRAME, FIRST, SECOND) == pytest.approx(9 / 16, abs=1e-9)
    # ... but with the frames exchanged TP, TP, FP, TP: precision 1, 1, 2/3, 3/4.
    assert ap(DetectionOrder.PER_FRAME, SECOND, FIRST) == pytest.approx((1 + 1 + 3 / 4) / 4, abs=1e-9)
    assert ap(DetectionOrder.GLOBAL, SECOND, FIRST) == pytest.approx(9 / 16, abs=1e-9)


def test_per_frame_detections_of_a_frame_are_sorted_however_they_came() -> None:
    detections, truth = SECOND
    swapped = detections[np.array([1, 0])], truth
    with_alarm = found((40, 0.1), (0, 0.6)), Boxes3D(cars(0))
    for frames in ([SECOND, with_alarm], [swapped, with_alarm]):
        # TP, TP, TP, FP.
        assert ap(DetectionOrder.PER_FRAME, *frames) == pytest.approx(1.0, abs=1e-9)


def test_per_frame_with_empty_frames() -> None:
    nothing = Boxes3D(np.zeros((0, 7)))
    assert ap(DetectionOrder.PER_FRAME, (nothing, nothing), SECOND, (nothing, Boxes3D(cars(0)))) == (
        pytest.approx(2 / 3, abs=1e-9)
    )
    assert np.isnan(ap(DetectionOrder.PER_FRAME, (found((0, 0.9)), nothing)))
    assert ap(DetectionOrder.PER_FRAME, (nothing, Boxes3D(cars(0)))) == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), st.integers(0, 3))
def test_the_curve_is_built_in_the_order_named(rows: list[tuple[int, bool]], missed: int) -> None:
    scores = np.array([score for score, _ in rows], float)
    hits = np.array([hit for _, hit in rows], bool)
    truths = int(hits.sum()) + missed
    for order in DetectionOrder:
        stated = rows if order is DetectionOrder.PER_FRAME else sorted(rows, key=lambda row: -row[0])
        curve = [Fraction(sum(hit for _, hit in stated[: k + 1]), k + 1) for k in range(len(stated))]
        area = sum((max(curve[k:]) for k in range(len(stated)) if stated[k][1]), Fraction(0))
        value = average_precision(scores, hits, truths, order)
        if truths:
            assert value == pytest.approx(float(area / truths), abs=1e-12)
        else:
            assert np.isnan(value)
