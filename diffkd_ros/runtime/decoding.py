# SPDX-License-Identifier: Apache-2.0
"""The head's raw maps to boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.runtime.grid import BevGrid

MAX_LOG_SIZE = 3.5  # e^3.5 = 33 m: no vehicle is longer, and exp cannot overflow


@dataclass(frozen=True, slots=True)
class Decoding:
    """What counts as a detection, see `decode_boxes`."""

    min_score: float
    nms_iou: float
    max_boxes: int


def decode_boxes(
    heatmap: NDArray[np.float32],
    regression: NDArray[np.float32],
    grid: BevGrid,
    min_score: float,
    nms_iou: float,
    max_boxes: int,
) -> Boxes3D:
    """Boxes at the heat map's local maxima (3x3), thinned by rotated non-maximum suppression.

    Args:
        heatmap: (height, width) logits of box centres.
        regression: (8, height, width) offset x, y in cells from the cell's corner, centre's z in metres,
            log of length, width and height in metres, sine and cosine of yaw.
        grid: where the maps lie, in the LiDAR frame.
        min_score: least score kept.
        nms_iou: bird's-eye-view IoU above which the weaker box goes.
        max_boxes: most boxes returned.

    Returns:
        Boxes in the LiDAR frame, by descending score.
    """
    score = (1.0 / (1.0 + np.exp(-heatmap))).astype(np.float32)
    padded = np.pad(score, 1)
    height, width = score.shape
    shifts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    row, column = np.nonzero((score >= np.max(shifts, axis=0)) & (score >= min_score))
    best = np.argsort(-score[row, column], kind='stable')[: 2 * max_boxes]
    row, column = row[best], column[best]
    value = regression[:, row, column].astype(np.float64)
    boxes = np.stack(
        (
            grid.x_min + (column + value[0]) * grid.cell,
            grid.y_min + (row + value[1]) * grid.cell,
            value[2],
            *np.exp(np.minimum(value[3:6], MAX_LOG_SIZE)),
            np.arctan2(value[6], value[7]),
        ),
        axis=1,
    )
    found = Boxes3D(boxes, scores=score[row, column])
    return found[nms(boxes, score[row, column], nms_iou)[:max_boxes]]
