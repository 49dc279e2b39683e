# SPDX-License-Identifier: Apache-2.0
"""Merging of received boxes with those found in the fused map, by hand."""

from __future__ import annotations

import numpy as np
from scored_frames import cars, found

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.runtime.decoding import Decoding
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.merging import merge_boxes, merge_received

# Cells of 1 m, so tiles of 4 m.
GRID = BevGrid(-16.0, -8.0, -3.0, 16.0, 8.0, 1.0, height=16, width=32)
DECODING = Decoding(0.1, 0.15, 100)
EVERY_TILE = [(row, column) for row in range(4) for column in range(8)]


def arrived(boxes: Boxes3D | None, fine: list[tuple[int, int]] = (), empty=(), coarse=()) -> ReceivedMap:
    """A map of which the fine codes of these tiles arrived, or a coarse code, of an empty tile or not."""
    codes = np.full((4, 8), -1, np.int16)
    cells = np.full((2, 16, 32), -1, np.int16)
    for row, column in fine:
        cells[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 3
    for row, column in coarse:
        codes[row, column] = 2
    for row, column in empty:
        codes[row, column] = 0
    return ReceivedMap(boxes, codes, cells, {})


def merged(
    fused: Boxes3D, received: ReceivedMap, pose: np.ndarray | None = None
) -> list[tuple[float, float]]:
    """Place along x and score of the merged boxes."""
    poses = [np.eye(4), np.eye(4) if pose is None else pose]
    boxes = merge_received(fused, [received], [received.boxes], poses, GRID, DECODING)
    assert (np.diff(boxes.scores) <= 0).all()
    return [(round(x, 6), round(float(s), 6)) for x, s in zip(boxes.boxes[:, 0], boxes.scores, strict=True)]


# A car of 4 x 2 m at x = 10 covers the tiles of columns 6 (x from 8 to 12) and rows 1 and 2.
CAR_TILES = [(1, 6), (2, 6)]


def test_a_box_whose_cells_arrived_is_left_to_the_fused_map() -> None:
    assert merged(found((5.0, 0.9)), arrived(found((10.0, 0.8)), CAR_TILES)) == [(5.0, 0.9)]


def test_a_box_in_tiles_known_to_be_empty_is_left_to_the_fused_map() -> None:
    assert merged(found(), arrived(found((10.0, 0.8)), [(1, 6)], empty=[(2, 6)])) == []


def test_a_box_whose_cells_arrived_in_part_is_kept() -> None:
    assert merged(found((5.0, 0.9)), arrived(found((10.0, 0.8)), CAR_TILES[:1])) == [(5.0, 0.9), (10.0, 0.8)]


def test_coarse_codes_do_not_replace_a_box() -> None:
    kept = merged(found((5.0, 0.9)), arrived(found((10.0, 0.8)), coarse=EVERY_TILE))
    assert kept == [(5.0, 0.9), (10.0, 0.8)]


def test_a_box_beyond_the_senders_map_is_kept() -> None:
    assert merged(found(), arrived(found((40.0, 0.8)), EVERY_TILE)) == [(40.0, 0.8)]


def test_of_a_box_found_by_both_the_higher_score_is_kept() -> None:
    received = arrived(found((10.0, 0.8)))
    assert merged(found((10.5, 0.6)), received) == [(10.0, 0.8)]
    assert merged(found((10.5, 0.9)), received) == [(10.5, 0.9)]


def test_boxes_around_the_ego_are_dropped() -> None:
    """The neighbour, 10 m ahead and turned round, detects the ego and a car beyond it."""
    pose = pose_from_euler((10.0, 0.0, 0.0), yaw=np.pi)
    assert merged(found((5.0, 0.9)), arrived(found((10.0, 0.8), (16.0, 0.7))), pose) == [
        (5.0, 0.9),
        (-6.0, 0.7),
    ]


def test_without_boxes_of_neighbours_the_fused_ones_do_not_change() -> None:
    fused = found((5.0, 0.9), (-7.0, 0.3))
    for received in (arrived(None), arrived(found()), arrived(None, EVERY_TILE)):
        assert merged(fused, received) == [(5.0, 0.9), (-7.0, 0.3)]


def test_where_nothing_but_boxes_arrived_it_is_late_fusion() -> None:
    fused, theirs = found((5.0, 0.9), (10.5, 0.3)), found((10.0, 0.8), (40.0, 0.5), (5.2, 0.4))
    late = merge_boxes(fused, [theirs], [np.eye(4)] * 2, DECODING)
    np.testing.assert_array_equal(late.boxes, cars(5.0, 10.0, 40.0))
    layered = merge_received(fused, [arrived(theirs)], [theirs], [np.eye(4)] * 2, GRID, DECODING)
    np.testing.assert_array_equal(layered.boxes, late.boxes)
    np.testing.assert_array_equal(layered.scores, late.scores)


def test_a_box_that_has_moved_is_judged_by_the_cells_where_it_was() -> None:
    theirs, now = found((10.0, 0.8)), found((14.0, 0.8))
    for arrived_at, left in ((CAR_TILES, []), ([], [14.0])):
        boxes = merge_received(found(), [arrived(theirs, arrived_at)], [now], [np.eye(4)] * 2, GRID, DECODING)
        assert boxes.boxes[:, 0].tolist() == left


def test_the_number_of_boxes_is_limited() -> None:
    few = Decoding(0.1, 0.15, 2)
    fused, theirs = found((5.0, 0.9), (-7.0, 0.3)), found((10.0, 0.8))
    boxes = merge_received(fused, [arrived(theirs)], [theirs], [np.eye(4)] * 2, GRID, few)
    np.testing.assert_array_equal(boxes.boxes[:, 0], [5.0, 10.0])


def test_of_one_neighbour_no_more_boxes_are_merged_than_a_vehicle_may_find() -> None:
    """Time is quadratic in their number, and they come from strangers."""
    many = found(*((10.0 * k, 0.9 - 0.001 * k) for k in range(2, 252)))
    assert len(merged(found(), arrived(many))) == DECODING.max_boxes
