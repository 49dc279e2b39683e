# SPDX-License-Identifier: Apache-2.0
"""Decoding of the head's maps to boxes, limited to cells where some agent had a return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import count_points, widened
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.overlap import nms

MAX_LOG_SIZE = 3.5  # e^3.5 = 33 m: no vehicle is longer, and exp cannot overflow


@dataclass(frozen=True, slots=True)
class Decoding:
    """Thresholds of a detection.

    Attributes:
        min_score: minimum score.
        nms_iou: bird's-eye-view IoU above which the lower-scored of two boxes is dropped.
        max_boxes: maximum number of boxes per frame.
    """

    min_score: float
    nms_iou: float
    max_boxes: int


def decode_boxes(
    heatmap: NDArray[np.float32],
    regression: NDArray[np.float32],
    observed: NDArray[np.float64],
    grid: BevGrid,
    decoding: Decoding,
) -> Boxes3D:
    """Boxes at the heat map's local maxima (3x3) after rotated non-maximum suppression.

    The decoding is CenterPoint's (Yin et al., CVPR 2021). A box is dropped if no agent had a return inside
    it, since there is no evidence for it.

    Args:
        heatmap: (height, width) logits of box centres.
        regression: (8, height, width) offset x, y in cells from the cell's corner, centre's z in metres,
            log of length, width and height in metres, sine and cosine of yaw.
        observed: (k, 2) from `observed_cells`.
        grid: of the maps, in the LiDAR frame.
        decoding: thresholds.

    Returns:
        Boxes in the LiDAR frame, by descending score.
    """
    score = (1.0 / (1.0 + np.exp(-heatmap))).astype(np.float32)
    padded = np.pad(score, 1)
    height, width = score.shape
    shifts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    row, column = np.nonzero((score >= np.max(shifts, axis=0)) & (score >= decoding.min_score))
    best = np.argsort(-score[row, column], kind='stable')[: 2 * decoding.max_boxes]
    row, column = row[best], column[best]
    boxes = boxes_at(row, column, regression, grid)
    scores = score[row, column]
    backed = np.nonzero(_on_observed_ground(boxes, observed, grid.cell))[0]
    kept = backed[nms(boxes[backed], scores[backed], decoding.nms_iou)[: decoding.max_boxes]]
    return Boxes3D(boxes, scores=scores)[kept]


def boxes_at(
    row: NDArray[np.int64], column: NDArray[np.int64], regression: NDArray[np.float32], grid: BevGrid
) -> NDArray[np.float64]:
    """The boxes (n, 7) that are predicted in cells (n,) of `regression`, see `decode_boxes`."""
    value = regression[:, row, column].astype(np.float64)
    return np.stack(
        (
            grid.x_min + (column + value[0]) * grid.cell,
            grid.y_min + (row + value[1]) * grid.cell,
            value[2],
            *np.exp(np.minimum(value[3:6], MAX_LOG_SIZE)),
            np.arctan2(value[6], value[7]),
        ),
        axis=1,
    )


def observed_cells(
    density: NDArray[np.float32], ego_to_agent: NDArray[np.float32], grid: BevGrid
) -> NDArray[np.float64]:
    """Centres of the cells in which an agent had a return.

    Args:
        density: (n, height, width) of each agent, above 0 where it had a return.
        ego_to_agent: (n, 2, 3), see `geometry.grid.grid_warps`.
        grid: of all agents.

    Returns:
        (k, 2) x and y in the ego's LiDAR frame, metres; one row per agent and cell.
    """
    agent, row, column = np.nonzero(density > 0)
    size = np.array([grid.width, grid.height])
    theirs = (2 * np.stack((column, row), axis=1) + 1) / size - 1
    warps = ego_to_agent.astype(np.float64)
    back = np.linalg.inv(warps[:, :, :2])
    normalised = np.einsum('kij,kj->ki', back[agent], theirs - warps[agent, :, 2])
    return np.array([grid.x_min, grid.y_min]) + (normalised + 1) / 2 * size * grid.cell


def _on_observed_ground(
    boxes: NDArray[np.float64], observed: NDArray[np.float64], cell: float
) -> NDArray[np.bool_]:
    """Whether each box, widened by half a cell to each side, holds the centre of an observed cell."""
    centres = np.column_stack((observed, np.zeros(len(observed))))
    return count_points(centres, widened(boxes, 0.5 * cell)) > 0
