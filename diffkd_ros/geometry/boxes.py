# SPDX-License-Identifier: Apache-2.0
"""Upright 3D boxes as (n, 7) arrays: corners, change of frame, points inside, crop to a range.

A row is x, y, z of the centre, length (along the heading), width, height in metres and yaw in radians,
counter-clockwise from the x axis (REP-103).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.frame import Boxes3D, CoopFrame, FrameError, checked_boxes
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.kernels import kernel

# Seen from above, counter-clockwise from the front left, in units of half the length and half the width.
_CORNER_SIGNS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])

# Points are tested only against the boxes that overlap their column along x.
_COLUMN = 1.0  # metres
_MOST_COLUMNS = 4096


def wrapped(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Wrap angles in radians to [-pi, pi)."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


def bev_corners(boxes: ArrayLike) -> NDArray[np.float64]:
    """Corners (n, 4, 2) of boxes (n, 7) in x and y: front left, rear left, rear right, front right."""
    rows = checked_boxes(boxes)
    local = _CORNER_SIGNS * (0.5 * rows[:, None, 3:5])
    cos, sin = np.cos(rows[:, 6, None]), np.sin(rows[:, 6, None])
    x = rows[:, 0, None] + cos * local[..., 0] - sin * local[..., 1]
    y = rows[:, 1, None] + sin * local[..., 0] + cos * local[..., 1]
    return np.stack([x, y], axis=-1)


def corners(boxes: ArrayLike) -> NDArray[np.float64]:
    """Corners (n, 8, 3) of boxes (n, 7): those of `bev_corners` at the bottom, then the same at the top."""
    rows = checked_boxes(boxes)
    result = np.empty((len(rows), 8, 3))
    result[:, :4, :2] = result[:, 4:, :2] = bev_corners(rows)
    result[:, :4, 2] = (rows[:, 2] - 0.5 * rows[:, 5])[:, None]
    result[:, 4:, 2] = (rows[:, 2] + 0.5 * rows[:, 5])[:, None]
    return result


def transform_boxes(pose: NDArray[np.float64], boxes: ArrayLike) -> NDArray[np.float64]:
    """Express upright boxes in another frame.

    The centre is transformed exactly. The box stays upright: its yaw is that of the rotated heading in the
    bird's-eye view; roll and pitch between the frames are ignored.

    Args:
        pose: (4, 4) target <- source.
        boxes: (n, 7) in the source frame.

    Returns:
        (n, 7) in the target frame, yaw in [-pi, pi).
    """
    rows = checked_boxes(boxes)
    result = rows.copy()
    result[:, :3] = rows[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    heading = np.stack([np.cos(rows[:, 6]), np.sin(rows[:, 6])], axis=1) @ pose[:2, :2].T
    result[:, 6] = wrapped(np.arctan2(heading[:, 1], heading[:, 0]))
    return result


@kernel
def _columns(
    low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.int64], NDArray[np.int64]]:
    """Sort intervals into columns: start, width, first member of each column, members by column."""
    # Loops instead of NumPy's functions, which take a second to compile.
    start, end = low[0], high[0]
    for b in range(1, len(low)):
        start, end = min(start, low[b]), max(end, high[b])
    width = max(_COLUMN, (end - start) / _MOST_COLUMNS)
    count = int((end - start) / width) + 1
    begins = np.zeros(count + 1, np.int64)
    for b in range(len(low)):
        for column in range(int((low[b] - start) / width), int((high[b] - start) / width) + 1):
            begins[column + 1] += 1
    for column in range(count):
        begins[column + 1] += begins[column]
    members, filled = np.empty(begins[-1], np.int64), begins[:-1].copy()
    for b in range(len(low)):
        for column in range(int((low[b] - start) / width), int((high[b] - start) / width) + 1):
            members[filled[column]] = b
            filled[column] += 1
    return start, width, begins, members


@kernel
def _scan(
    points: NDArray[np.float64],
    boxes: NDArray[np.float64],
    holder: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Fill `holder` (first box holding each point, -1 for none) and `counts` (points in each box)."""
    holder[:] = -1
    counts[:] = 0
    if not len(boxes):
        return
    half = 0.5 * boxes[:, 3:6]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    reach = np.hypot(half[:, 0], half[:, 1])
    # Only boxes that overlap a point's column can hold it; the margin is for rounding.
    start, width, begins, members = _columns(boxes[:, 0] - reach - 1e-3, boxes[:, 0] + reach + 1e-3)
    for p in range(len(points)):
        place = (points[p, 0] - start) / width
        # Written so that NaN is outside.
        if not (place >= 0.0 and place < len(begins) - 1):
            continue
        column = int(place)
        for member in range(begins[column], begins[column + 1]):
            b = members[member]
            dx = points[p, 0] - boxes[b, 0]
            dy = points[p, 1] - boxes[b, 1]
            # The enclosing square rejects nearly all points with two comparisons.
            if abs(dx) > reach[b] or abs(dy) > reach[b] or abs(points[p, 2] - boxes[b, 2]) > half[b, 2]:
                continue
            if abs(cos[b] * dx + sin[b] * dy) <= half[b, 0] and abs(cos[b] * dy - sin[b] * dx) <= half[b, 1]:
                counts[b] += 1
                if holder[p] < 0:
                    holder[p] = b


def _scanned(points: NDArray, boxes: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] < 3:
        raise FrameError(f'points must be (n, 3 or more), got {array.shape}')
    # The comparisons are in double precision; other types of points would be compiled for themselves.
    array = np.array(array[:, :3], np.float64, order='C')
    rows = checked_boxes(boxes)
    holder, counts = np.empty(len(array), np.int64), np.empty(len(rows), np.int64)
    _scan(array, rows, holder, counts)
    return holder, counts


def points_in_boxes(points: NDArray, boxes: ArrayLike) -> NDArray[np.int64]:
    """Find the box that holds each point.

    Args:
        points: (n_points, 3 or more) x, y, z in the boxes' frame.
        boxes: (n_boxes, 7).

    Returns:
        (n_points,) index of the first box that holds the point (faces included), -1 for none. A point with
        a NaN coordinate is in no box.

    Raises:
        FrameError: if a shape is wrong or a box is not finite.
    """
    return _scanned(points, boxes)[0]


def count_points(points: NDArray, boxes: ArrayLike) -> NDArray[np.int64]:
    """Count the points in each box, (n_boxes,); a point in several boxes counts for each of them.

    Arguments and errors are those of `points_in_boxes`.
    """
    return _scanned(points, boxes)[1]


def flattened(boxes: ArrayLike) -> NDArray[np.float64]:
    """Boxes (n, 7) moved to z = 0, for tests in the bird's-eye view with points of z = 0."""
    result = checked_boxes(boxes).copy()
    result[:, 2], result[:, 5] = 0.0, 1.0
    return result


def widened(boxes: ArrayLike, margin: float) -> NDArray[np.float64]:
    """Boxes (n, 7) as from `flattened`, longer and wider by a margin in metres to each side."""
    result = flattened(boxes)
    result[:, 3:5] += 2 * margin
    return result


def within(boxes: Boxes3D, x_min: float, y_min: float, x_max: float, y_max: float) -> Boxes3D:
    """Keep the boxes whose centre lies in the rectangle: x_min <= x < x_max and y_min <= y < y_max."""
    x, y = boxes.boxes[:, 0], boxes.boxes[:, 1]
    return boxes[(x >= x_min) & (x < x_max) & (y >= y_min) & (y < y_max)]


def without_own(truth: Boxes3D, agent: int) -> Boxes3D:
    """The boxes without the agent's own, whose track id is the agent's id; all if there are no track ids."""
    return truth if truth.track_ids is None else truth[truth.track_ids != agent]


def ground_truth_in(frame: CoopFrame, agent: int, own: bool = False) -> Boxes3D:
    """The frame's ground truth in one agent's LiDAR frame.

    Args:
        frame: with ground truth.
        agent: one of the frame.
        own: whether the agent's own box is kept, see `without_own`.

    Raises:
        FrameError: if the frame has no ground truth or no such agent.
    """
    if agent not in frame.agents:
        raise FrameError(f'agent {agent} is not among the agents {sorted(frame.agents)}')
    truth = frame.ground_truth
    if truth is None:
        raise FrameError(f'frame {frame.index} of scenario {frame.scenario!r} carries no ground truth')
    if not own:
        truth = without_own(truth, agent)
    return truth.with_boxes(transform_boxes(inverse(frame.agents[agent].pose), truth.boxes))
