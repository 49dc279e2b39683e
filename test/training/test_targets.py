# SPDX-License-Identifier: Apache-2.0

import numpy as np

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.runtime.decoding import Decoding, decode_boxes, observed_cells
from diffkd_ros.training.targets import detection_target

GRID = BevGrid(-51.2, -25.6, -3.0, 51.2, 25.6, 1.0, height=64, width=128)
EVERYWHERE = observed_cells(np.ones((1, 64, 128), np.float32), np.eye(2, 3, dtype=np.float32)[None], GRID)
BOXES = np.array(
    [
        [10.3, 4.1, -1.0, 4.5, 1.8, 1.5, 0.3],
        [-20.0, -9.7, -0.8, 12.0, 2.5, 3.2, -2.9],
        [30.0, 0.0, -1.0, 4.2, 1.7, 1.4, 1.5],
    ]
)


def test_a_perfect_head_decodes_to_the_truth() -> None:
    target = detection_target(BOXES, np.full(3, 9), 5, GRID)
    logits = np.log((target.heatmap[0] + 1e-4) / (1 - target.heatmap[0] + 1e-4))
    found = decode_boxes(logits, target.regression, EVERYWHERE, GRID, Decoding(0.5, 0.15, 100))
    order = np.argsort(found.boxes[:, 0])
    np.testing.assert_allclose(found.boxes[order], BOXES[np.argsort(BOXES[:, 0])], atol=1e-5)


def test_vehicles_with_few_returns_are_neither_target_nor_background() -> None:
    target = detection_target(BOXES, np.array([9, 4, 9]), 5, GRID)
    row, column = int((-9.7 + 25.6) / 0.8), int((-20.0 + 51.2) / 0.8)
    assert (target.heatmap == 1).sum() == 2
    assert not target.counted[0, row, column]
    assert target.counted[0, 0, 0]
    # 12 m x 2.5 m of 0.8 m cells are 47 cells.
    assert 35 <= (~target.counted).sum() <= 60


def test_vehicles_out_of_range_are_left_out() -> None:
    outside = BOXES.copy()
    outside[:, 0] += 60
    target = detection_target(outside, np.full(3, 9), 5, GRID)
    assert (target.heatmap == 1).sum() == 1  # the one at x = -20 has come to x = 40


def test_a_peak_next_to_the_centre_decodes_to_the_same_box() -> None:
    """Resampling can move a map's peak by a cell: the regression there must give the same box."""
    target = detection_target(BOXES, np.full(3, 9), 5, GRID)
    (rows, columns) = np.nonzero(target.heatmap[0] == 1)
    assert len(rows) == 3
    for shift in np.ndindex(3, 3):
        logits = np.full(target.heatmap.shape[1:], -9.0, np.float32)
        moved = rows + shift[0] - 1, columns + shift[1] - 1
        assert (target.regressed[0][moved] > 0).all()
        logits[moved] = 9.0
        found = decode_boxes(logits, target.regression, EVERYWHERE, GRID, Decoding(0.5, 0.15, 100))
        order = np.argsort(found.boxes[:, 0])
        np.testing.assert_allclose(found.boxes[order], BOXES[np.argsort(BOXES[:, 0])], atol=1e-5)
    assert (target.regressed > 0).sum() == 27
    # The cell of the centre has the largest weight.
    assert (target.regressed == 1).sum() == 3
    assert (target.regressed[0][rows, columns] == 1).all()


def test_between_two_vehicles_each_cell_regresses_the_nearer() -> None:
    near = np.array([[10.3, 4.1, -1.0, 4.5, 1.8, 1.5, 0.0], [10.3, 6.0, -1.0, 4.5, 1.8, 1.5, 0.0]])
    target = detection_target(near, np.full(2, 9), 5, GRID)
    rows, columns = np.nonzero(target.regressed[0])
    y = GRID.y_min + (rows + target.regression[1, rows, columns]) * GRID.cell
    x = GRID.x_min + (columns + target.regression[0, rows, columns]) * GRID.cell
    np.testing.assert_allclose(x, 10.3, atol=1e-5)
    middle = GRID.y_min + (rows + 0.5) * GRID.cell
    np.testing.assert_allclose(y, np.where(middle < 5.05, 4.1, 6.0), atol=1e-5)


def test_targets_do_not_wrap_around_at_the_border() -> None:
    edge = np.array([[-51.1, -25.5, -1.0, 4.5, 1.8, 1.5, 0.0]])
    target = detection_target(edge, np.full(1, 9), 5, GRID)
    assert np.argwhere(target.regressed[0]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
