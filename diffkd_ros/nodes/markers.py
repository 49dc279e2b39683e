# SPDX-License-Identifier: Apache-2.0
"""What RViz and Foxglove draw: detected boxes and the neighbours that helped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import Matrix, inverse, pose_from_euler
from diffkd_ros.nodes.conversions import pose_message
from diffkd_ros.nodes.neighbours import Verdict

_BOX = (0.15, 0.75, 0.35)
_NEIGHBOUR = (0.15, 0.45, 0.95)


def _marker(header: Header, namespace: str, number: int, kind: int, pose: Matrix) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.pose = pose_message(pose)
    return marker


def _scale(marker: Marker, x: float, y: float, z: float) -> None:
    marker.scale.x, marker.scale.y, marker.scale.z = x, y, z


def marker_array(
    header: Header,
    detections: Boxes3D,
    verdicts: Sequence[Verdict],
    weights: NDArray[np.float32],
    ego_pose: Matrix,
) -> MarkerArray:
    """All markers of one sweep; the first one deletes those of the sweep before.

    Args:
        header: the ego sweep's.
        detections: in the ego's LiDAR frame; the more certain, the more opaque.
        verdicts: on all neighbours, the accepted ones first.
        weights: gate weights of the accepted ones.
        ego_pose: map <- LiDAR of the ego.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    scores = np.ones(len(detections)) if detections.scores is None else detections.scores
    for number, (row, score) in enumerate(zip(detections.boxes, scores, strict=True)):
        marker = _marker(header, 'detections', number, Marker.CUBE, pose_from_euler(row[:3], yaw=row[6]))
        _scale(marker, *map(float, row[3:6]))
        marker.color = ColorRGBA(r=_BOX[0], g=_BOX[1], b=_BOX[2], a=0.2 + 0.6 * float(score))
        markers.append(marker)
    to_ego = inverse(ego_pose)
    for number, (verdict, weight) in enumerate(zip(verdicts, weights, strict=False)):
        if verdict.pose is None:
            continue
        pose = to_ego @ verdict.pose
        sphere = _marker(header, 'neighbours', number, Marker.SPHERE, pose)
        _scale(sphere, 1.5, 1.5, 1.5)
        text = _marker(header, 'neighbour_names', number, Marker.TEXT_VIEW_FACING, pose)
        text.pose.position.z += 2.0
        _scale(text, 0.0, 0.0, 1.5)
        text.text = f'{verdict.agent}: weight {weight:.2f}, {verdict.age * 1e3:.0f} ms old'
        for marker in (sphere, text):
            marker.color = ColorRGBA(r=_NEIGHBOUR[0], g=_NEIGHBOUR[1], b=_NEIGHBOUR[2], a=0.9)
            markers.append(marker)
    return MarkerArray(markers=markers)
