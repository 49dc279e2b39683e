# SPDX-License-Identifier: Apache-2.0
"""Merging of the boxes that neighbours sent with those that were detected in the fused map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import count_points, flattened, transform_boxes
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.geometry.poses import Matrix, inverse
from diffkd_ros.runtime.decoding import Decoding
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.tables import LinkTables

ENOUGH = 0.5
"""Share of a box's cells whose fine codes must have arrived, so that the fused map replaces the box."""


def merge_received(
    fused: Boxes3D,
    received: Sequence[ReceivedMap],
    poses: Sequence[Matrix],
    tables: LinkTables,
    grid: BevGrid,
    decoding: Decoding,
) -> Boxes3D:
    """Add the boxes that were sent for places of which the fused map knows little.

    Args:
        fused: detections in the fused map.
        received: of each neighbour.
        poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
        tables: of the layered message.
        grid: of all maps.
        decoding: thresholds.

    Returns:
        Boxes in the ego's LiDAR frame, by descending score.
    """
    parts = [fused]
    back = inverse(poses[0])
    for each, pose in zip(received, poses[1:], strict=True):
        if each.boxes is None:
            continue
        kept = each.boxes[~_replaced(each, tables, grid)]
        theirs = transform_boxes(back @ pose, kept.boxes)
        around_ego = count_points(np.zeros((1, 3)), flattened(theirs)) > 0
        parts.append(kept.with_boxes(theirs)[~around_ego])
    boxes = np.concatenate([part.boxes for part in parts])
    scores = np.concatenate([_scores(part) for part in parts])
    order = nms(boxes, scores, decoding.nms_iou)[: decoding.max_boxes]
    return Boxes3D(boxes, scores=scores)[order]


def _scores(boxes: Boxes3D) -> NDArray[np.float32]:
    return np.zeros(0, np.float32) if boxes.scores is None else boxes.scores


def _replaced(received: ReceivedMap, tables: LinkTables, grid: BevGrid) -> NDArray[np.bool_]:
    """Mask of the boxes for which enough of the sender's map arrived."""
    assert received.boxes is not None
    row, column = np.indices((grid.height, grid.width)).reshape(2, -1)
    x = grid.x_min + (column + 0.5) * grid.cell
    y = grid.y_min + (row + 0.5) * grid.cell
    cells = np.column_stack((x, y, np.zeros(len(x))))
    prisms = flattened(received.boxes.boxes)
    arrived = received.fine[0].ravel() >= 0
    return count_points(cells[arrived], prisms) >= ENOUGH * np.maximum(count_points(cells, prisms), 1)
