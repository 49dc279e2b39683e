# SPDX-License-Identifier: Apache-2.0
"""Markers for RViz and Foxglove: detected boxes, neighbours, the observed area, and what was received."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import Matrix, inverse, pose_from_euler
from diffkd_ros.messages.building import pose_message
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.runtime.decoding import observed_cells
from diffkd_ros.runtime.detector import Detection
from diffkd_ros.runtime.link.maps import ReceivedMap, TileState
from diffkd_ros.runtime.link.tables import TILE

_BOX = (0.15, 0.75, 0.35)
_NEIGHBOUR = (0.15, 0.45, 0.95)
_REFUSED = (0.6, 0.6, 0.6)
_EGO_SHARE = (0.95, 0.75, 0.2)
_TILES = {
    TileState.FINE: (0.1, 0.75, 0.85),
    TileState.COARSE: (0.6, 0.4, 0.95),
    TileState.MISSING: (0.85, 0.3, 0.3),
}
# The observed area is drawn in blocks of so many cells along an edge.
_BLOCK = 4
# Height of the observed area above the bottom of the grid, metres.
_GROUND = 0.5
# Height of the received tiles above the observed area.
_ABOVE = 0.1


def _color(rgb: tuple[float, float, float], alpha: float) -> ColorRGBA:
    return ColorRGBA(r=rgb[0], g=rgb[1], b=rgb[2], a=alpha)


def _marker(header: Header, namespace: str, number: int, kind: int, pose: Matrix) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.pose = pose_message(pose)
    return marker


def _scale(marker: Marker, x: float, y: float, z: float) -> None:
    marker.scale.x, marker.scale.y, marker.scale.z = x, y, z


def marker_array(
    header: Header,
    detection: Detection,
    verdicts: Sequence[Verdict],
    observed: NDArray[np.bool_],
    poses: Sequence[Matrix],
    grid: BevGrid,
) -> MarkerArray:
    """All markers of one sweep; the first one deletes those of the previous sweep.

    Namespaces: `detections`; `neighbours` and `neighbour_names` with the gate weight, or in grey with the
    reason if a neighbour was refused and its pose is known; `observed`, the blocks in which an agent had a
    return, coloured from the neighbours' to the ego's colour by the ego's share of the fused feature;
    `received`, the tiles of layered messages that are not empty: of which fine codes arrived (turquoise), the
    coarse code (violet) or nothing (red). A model with a restoration estimates the latter two.

    Args:
        header: of the ego's sweep.
        detection: in the ego's LiDAR frame; the higher its score, the more opaque a box.
        verdicts: on all neighbours, the accepted ones first.
        observed: (height, width) cells in which the ego had a return.
        poses: (4, 4) map <- LiDAR of the ego and of the accepted neighbours.
        grid: of the features.
    """
    boxes = detection.boxes
    masks = [observed, *(_observed_by(verdict) for verdict in verdicts if verdict.accepted)]
    blocks = observed_blocks(masks, poses, grid)
    markers = [Marker(header=header, action=Marker.DELETEALL), _observed(header, detection, blocks, grid)]
    scores = np.ones(len(boxes)) if boxes.scores is None else boxes.scores
    for number, (row, score) in enumerate(zip(boxes.boxes, scores, strict=True)):
        marker = _marker(header, 'detections', number, Marker.CUBE, pose_from_euler(row[:3], yaw=row[6]))
        _scale(marker, *map(float, row[3:6]))
        marker.color = _color(_BOX, 0.2 + 0.6 * float(score))
        markers.append(marker)
    to_ego = inverse(poses[0])
    weights = [*detection.gate_weights[1:], *([0.0] * len(verdicts))]
    for number, (verdict, weight) in enumerate(zip(verdicts, weights, strict=False)):
        if verdict.pose is None:
            continue
        pose = to_ego @ verdict.pose
        color = _color(_NEIGHBOUR if verdict.accepted else _REFUSED, 0.9)
        sphere = _marker(header, 'neighbours', number, Marker.SPHERE, pose)
        # A weight of 0.5 gives a sphere as large as a car is wide.
        size = 1.0 + 2.0 * float(weight)
        _scale(sphere, size, size, size)
        text = _marker(header, 'neighbour_names', number, Marker.TEXT_VIEW_FACING, pose)
        text.pose.position.z += 2.0
        _scale(text, 0.0, 0.0, 1.5)
        refusal = verdict.reason.partition(':')[0]
        text.text = f'{verdict.agent}: {refusal or _described(verdict, float(weight))}'
        for marker in (sphere, text):
            marker.color = color
            markers.append(marker)
        if verdict.tiles is not None:
            markers.append(_received(header, number, verdict.tiles, pose, grid))
    return MarkerArray(markers=markers)


def _described(verdict: Verdict, weight: float) -> str:
    text = f'weight {weight:.2f}, {verdict.age * 1e3:.0f} ms old'
    if verdict.tiles is not None:
        extent = verdict.extent
        text += f', {extent.chunks} of {extent.announced} chunks, {verdict.restored:.0%} restored'
    return text


def _observed_by(verdict: Verdict) -> NDArray[np.bool_]:
    feature = verdict.feature
    assert feature is not None
    return feature.occupied() if isinstance(feature, ReceivedMap) else feature.density > 0


def observed_blocks(
    masks: Sequence[NDArray[np.bool_]], poses: Sequence[Matrix], grid: BevGrid
) -> NDArray[np.bool_]:
    """Which blocks of the ego's grid contain a cell in which an agent had a return.

    Args:
        masks: (height, width) cells in which each agent had a return, the ego's first.
        poses: (4, 4) map <- LiDAR of the same agents.
        grid: of all agents.

    Returns:
        (height // 4, width // 4).
    """
    warps = grid_warps(poses, grid)
    cells = observed_cells(np.stack(masks), warps, grid)
    column, row = np.floor((cells - (grid.x_min, grid.y_min)) / (_BLOCK * grid.cell)).astype(int).T
    blocks = np.zeros((grid.height // _BLOCK, grid.width // _BLOCK), bool)
    inside = (row >= 0) & (row < blocks.shape[0]) & (column >= 0) & (column < blocks.shape[1])
    blocks[row[inside], column[inside]] = True
    return blocks


def _received(header: Header, number: int, tiles: NDArray[np.uint8], pose: Matrix, grid: BevGrid) -> Marker:
    """A neighbour's tiles that are not empty, in its own frame; `pose`: ego's LiDAR <- its LiDAR."""
    edge = TILE * grid.cell
    marker = _marker(header, 'received', number, Marker.CUBE_LIST, pose)
    _scale(marker, 0.8 * edge, 0.8 * edge, 0.05)
    row, column = np.nonzero(tiles != TileState.EMPTY)
    x, y = grid.x_min + edge * (column + 0.5), grid.y_min + edge * (row + 0.5)
    z = grid.z_min + _GROUND + _ABOVE
    marker.points = [Point(x=px, y=py, z=z) for px, py in zip(x.tolist(), y.tolist(), strict=True)]
    colors = {state: _color(rgb, 0.45) for state, rgb in _TILES.items()}
    marker.colors = [colors[TileState(state)] for state in tiles[row, column].tolist()]
    marker.color = colors[TileState.FINE]
    return marker


def _observed(header: Header, detection: Detection, blocks: NDArray[np.bool_], grid: BevGrid) -> Marker:
    """The observed blocks as one list of flat squares, which is much cheaper than one marker each."""
    edge = _BLOCK * grid.cell
    marker = _marker(header, 'observed', 0, Marker.CUBE_LIST, np.eye(4))
    _scale(marker, 0.95 * edge, 0.95 * edge, 0.05)
    rows, columns = blocks.shape
    share = detection.gate_map[0, : rows * _BLOCK, : columns * _BLOCK]
    own = share.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))[blocks]
    row, column = np.nonzero(blocks)
    x, y = grid.x_min + edge * (column + 0.5), grid.y_min + edge * (row + 0.5)
    z = grid.z_min + _GROUND
    marker.points = [Point(x=float(px), y=float(py), z=z) for px, py in zip(x, y, strict=True)]
    mix = own[:, None] * np.array(_EGO_SHARE) + (1.0 - own[:, None]) * np.array(_NEIGHBOUR)
    marker.colors = [_color((r, g, b), 0.35) for r, g, b in mix.tolist()]
    marker.color = _color(_EGO_SHARE, 0.35)
    return marker
