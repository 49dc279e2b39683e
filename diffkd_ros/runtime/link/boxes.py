# SPDX-License-Identifier: Apache-2.0
"""Boxes as 12 bytes each, and as maps for the restoration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.runtime.codec import PayloadError

_RECORD = np.dtype([('centre', '<i2', 3), ('size', 'u1', 3), ('yaw', '<i2'), ('score', 'u1')])
BOX_BYTES = _RECORD.itemsize
_CENTRE = 0.01  # metres
_SIZE = np.array([0.1, 0.02, 0.02])  # metres
_YAW = np.pi / 2**15  # radians
_SCORE = 1 / 255
_MOST = 2**15 - 1


def boxes_to_bytes(boxes: Boxes3D) -> bytes:
    """Encode boxes with scores, in their order, `BOX_BYTES` each.

    Centres are rounded to 1 cm, lengths to 10 cm, widths and heights to 2 cm, yaw to 2^-15 pi and scores to
    1/255. Lengths are cut to 25.5 m, widths and heights to 5.1 m. Boxes with a coordinate beyond 327.67 m are
    left out.
    """
    assert boxes.scores is not None
    centres = np.rint(boxes.boxes[:, :3] / _CENTRE)
    expressible = (np.abs(centres) <= _MOST).all(axis=1)
    values = boxes.boxes[expressible]
    records = np.zeros(len(values), _RECORD)
    records['centre'] = centres[expressible]
    records['size'] = np.clip(np.rint(values[:, 3:6] / _SIZE), 1, 255)
    turns = np.rint(np.remainder(values[:, 6], 2 * np.pi) / _YAW).astype(np.int64)
    records['yaw'] = (turns + 2**15) % 2**16 - 2**15
    records['score'] = np.clip(np.rint(boxes.scores[expressible] / _SCORE), 0, 255)
    return records.tobytes()


def boxes_from_bytes(data: bytes) -> Boxes3D:
    """Decode what `boxes_to_bytes` made.

    Raises:
        PayloadError: if the length is not a multiple of `BOX_BYTES`, or a box has a side of 0.
    """
    if len(data) % BOX_BYTES:
        raise PayloadError(f'{len(data)} bytes of boxes are not a multiple of {BOX_BYTES}')
    records = np.frombuffer(data, _RECORD)
    if not records['size'].all():
        row = int(np.argmin(records['size'].all(axis=1)))
        raise PayloadError(f'box {row} has sides of {records["size"][row].tolist()}')
    values = (records['centre'] * _CENTRE, records['size'] * _SIZE, records['yaw'][:, None] * _YAW)
    return Boxes3D(np.concatenate(values, axis=1), scores=(records['score'] * _SCORE).astype(np.float32))


def draw_boxes(boxes: Boxes3D, grid: BevGrid) -> NDArray[np.float32]:
    """Boxes as maps that the restoration is conditioned on.

    Args:
        boxes: with scores, in the LiDAR frame of the grid; those with a centre outside it are not drawn.
        grid: of the feature map.

    Returns:
        (9, height, width): the score and the eight regression values of `decoding.decode_boxes` in the cell
        of each centre, 0 elsewhere. Of several boxes in a cell the one with the highest score is drawn.
    """
    assert boxes.scores is not None
    maps = np.zeros((9, grid.height, grid.width), np.float32)
    place = (boxes.boxes[:, :2] - [grid.x_min, grid.y_min]) / grid.cell
    column, row = cell = np.floor(place).astype(int).T
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    z, size, yaw = boxes.boxes[:, 2:3], boxes.boxes[:, 3:6], boxes.boxes[:, 6:]
    values = np.concatenate(
        (boxes.scores[:, None], place - cell.T, z, np.log(size), np.sin(yaw), np.cos(yaw)), axis=1
    )
    for k in np.argsort(boxes.scores, kind='stable'):
        if inside[k]:
            maps[:, row[k], column[k]] = values[k]
    return maps
