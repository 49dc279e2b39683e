# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.runtime.decoding import Decoding, decode_boxes, observed_cells

GRID = BevGrid(-8.0, -4.0, -3.0, 8.0, 4.0, 1.0, height=10, width=20)
EVERYWHERE = observed_cells(np.ones((1, 10, 20), np.float32), grid_warps([np.eye(4)], GRID), GRID)


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
    boxes = decode_boxes(
        *maps([(3, 12, 0.0, car(0.25, 0.75, 2.5))]), EVERYWHERE, GRID, Decoding(0.1, 0.15, 100)
    )
    assert boxes.boxes[0] == pytest.approx([1.8, -1.0, -1.0, 4.5, 1.8, 1.5, 2.5], abs=1e-6)
    assert boxes.scores == pytest.approx([0.5])


def test_weak_peaks_and_slopes_of_peaks_are_not_boxes() -> None:
    slope = [(3, 12, 2.0, car(0.5, 0.5, 0.0)), (3, 13, 1.0, car(0.5, 0.5, 0.0)), (8, 2, -3.0, car(0, 0, 0))]
    assert len(decode_boxes(*maps(slope), EVERYWHERE, GRID, Decoding(0.1, 0.9, 100))) == 1


def test_of_overlapping_boxes_the_highest_score_is_kept() -> None:
    peaks = [(3, 10, 1.0, car(0.5, 0.5, 0.0)), (3, 12, 2.0, car(0.5, 0.5, 0.0))]
    boxes = decode_boxes(*maps(peaks), EVERYWHERE, GRID, Decoding(0.1, 0.15, 100))
    assert boxes.scores == pytest.approx([1 / (1 + np.exp(-2.0))])


def test_scores_descend_and_the_number_is_limited() -> None:
    peaks = [(r, c, float(r + c) / 10, car(0.5, 0.5, 0)) for r in range(0, 10, 3) for c in range(0, 20, 7)]
    boxes = decode_boxes(*maps(peaks), EVERYWHERE, GRID, Decoding(0.1, 0.15, 5))
    assert len(boxes) == 5
    assert (np.diff(boxes.scores) <= 0).all()  # type: ignore[arg-type]


def test_no_peak_gives_no_box() -> None:
    assert len(decode_boxes(*maps([]), EVERYWHERE, GRID, Decoding(0.1, 0.15, 100))) == 0


def test_a_box_without_a_return_inside_is_dropped() -> None:
    peaks = [(3, 4, 2.0, car(0.5, 0.5, 0.7)), (6, 15, 1.0, car(0.5, 0.5, 0.7))]
    # The cell of the second box's centre: x 4.4, y 1.2.
    seen = np.array([[4.4, 1.2]])
    boxes = decode_boxes(*maps(peaks), seen, GRID, Decoding(0.1, 0.15, 100))
    assert boxes.boxes[:, :2] == pytest.approx(seen)
    assert len(decode_boxes(*maps(peaks), np.zeros((0, 2)), GRID, Decoding(0.1, 0.15, 100))) == 0


def test_returns_within_half_a_cell_of_a_side_count() -> None:
    """Along y, 1.8 m wide: its sides lie at x 0.4 +- 0.9, and a cell reaches 0.4 m about its centre."""
    peak = [(5, 10, 2.0, car(0.5, 0.5, np.pi / 2))]
    for x, expected in ((1.65, 1), (1.75, 0), (-0.85, 1), (-0.95, 0)):
        boxes = decode_boxes(*maps(peak), np.array([[x, 0.4]]), GRID, Decoding(0.1, 0.15, 100))
        assert len(boxes) == expected


def test_a_box_without_returns_suppresses_no_other() -> None:
    along, across = car(0.5, 0.5, 0.0), car(0.5, 0.5, np.pi / 2)
    peaks = [(2, 10, 3.0, across), (5, 10, 1.0, along)]
    seen = np.array([[2.2, 0.4]])  # on the front of the second only
    boxes = decode_boxes(*maps(peaks), seen, GRID, Decoding(0.1, 0.0, 100))
    assert boxes.scores == pytest.approx([1 / (1 + np.exp(-1.0))])


def test_cells_observed_by_a_neighbour_are_moved_to_the_egos_frame() -> None:
    """By hand: the neighbour is at (3, 1) and faces along the ego's y axis."""
    poses = [pose_from_euler([10.0, 5.0, 2.0]), pose_from_euler([13.0, 6.0, 2.0], yaw=np.pi / 2)]
    density = np.zeros((2, 10, 20), np.float32)
    density[0, 0, 0] = 0.7  # centre at (-7.6, -3.6)
    density[1, 5, 12] = 1.2  # centre at (2.0, 0.4) in its own axes
    seen = observed_cells(density, grid_warps(poses, GRID), GRID)
    np.testing.assert_allclose(seen, [[-7.6, -3.6], [3.0 - 0.4, 1.0 + 2.0]], atol=1e-5)
