# SPDX-License-Identifier: Apache-2.0
"""What RViz and Foxglove draw: detected boxes, the neighbours that helped or not, and what anybody saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix, inverse, pose_from_euler
from diffkd_ros.messages.conversions import pose_message
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.output.observed_area import BLOCK, block_centres
from diffkd_ros.runtime.detector import Detection

_BOX = (0.15, 0.75, 0.35)
_NEIGHBOUR = (0.15, 0.45, 0.95)
_REFUSED = (0.6, 0.6, 0.6)
_EGO_SHARE = (0.95, 0.75, 0.2)
# Just above the bottom of the grid, under everything else.
_GROUND = 0.5


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
    ego_pose: Matrix,
    area: NDArray[np.bool_],
    grid: BevGrid,
) -> MarkerArray:
    """All markers of one sweep; the first one deletes those of the sweep before.

    Namespaces: `detections`; `neighbours` and `neighbour_names`, with the gate weight of each, or in grey why
    it was refused, where it says where it is; `observed`, the blocks that anybody saw, from the ego's colour
    to the neighbours' by their share of the fused feature.

    Args:
        header: the ego sweep's.
        detection: in the ego's LiDAR frame; the more certain a box, the more opaque.
        verdicts: on all neighbours, the accepted ones first.
        ego_pose: map <- LiDAR of the ego.
        area: (agents, rows, columns) from `observed_area`.
        grid: the ego's.
    """
    boxes = detection.boxes
    markers = [Marker(header=header, action=Marker.DELETEALL), _observed(header, detection, area, grid)]
    scores = np.ones(len(boxes)) if boxes.scores is None else boxes.scores
    for number, (row, score) in enumerate(zip(boxes.boxes, scores, strict=True)):
        marker = _marker(header, 'detections', number, Marker.CUBE, pose_from_euler(row[:3], yaw=row[6]))
        _scale(marker, *map(float, row[3:6]))
        marker.color = _color(_BOX, 0.2 + 0.6 * float(score))
        markers.append(marker)
    to_ego = inverse(ego_pose)
    weights = [*detection.gate_weights[1:], *([0.0] * len(verdicts))]
    for number, (verdict, weight) in enumerate(zip(verdicts, weights, strict=False)):
        if verdict.pose is None:
            continue
        pose = to_ego @ verdict.pose
        color = _color(_NEIGHBOUR if verdict.accepted else _REFUSED, 0.9)
        sphere = _marker(header, 'neighbours', number, Marker.SPHERE, pose)
        # A neighbour that supplies half of what it covers is drawn as large as a car is wide.
        size = 1.0 + 2.0 * float(weight)
        _scale(sphere, size, size, size)
        text = _marker(header, 'neighbour_names', number, Marker.TEXT_VIEW_FACING, pose)
        text.pose.position.z += 2.0
        _scale(text, 0.0, 0.0, 1.5)
        refusal = verdict.reason.partition(':')[0]
        text.text = f'{verdict.agent}: {refusal or f"weight {weight:.2f}, {verdict.age * 1e3:.0f} ms old"}'
        for marker in (sphere, text):
            marker.color = color
            markers.append(marker)
    return MarkerArray(markers=markers)


def _observed(header: Header, detection: Detection, area: NDArray[np.bool_], grid: BevGrid) -> Marker:
    """One list of flat squares: a marker each would cost the publisher and RViz far more."""
    edge = BLOCK * grid.cell
    marker = _marker(header, 'observed', 0, Marker.CUBE_LIST, np.eye(4))
    _scale(marker, 0.95 * edge, 0.95 * edge, 0.05)
    rows, columns = area.shape[1:]
    share = detection.gate_map[0, : rows * BLOCK, : columns * BLOCK]
    own = share.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))
    seen = area.any(axis=0)
    x, y = block_centres(grid)
    z = grid.z_min + _GROUND
    marker.points = [Point(x=float(px), y=float(py), z=z) for px, py in zip(x[seen], y[seen], strict=True)]
    mix = own[seen, None] * np.array(_EGO_SHARE) + (1.0 - own[seen, None]) * np.array(_NEIGHBOUR)
    marker.colors = [_color((r, g, b), 0.35) for r, g, b in mix.tolist()]
    marker.color = _color(_EGO_SHARE, 0.35)
    return marker
