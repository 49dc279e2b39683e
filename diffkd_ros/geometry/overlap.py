# SPDX-License-Identifier: Apache-2.0
"""Overlap of rotated boxes in the bird's-eye view: intersection over union and non-maximum suppression.

The intersection is exact: one rectangle is clipped against the four sides of the other, in the other's axes
(Sutherland & Hodgman, CACM 1974), and the shoelace formula gives the area.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.frame import FrameError, checked_boxes
from diffkd_ros.kernels import kernel

# Each of the four cuts adds at most one vertex to the rectangle's four.
_MAX_VERTICES = 8


@kernel
def _clip(
    source: NDArray[np.float64], count: int, axis: int, sign: float, limit: float, target: NDArray[np.float64]
) -> int:
    """Keep the part of a convex polygon with sign * coordinate[axis] <= limit; returns its vertex count."""
    kept = 0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        # Signed distances to the cut, positive inside.
        here = limit - sign * source[i, axis]
        there = limit - sign * source[j, axis]
        if here >= 0.0:
            target[kept, 0] = source[i, 0]
            target[kept, 1] = source[i, 1]
            kept += 1
        if (here > 0.0 and there < 0.0) or (here < 0.0 and there > 0.0):
            share = here / (here - there)
            target[kept, 0] = source[i, 0] + share * (source[j, 0] - source[i, 0])
            target[kept, 1] = source[i, 1] + share * (source[j, 1] - source[i, 1])
            kept += 1
    return kept


@kernel
def _rectangles(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 7): x, y, half length, half width, cos and sin of yaw, circumradius of each box."""
    result = np.empty((len(boxes), 7))
    for i in range(len(boxes)):
        half_length, half_width = 0.5 * boxes[i, 3], 0.5 * boxes[i, 4]
        result[i, 0] = boxes[i, 0]
        result[i, 1] = boxes[i, 1]
        result[i, 2] = half_length
        result[i, 3] = half_width
        result[i, 4] = np.cos(boxes[i, 6])
        result[i, 5] = np.sin(boxes[i, 6])
        # A rectangle without area overlaps no circle.
        solid = half_length > 0.0 and half_width > 0.0 and half_length * half_width > 0.0
        result[i, 6] = np.hypot(half_length, half_width) if solid else -np.inf
    return result


@kernel
def _apart(a: NDArray[np.float64], i: int, b: NDArray[np.float64], j: int) -> bool:
    """Whether the circumscribed circles of rectangle i of a and rectangle j of b are disjoint."""
    reach = a[i, 6] + b[j, 6]
    dx, dy = b[j, 0] - a[i, 0], b[j, 1] - a[i, 1]
    return reach <= 0.0 or dx * dx + dy * dy >= reach * reach


@kernel
def _pair_iou(
    a: NDArray[np.float64], i: int, b: NDArray[np.float64], j: int, scratch: NDArray[np.float64]
) -> float:
    """IoU of rectangle i of a with rectangle j of b; `scratch` is (2, 8, 2)."""
    first, second = scratch[0], scratch[1]
    # b in a's axes: differences keep precision for large map coordinates.
    dx, dy = b[j, 0] - a[i, 0], b[j, 1] - a[i, 1]
    x, y = a[i, 4] * dx + a[i, 5] * dy, a[i, 4] * dy - a[i, 5] * dx
    cos = a[i, 4] * b[j, 4] + a[i, 5] * b[j, 5]
    sin = a[i, 4] * b[j, 5] - a[i, 5] * b[j, 4]
    along_x, along_y = b[j, 2] * cos, b[j, 2] * sin
    across_x, across_y = -b[j, 3] * sin, b[j, 3] * cos
    first[0, 0], first[0, 1] = x + along_x + across_x, y + along_y + across_y
    first[1, 0], first[1, 1] = x - along_x + across_x, y - along_y + across_y
    first[2, 0], first[2, 1] = x - along_x - across_x, y - along_y - across_y
    first[3, 0], first[3, 1] = x + along_x - across_x, y + along_y - across_y
    # A literal 4 would be a type of its own, for which `_clip` is compiled again.
    count = np.int64(4)
    for axis in range(2):
        count = _clip(first, count, axis, 1.0, a[i, 2 + axis], second)
        count = _clip(second, count, axis, -1.0, a[i, 2 + axis], first)
    doubled = 0.0
    for k in range(1, count - 1):
        ux, uy = first[k, 0] - first[0, 0], first[k, 1] - first[0, 1]
        vx, vy = first[k + 1, 0] - first[0, 0], first[k + 1, 1] - first[0, 1]
        doubled += ux * vy - uy * vx
    area_a, area_b = 4.0 * a[i, 2] * a[i, 3], 4.0 * b[j, 2] * b[j, 3]
    # Rounding must not move the ratio out of [0, 1].
    intersection = min(max(0.5 * doubled, 0.0), area_a, area_b)
    return intersection / (area_a + area_b - intersection)


@kernel
def _all_iou(boxes_a: NDArray[np.float64], boxes_b: NDArray[np.float64], result: NDArray[np.float64]) -> None:
    a, b = _rectangles(boxes_a), _rectangles(boxes_b)
    scratch = np.empty((2, _MAX_VERTICES, 2))
    for i in range(len(a)):
        for j in range(len(b)):
            result[i, j] = 0.0 if _apart(a, i, b, j) else _pair_iou(a, i, b, j, scratch)


@kernel
def _suppress(ordered: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Indices that greedy suppression keeps of boxes ordered by descending score."""
    rectangles = _rectangles(ordered)
    scratch = np.empty((2, _MAX_VERTICES, 2))
    kept = np.empty(len(ordered), np.int64)
    count = 0
    for i in range(len(ordered)):
        free = True
        for k in kept[:count]:
            if (
                not _apart(rectangles, k, rectangles, i)
                and _pair_iou(rectangles, k, rectangles, i, scratch) > threshold
            ):
                free = False
                break
        if free:
            kept[count] = i
            count += 1
    return kept[:count]


def bev_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union (n, m) of boxes a (n, 7) with boxes b (m, 7) in the bird's-eye view.

    z and height are ignored. The IoU of a box whose length or width is not positive is 0.

    Raises:
        FrameError: if a shape is wrong or a value is not finite.
    """
    rows_a, rows_b = checked_boxes(a, 'a'), checked_boxes(b, 'b')
    result = np.empty((len(rows_a), len(rows_b)))
    _all_iou(rows_a, rows_b, result)
    return result


def nms(boxes: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression by the IoU in the bird's-eye view.

    A box is dropped if its IoU with a kept box of higher score is **greater** than the threshold. Of equal
    scores the lower index comes first.

    Args:
        boxes: (n, 7).
        scores: (n,), finite.
        iou_threshold: in [0, 1].

    Returns:
        (k,) indices of the kept boxes, by descending score.

    Raises:
        FrameError: if a shape is wrong, a value is not finite or the threshold is outside [0, 1].
    """
    rows = checked_boxes(boxes)
    values = np.asarray(scores, np.float64)
    if values.shape != (len(rows),):
        raise FrameError(f'scores must be ({len(rows)},), got {values.shape}')
    if not np.isfinite(values).all():
        raise FrameError(f'scores hold NaN or infinity, first at {int(np.argmin(np.isfinite(values)))}')
    if not 0.0 <= iou_threshold <= 1.0:
        raise FrameError(f'iou_threshold must be in [0, 1], got {iou_threshold}')
    order = np.argsort(-values, kind='stable')
    return order[_suppress(rows[order], float(iou_threshold))]
