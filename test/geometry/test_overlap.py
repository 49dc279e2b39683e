# SPDX-License-Identifier: Apache-2.0
"""IoU and suppression against hand-made cases and shapely."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate, translate

from diffkd_ros.frame import FrameError
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.overlap import bev_iou, nms
from diffkd_ros.geometry.poses import pose_from_euler


def box(x: float, y: float, length: float, width: float, yaw: float = 0.0) -> list[float]:
    return [x, y, 0.0, length, width, 1.5, yaw]


def random_boxes(rng: np.random.Generator, n: int, span: float = 8.0) -> np.ndarray:
    centre = rng.uniform(-span, span, (n, 3))
    return np.column_stack([centre, rng.uniform(0.3, 9, (n, 3)), rng.uniform(-7, 7, n)])


def polygon(row: np.ndarray) -> shapely.Polygon:
    """The rectangle as shapely turns and moves it, sharing no code with the package's corners."""
    x, y, _, length, width, _, yaw = row
    upright = shapely.box(-length / 2, -width / 2, length / 2, width / 2)
    return translate(rotate(upright, yaw, origin=(0, 0), use_radians=True), x, y)


def shapely_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    p = np.array([polygon(row) for row in a])[:, None]
    q = np.array([polygon(row) for row in b])[None]
    return shapely.area(shapely.intersection(p, q)) / shapely.area(shapely.union(p, q))


@pytest.mark.parametrize(
    ('a', 'b', 'expected'),
    [
        (box(0, 0, 4, 2), box(0, 0, 4, 2), 1.0),
        (box(3, -1, 4, 2, 0.3), box(3, -1, 4, 2, 0.3 + np.pi), 1.0),
        (box(0, 0, 4, 2), box(0, 0, 2, 4, np.pi / 2), 1.0),
        (box(0, 0, 4, 2), box(2, 0, 4, 2), 1 / 3),
        (box(0, 0, 4, 2), box(2, 1, 4, 2), 2 / 14),
        (box(0, 0, 4, 2), box(4, 0, 4, 2), 0.0),  # edge on edge
        (box(0, 0, 4, 2), box(4, 2, 4, 2), 0.0),  # corner on corner
        (box(0, 0, 4, 2), box(30, 0, 4, 2), 0.0),
        (box(0, 0, 4, 2), box(0.5, 0.2, 1, 1, 0.0), 1 / 8),  # one inside the other
        (box(0, 0, 4, 4), box(0, 0, 1, 1, 0.6), 1 / 16),
        (box(0, 0, 4, 2), box(0, 0, 4, 2, np.pi / 2), 4 / 12),  # a cross
        # A unit square and itself turned by 45 degrees share a regular octagon of area 2 (sqrt 2 - 1).
        (box(0, 0, 1, 1), box(0, 0, 1, 1, np.pi / 4), (2**1.5 - 2) / (4 - 2**1.5)),
        (box(0, 0, 0, 2), box(0, 0, 4, 2), 0.0),
        (box(0, 0, 0, 0), box(0, 0, 0, 0), 0.0),
        (box(0, 0, 4, -2), box(0, 0, 4, 2), 0.0),
        (box(0, 0, 1e-200, 1e-200), box(0, 0, 1e-200, 1e-200), 0.0),
    ],
)
def test_iou_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert bev_iou([a], [b]) == pytest.approx(expected, abs=1e-12)
    assert bev_iou([b], [a]) == pytest.approx(expected, abs=1e-12)


def test_iou_agrees_with_shapely() -> None:
    rng = np.random.default_rng(3)
    a, b = random_boxes(rng, 80), random_boxes(rng, 90)
    iou = bev_iou(a, b)
    assert (iou > 0).mean() > 0.2
    np.testing.assert_allclose(iou, shapely_iou(a, b), atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), st.floats(-10, 10))
def test_iou_is_symmetric_and_invariant_to_rigid_motion(seed: int, x: float, y: float, yaw: float) -> None:
    boxes = random_boxes(np.random.default_rng(seed), 12, span=5.0)
    iou = bev_iou(boxes, boxes)
    np.testing.assert_allclose(iou, iou.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(iou), 1.0, atol=1e-12)
    assert iou.min() >= 0.0
    assert iou.max() <= 1.0
    moved = transform_boxes(pose_from_euler((x, y, 4.0), yaw=yaw), boxes)
    np.testing.assert_allclose(bev_iou(moved, moved), iou, atol=1e-8)


def test_empty_inputs_give_empty_results() -> None:
    none = np.zeros((0, 7))
    assert bev_iou(none, [box(0, 0, 4, 2)]).shape == (0, 1)
    assert bev_iou([box(0, 0, 4, 2)], none).shape == (1, 0)
    assert nms(none, [], 0.2).tolist() == []


def test_nms_keeps_the_best_of_a_cluster_by_descending_score() -> None:
    boxes = [box(0, 0, 4, 2), box(20, 0, 4, 2), box(0.3, 0, 4, 2), box(20, 0.1, 4, 2), box(-20, 0, 4, 2)]
    assert nms(boxes, [0.5, 0.6, 0.9, 0.3, 0.7], 0.15).tolist() == [2, 4, 1]


def test_a_suppressed_box_does_not_suppress_others() -> None:
    # Each overlaps its neighbour by a third; the middle one falls to the first, so the last stays.
    chain = [box(0, 0, 4, 2), box(2, 0, 4, 2), box(4, 0, 4, 2)]
    assert nms(chain, [0.9, 0.8, 0.7], 0.2).tolist() == [0, 2]


def test_nms_drops_only_above_the_threshold() -> None:
    pair = [box(0, 0, 4, 2), box(0, 0, 4, 1)]
    assert nms(pair, [0.9, 0.8], 0.5).tolist() == [0, 1]
    assert nms(pair, [0.9, 0.8], 0.499).tolist() == [0]


def test_of_equal_scores_the_first_is_kept() -> None:
    boxes = [box(0, 0, 4, 2), box(0.1, 0, 4, 2), box(30, 0, 4, 2), box(-30, 0, 4, 2)]
    assert nms(boxes, [0.5, 0.5, 0.5, 0.5], 0.2).tolist() == [0, 2, 3]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.15, 0.5]))
def test_nms_against_a_plain_loop_over_shapely(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, 25, span=12.0), rng.random(25)
    overlap = shapely_iou(boxes, boxes)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(overlap[i, k] <= threshold + 1e-12 for k in kept):
            kept.append(int(i))
    assert nms(boxes, scores, threshold).tolist() == kept


@pytest.mark.parametrize(
    ('boxes', 'scores', 'threshold', 'message'),
    [
        ([box(0, 0, np.nan, 2)], [0.5], 0.2, 'NaN or infinity, first in row 0'),
        ([box(0, 0, 4, 2)], [np.nan], 0.2, 'scores hold NaN or infinity, first at 0'),
        ([box(0, 0, 4, 2)], [0.5, 0.5], 0.2, r'scores must be \(1,\), got \(2,\)'),
        ([box(0, 0, 4, 2)], [0.5], np.nan, 'iou_threshold must be in'),
        ([[0.0, 0.0]], [0.5], 0.2, r'boxes must be \(n, 7\), got \(1, 2\)'),
    ],
)
def test_nms_refuses_invalid_input(boxes: list, scores: list, threshold: float, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        nms(boxes, scores, threshold)


def test_iou_refuses_nan_and_says_on_which_side() -> None:
    with pytest.raises(FrameError, match='b hold NaN'):
        bev_iou([box(0, 0, 4, 2)], [box(0, 0, 4, 2, np.nan)])
