# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffkd_ros.runtime.decoding import decode_boxes
from diffkd_ros.runtime.grid import BevGrid

GRID = BevGrid(-8.0, -4.0, -3.0, 8.0, 4.0, 1.0, height=10, width=20)


def maps(peaks: list[tuple[int, int, float, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    heatmap = np.full((10, 20), -10.0, np.float32)
    regression = np.zeros((8, 10, 20), np.float32)
    for row, column, logit, values in peaks:
        heatmap[row, column] = logit
        regression[:, row, column] = values
    return heatmap, regression


def car(x: float, y: float, yaw: float) -> list[float]:
    return [x, y, -1.0, np.log(4.5), np.log(1.8), np.log(1.5), np.sin(yaw), np.cos(yaw)]


def test_a_peak_becomes_the_box_it_encodes() -> None:
    boxes = decode_boxes(*maps([(3, 12, 0.0, car(0.25, 0.75, 2.5))]), GRID, 0.1, 0.15, 100)
    assert boxes.boxes[0] == pytest.approx([1.8, -1.0, -1.0, 4.5, 1.8, 1.5, 2.5], abs=1e-6)
    assert boxes.scores == pytest.approx([0.5])


def test_weak_peaks_and_slopes_of_peaks_are_not_boxes() -> None:
    slope = [(3, 12, 2.0, car(0.5, 0.5, 0.0)), (3, 13, 1.0, car(0.5, 0.5, 0.0)), (8, 2, -3.0, car(0, 0, 0))]
    assert len(decode_boxes(*maps(slope), GRID, 0.1, 0.9, 100)) == 1


def test_overlapping_boxes_leave_the_stronger() -> None:
    peaks = [(3, 10, 1.0, car(0.5, 0.5, 0.0)), (3, 12, 2.0, car(0.5, 0.5, 0.0))]
    boxes = decode_boxes(*maps(peaks), GRID, 0.1, 0.15, 100)
    assert boxes.scores == pytest.approx([1 / (1 + np.exp(-2.0))])


def test_scores_descend_and_the_number_is_capped() -> None:
    peaks = [(r, c, float(r + c) / 10, car(0.5, 0.5, 0)) for r in range(0, 10, 3) for c in range(0, 20, 7)]
    boxes = decode_boxes(*maps(peaks), GRID, 0.1, 0.15, 5)
    assert len(boxes) == 5
    assert (np.diff(boxes.scores) <= 0).all()  # type: ignore[arg-type]


def test_no_peak_gives_no_box() -> None:
    assert len(decode_boxes(*maps([]), GRID, 0.1, 0.15, 100)) == 0
