# SPDX-License-Identifier: Apache-2.0
"""Frames refuse invalid arrays, with an error that describes them."""

import numpy as np
import pytest

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame, FrameError

POINTS = np.zeros((3, 4), np.float32)
BOXES = np.arange(21.0).reshape(3, 7)


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'boxes': np.zeros((3, 8))}, r'boxes must be \(n, 7\), got \(3, 8\)'),
        ({'boxes': np.zeros(7)}, r'boxes must be \(n, 7\), got \(7,\)'),
        ({'boxes': np.full((1, 7), np.nan)}, 'NaN or infinity'),
        ({'boxes': BOXES, 'scores': np.zeros(2)}, r'scores must be \(3,\), got \(2,\)'),
        ({'boxes': BOXES, 'labels': np.zeros(1)}, r'labels must be \(3,\), got \(1,\)'),
        ({'boxes': BOXES, 'track_ids': np.zeros((3, 1))}, r'track_ids must be \(3,\), got \(3, 1\)'),
        ({'boxes': BOXES, 'num_points': np.zeros(4)}, r'num_points must be \(3,\), got \(4,\)'),
    ],
)
def test_boxes_refuse_bad_columns(columns: dict, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        Boxes3D(**columns)


def test_boxes_are_converted_to_the_documented_types() -> None:
    boxes = Boxes3D(
        BOXES.astype(np.float32), scores=[0.1, 0.2, 0.3], track_ids=[1, 2, 3], num_points=[4, 5, 6]
    )
    assert boxes.boxes.dtype == np.float64
    assert boxes.scores is not None
    assert boxes.scores.dtype == np.float32
    assert boxes.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize('index', [np.array([False, True, True]), np.array([1, 2]), slice(1, None)])
def test_selection_keeps_the_columns_together(index: object) -> None:
    boxes = Boxes3D(BOXES, [0.1, 0.2, 0.3], [0, 1, 2], [7, 8, 9], [4, 5, 6])[index]
    assert len(boxes) == 2
    assert boxes.boxes[:, 0].tolist() == [7.0, 14.0]
    assert boxes.labels.tolist() == [1, 2]
    assert boxes.track_ids.tolist() == [8, 9]
    assert boxes.num_points.tolist() == [5, 6]
    assert boxes.scores == pytest.approx([0.2, 0.3])


def test_empty_boxes_can_be_selected_and_moved() -> None:
    empty = Boxes3D.empty()
    assert len(empty) == 0
    assert len(empty[np.zeros(0, bool)]) == 0
    assert len(empty.with_boxes(np.zeros((0, 7)))) == 0


def test_with_boxes_must_keep_the_number_of_rows() -> None:
    with pytest.raises(FrameError, match='scores must be'):
        Boxes3D(BOXES, scores=[0.1, 0.2, 0.3]).with_boxes(BOXES[:2])


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'points': np.zeros((3, 3)), 'pose': np.eye(4)}, r'points must be \(n, 4\), got \(3, 3\)'),
        ({'points': POINTS, 'pose': np.eye(3)}, r'finite \(4, 4\)'),
        ({'points': POINTS, 'pose': np.full((4, 4), np.nan)}, r'finite \(4, 4\)'),
        (
            {'points': POINTS, 'pose': np.eye(4), 'ring': np.zeros(2, np.uint16)},
            r'ring must be \(3,\), got \(2,\)',
        ),
        (
            {'points': POINTS, 'pose': np.eye(4), 'time': np.zeros(4, np.float32)},
            r'time must be \(3,\), got \(4,\)',
        ),
    ],
)
def test_sweep_refuses_bad_arrays(fields: dict, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        AgentSweep(**fields)


def test_a_frame_without_its_ego_is_refused() -> None:
    sweep = AgentSweep(POINTS, np.eye(4))
    frame = CoopFrame({12: sweep, -1: sweep, 5: sweep}, ego=5, stamp=0)
    assert frame.neighbours == [-1, 12]
    with pytest.raises(FrameError, match=r'ego 7 is not among the agents \[5, 12\]'):
        CoopFrame({12: sweep, 5: sweep}, ego=7, stamp=0)
