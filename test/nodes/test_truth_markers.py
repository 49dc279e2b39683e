# SPDX-License-Identifier: Apache-2.0
"""Outlines of the ground truth: position and namespace."""

from __future__ import annotations

import numpy as np
from visualization_msgs.msg import Marker

from diffkd_ros.frame import Boxes3D
from diffkd_ros.messages.building import header_message
from diffkd_ros.metrics.average_precision import match
from diffkd_ros.nodes.output.truth_markers import truth_markers


def test_each_vehicle_is_drawn_once_in_the_namespace_of_its_result():
    boxes = np.array([[10.0, 0, 1, 4, 2, 2, 0], [20, 0, 1, 4, 2, 2, np.pi / 2], [30, 0, 1, 4, 2, 2, 0]])
    truth = Boxes3D(boxes, num_points=np.array([9, 9, 1]))
    found = Boxes3D(boxes[:1], scores=np.ones(1, np.float32))
    array = truth_markers(header_message(5, 'cav_1/lidar'), truth, match(found, truth, 0.5))
    assert array.markers[0].action == Marker.DELETEALL
    drawn = {marker.ns: marker for marker in array.markers[1:]}
    assert sorted(drawn) == ['found', 'ignored', 'missed']
    expected = {'found': (8, 12, -1, 1), 'missed': (19, 21, -2, 2), 'ignored': (28, 32, -1, 1)}
    for kind, (x_low, x_high, y_low, y_high) in expected.items():
        points = np.array([(p.x, p.y, p.z) for p in drawn[kind].points])
        # Twelve edges, parallel to the axes.
        assert len(points) == 24
        lengths = np.sort(np.abs(points[::2] - points[1::2]).sum(axis=1))
        np.testing.assert_allclose(lengths, [2] * 8 + [4] * 4, atol=1e-9)
        np.testing.assert_allclose(points.min(axis=0), (x_low, y_low, 0), atol=1e-9)
        np.testing.assert_allclose(points.max(axis=0), (x_high, y_high, 2), atol=1e-9)


def test_an_empty_frame_deletes_the_previous_markers():
    nothing = Boxes3D(np.zeros((0, 7)), scores=np.zeros(0, np.float32))
    array = truth_markers(header_message(5, 'x'), nothing, match(nothing, nothing, 0.5))
    assert [marker.action for marker in array.markers] == [Marker.DELETEALL]
