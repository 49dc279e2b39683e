# SPDX-License-Identifier: Apache-2.0
"""Boxes on the link and as maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.runtime.codec import PayloadError
from diffkd_ros.runtime.decoding import Decoding, decode_boxes
from diffkd_ros.runtime.link.boxes import BOX_BYTES, boxes_from_bytes, boxes_to_bytes, draw_boxes

GRID = BevGrid(-51.2, -25.6, -3, 51.2, 25.6, 1, 64, 128)


def through(rows, scores):
    data = boxes_to_bytes(Boxes3D(rows, scores=np.asarray(scores, np.float32)))
    return data, boxes_from_bytes(data)


def test_a_box_is_these_twelve_bytes():
    # -12.34 m = -1234 cm, 4.5 m = 45 dm, 1.8 m = 90 x 2 cm, 1.5 m = 75 x 2 cm, -90 degrees = -2^14.
    data, boxes = through([[-12.34, 5.67, -1.0, 4.5, 1.8, 1.5, -np.pi / 2]], [0.8])
    assert data == bytes.fromhex('2efb37029cff2d5a4b00c0cc')
    np.testing.assert_allclose(boxes.boxes, [[-12.34, 5.67, -1.0, 4.5, 1.8, 1.5, -np.pi / 2]], atol=1e-9)
    assert boxes.scores[0] == pytest.approx(0.8)


@settings(max_examples=200, deadline=None)
@given(
    centre=st.tuples(*[st.floats(-327, 327)] * 3),
    size=st.tuples(st.floats(0.1, 25.5), st.floats(0.02, 5.1), st.floats(0.02, 5.1)),
    yaw=st.floats(-10, 10),
    score=st.floats(0, 1),
)
def test_rounding_errors_are_at_most_half_a_step(centre, size, yaw, score):
    _, boxes = through([[*centre, *size, yaw]], [score])
    (row,) = boxes.boxes
    assert np.abs(row[:3] - centre).max() <= 0.005 + 1e-9
    assert (np.abs(row[3:6] - size) <= np.array([0.05, 0.01, 0.01]) + 1e-9).all()
    turn = np.remainder(row[6] - yaw + np.pi, 2 * np.pi) - np.pi
    assert abs(turn) <= np.pi / 65536 + 1e-9
    assert -np.pi <= row[6] < np.pi
    assert abs(boxes.scores[0] - score) <= 0.5 / 255 + 1e-6


def test_sizes_are_cut_and_boxes_too_far_away_are_left_out():
    rows = [[1, 2, 0, 33.0, 6.0, 0.001, 0], [327.68, 0, 0, 4, 2, 2, 0], [0, -400, 0, 4, 2, 2, 0]]
    data, boxes = through(rows, [0.5] * 3)
    assert len(data) == BOX_BYTES
    np.testing.assert_allclose(boxes.boxes, [[1, 2, 0, 25.5, 5.1, 0.02, 0]])


def test_no_boxes_are_no_bytes():
    assert len(boxes_from_bytes(boxes_to_bytes(Boxes3D.empty()))) == 0


@pytest.mark.parametrize(
    ('data', 'reason'), [(b'x' * 13, '13 bytes of boxes are not a multiple of 12'), (bytes(12), r'box 0 has')]
)
def test_what_cannot_be_boxes_is_refused(data, reason):
    with pytest.raises(PayloadError, match=reason):
        boxes_from_bytes(data)


def test_drawn_boxes_are_what_the_head_would_have_said():
    rows = np.array([[10.3, -3.1, -0.5, 4.4, 1.9, 1.6, 2.5], [-40.0, 20.0, -1.0, 9.0, 2.5, 3.2, -0.4]])
    maps = draw_boxes(Boxes3D(rows, scores=np.array([0.9, 0.4], np.float32)), GRID)
    assert maps.shape == (9, 64, 128)
    assert (maps != 0).any(axis=0).sum() == 2
    score = np.clip(maps[0], 1e-6, 1 - 1e-6)
    x, y = np.meshgrid(GRID.x_min + (np.arange(128) + 0.5) * 0.8, GRID.y_min + (np.arange(64) + 0.5) * 0.8)
    observed = np.stack((x.ravel(), y.ravel()), axis=1)
    logits = np.log(score / (1 - score))
    boxes = decode_boxes(logits, maps[1:], observed, GRID, Decoding(0.1, 0.15, 10))
    np.testing.assert_allclose(boxes.boxes, rows, atol=1e-5)
    np.testing.assert_allclose(boxes.scores, [0.9, 0.4], atol=1e-5)


def test_of_boxes_in_one_cell_the_best_is_drawn_and_none_outside_the_grid():
    rows = [
        [0.1, 0.1, 0, 4, 2, 2, 0],
        [0.3, 0.5, -1, 5, 2, 2, 0],
        [51.3, 0, 0, 4, 2, 2, 0],
        [0, -25.7, 0, 4, 2, 2, 0],
    ]
    maps = draw_boxes(Boxes3D(rows, scores=np.array([0.3, 0.6, 1, 1], np.float32)), GRID)
    assert np.argwhere(maps[0]).tolist() == [[32, 64]]
    np.testing.assert_allclose(
        maps[:, 32, 64], [0.6, 0.3 / 0.8, 0.5 / 0.8, -1, np.log(5), np.log(2), np.log(2), 0, 1], atol=1e-5
    )
    assert not draw_boxes(Boxes3D.empty(), GRID).any()
