# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame, FrameError
from diffkd_ros.geometry.boxes import (
    bev_corners,
    corners,
    count_points,
    ground_truth_in,
    points_in_boxes,
    transform_boxes,
    within,
)
from diffkd_ros.geometry.poses import inverse, pose_from_euler, transform_points

# 4 m long, 2 m wide, 1.5 m high, turned a quarter to the left: its nose points along +y.
QUARTER = [10.0, 5.0, 1.0, 4.0, 2.0, 1.5, np.pi / 2]


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    centre = rng.uniform((-20, -20, -1), (20, 20, 1), (n, 3))
    return np.column_stack([centre, rng.uniform(0.5, 8, (n, 3)), rng.uniform(-4, 4, n)])


def test_corners_by_hand() -> None:
    expected = [[9.0, 7.0], [9.0, 3.0], [11.0, 3.0], [11.0, 7.0]]
    np.testing.assert_allclose(bev_corners([QUARTER])[0], expected, atol=1e-12)
    full = corners([QUARTER])[0]
    np.testing.assert_allclose(full[:4, :2], expected, atol=1e-12)
    np.testing.assert_allclose(full[4:, :2], expected, atol=1e-12)
    assert full[:, 2].tolist() == [0.25] * 4 + [1.75] * 4


def test_corners_run_counter_clockwise() -> None:
    c = bev_corners(random_boxes(np.random.default_rng(1), 50))
    x, y = c[..., 0], c[..., 1]
    signed = 0.5 * (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1)
    assert (signed > 0).all()


@given(st.integers(0, 10_000))
def test_moving_boxes_moves_their_corners(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 8)
    pose = pose_from_euler(rng.uniform(-100, 100, 3), yaw=rng.uniform(-4, 4))
    moved = transform_boxes(pose, boxes)
    np.testing.assert_allclose(
        corners(moved).reshape(-1, 3), transform_points(pose, corners(boxes).reshape(-1, 3)), atol=1e-9
    )
    assert (np.abs(moved[:, 6]) <= np.pi).all()
    back = transform_boxes(inverse(pose), moved)
    np.testing.assert_allclose(corners(back), corners(boxes), atol=1e-9)


def test_in_a_tilted_frame_centres_and_birds_eye_headings_are_exact() -> None:
    pose = pose_from_euler((3.0, -2.0, 1.0), roll=0.05, pitch=-0.08, yaw=2.0)
    box = np.array([[20.0, 4.0, 0.5, 4.0, 2.0, 1.5, 0.7]])
    moved = transform_boxes(pose, box)
    tail_and_nose = np.array([[20.0, 4.0, 0.5], [20.0 + np.cos(0.7), 4.0 + np.sin(0.7), 0.5]])
    centre, nose = transform_points(pose, tail_and_nose)
    np.testing.assert_allclose(moved[0, :3], centre, atol=1e-12)
    heading = nose - centre
    assert np.cos(moved[0, 6] - np.arctan2(heading[1], heading[0])) == pytest.approx(1.0, abs=1e-12)
    assert moved[0, 3:6].tolist() == [4.0, 2.0, 1.5]


def test_points_find_their_box() -> None:
    other = [13.0, 5.0, 1.0, 6.0, 2.0, 1.5, 0.0]
    points = np.array([
        [10.0, 6.9, 1.0],  # in the first only: would be outside if yaw were ignored
        [11.9, 5.0, 1.0],  # in the second only
        [10.5, 5.0, 1.0],  # in both
        [10.0, 6.9, 1.8],  # above
        [9.0, 7.0, 0.25],  # a corner of the first
        [np.nan, 5.0, 1.0],
    ])  # fmt: skip
    boxes = [[*QUARTER[:6], np.pi / 2], other]
    points[4] -= (-1e-9, 1e-9, -1e-9)
    assert points_in_boxes(points, boxes).tolist() == [0, 1, 0, -1, 0, -1]
    assert count_points(points, boxes).tolist() == [3, 2]


def test_points_in_boxes_against_the_box_axes() -> None:
    rng = np.random.default_rng(5)
    boxes = random_boxes(rng, 12)
    boxes[:, 3:6] += 1.0
    points = rng.uniform(-25, 25, (4000, 4)).astype(np.float32)
    points[:, 2] = rng.uniform(-4, 4, 4000)
    inside = np.empty((len(points), len(boxes)), bool)
    for b, box in enumerate(boxes):
        local = transform_points(inverse(pose_from_euler(box[:3], yaw=box[6])), points.astype(np.float64))
        inside[:, b] = (np.abs(local[:, :3]) <= box[3:6] / 2).all(axis=1)
    assert inside.any(axis=0).all()
    assert np.array_equal(count_points(points, boxes), inside.sum(axis=0))
    assert np.array_equal(points_in_boxes(points, boxes), np.where(inside.any(1), inside.argmax(1), -1))


def test_empty_inputs_give_empty_results() -> None:
    none = np.zeros((0, 7))
    assert bev_corners(none).shape == (0, 4, 2)
    assert corners([]).shape == (0, 8, 3)
    assert transform_boxes(np.eye(4), none).shape == (0, 7)
    assert points_in_boxes(np.zeros((2, 4), np.float32), none).tolist() == [-1, -1]
    assert count_points(np.zeros((0, 3)), [QUARTER]).tolist() == [0]


@pytest.mark.parametrize(
    ('boxes', 'message'),
    [
        (np.zeros((2, 6)), r'boxes must be \(n, 7\), got \(2, 6\)'),
        ([QUARTER, [0, 0, np.nan, 1, 1, 1, 0]], 'boxes hold NaN or infinity, first in row 1'),
    ],
)
def test_bad_boxes_are_named(boxes: np.ndarray, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        bev_corners(boxes)


def test_points_of_the_wrong_shape_are_named() -> None:
    with pytest.raises(FrameError, match=r'points must be \(n, 3 or more\), got \(4,\)'):
        count_points(np.zeros(4), [QUARTER])


def test_the_range_is_half_open_and_applies_to_centres() -> None:
    boxes = np.zeros((5, 7))
    boxes[:, 3:6] = 4.0
    boxes[:, 0] = [-51.2, 51.2, 51.1, 0.0, 0.0]
    boxes[:, 1] = [0.0, 0.0, 0.0, -25.6, 25.6]
    kept = within(Boxes3D(boxes, track_ids=np.arange(5)), -51.2, -25.6, 51.2, 25.6)
    assert kept.track_ids.tolist() == [0, 2, 3]


def frame_of_two() -> CoopFrame:
    """Agent 1 at (100, 50) facing +y, agent 2 ten metres ahead of it, and a third car to agent 1's left."""
    sweep = np.zeros((1, 4), np.float32)
    truth = Boxes3D(
        np.array([
            [100.0, 50.0, 0.8, 4.5, 2.0, 1.6, np.pi / 2],
            [100.0, 60.0, 0.8, 4.5, 2.0, 1.6, np.pi / 2],
            [97.0, 50.0, 0.8, 4.5, 2.0, 1.6, -np.pi / 2],
        ]),
        track_ids=[1, 2, 7],
        num_points=[10, 20, 30],
    )  # fmt: skip
    agents = {
        1: AgentSweep(sweep, pose_from_euler((100.0, 50.0, 2.0), yaw=np.pi / 2)),
        2: AgentSweep(sweep, pose_from_euler((100.0, 60.0, 2.0), yaw=np.pi / 2)),
        -1: AgentSweep(sweep, pose_from_euler((100.0, 40.0, 6.0))),
    }
    return CoopFrame(agents, ego=1, stamp=0, ground_truth=truth, scenario='crossing', index=4)


def test_ground_truth_in_the_egos_frame_excludes_the_ego() -> None:
    truth = ground_truth_in(frame_of_two(), 1)
    assert truth.track_ids.tolist() == [2, 7]
    assert truth.num_points.tolist() == [20, 30]
    expected = [[10.0, 0.0, -1.2, 4.5, 2.0, 1.6, 0.0], [0.0, 3.0, -1.2, 4.5, 2.0, 1.6, -np.pi]]
    np.testing.assert_allclose(truth.boxes[:, :6], np.array(expected)[:, :6], atol=1e-9)
    np.testing.assert_allclose(np.cos(truth.boxes[:, 6]), [1.0, -1.0], atol=1e-12)


def test_a_roadside_unit_sees_every_vehicle() -> None:
    truth = ground_truth_in(frame_of_two(), -1)
    assert truth.track_ids.tolist() == [1, 2, 7]
    np.testing.assert_allclose(truth.boxes[0, :3], [0.0, 10.0, -5.2], atol=1e-9)


def test_missing_truth_or_agent_is_named() -> None:
    frame = frame_of_two()
    with pytest.raises(FrameError, match=r'agent 9 is not among the agents \[-1, 1, 2\]'):
        ground_truth_in(frame, 9)
    bare = CoopFrame(frame.agents, ego=1, stamp=0, scenario='crossing', index=4)
    with pytest.raises(FrameError, match="frame 4 of scenario 'crossing' carries no ground truth"):
        ground_truth_in(bare, 1)
