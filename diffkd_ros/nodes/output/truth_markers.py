# SPDX-License-Identifier: Apache-2.0
"""Markers of the ground truth for RViz and Foxglove: outlines of the found, missed and ignored vehicles."""

from __future__ import annotations

import itertools

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import corners
from diffkd_ros.metrics.average_precision import Matching

_COLOURS = {'found': (0.96, 0.96, 0.98), 'missed': (1.0, 0.3, 0.37), 'ignored': (0.42, 0.45, 0.52)}
# Bottom, top and vertical edges; `corners` gives the four bottom corners, then the four top corners.
_EDGES = [(k, (k + 1) % 4) for k in range(4)]
_EDGES += [(a + 4, b + 4) for a, b in _EDGES] + [(k, k + 4) for k in range(4)]


def truth_markers(header: Header, truth: Boxes3D, matching: Matching) -> MarkerArray:
    """Outlines of the vehicles, in the namespaces `found`, `missed` and `ignored` (not counted).

    Args:
        header: of the ego's sweep.
        truth: in the frame of the header.
        matching: of the detections with this truth.
    """
    found = set(matching.truth_index.tolist())
    kinds = [
        'ignored' if not counted else 'found' if row in found else 'missed'
        for row, counted in enumerate(matching.counted)
    ]
    boxes = corners(truth.boxes)
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for kind, (red, green, blue) in _COLOURS.items():
        rows = [row for row, row_kind in enumerate(kinds) if row_kind == kind]
        marker = Marker(header=header, ns=kind, type=Marker.LINE_LIST, action=Marker.ADD)
        marker.pose.orientation.w = 1.0
        marker.scale.x = 0.12
        marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        marker.points = [
            Point(x=float(x), y=float(y), z=float(z))
            for row, edge in itertools.product(rows, _EDGES)
            for x, y, z in boxes[row, edge, :]
        ]
        if rows:
            markers.append(marker)
    return MarkerArray(markers=markers)
