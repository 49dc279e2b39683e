# SPDX-License-Identifier: Apache-2.0
"""`vision_msgs/Detection3DArray`, where that package is installed; it is not among the Python wheels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from std_msgs.msg import Header

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.nodes.conversions import pose_message

try:
    from vision_msgs import msg as vision_msgs
except ImportError:
    vision_msgs = None

available = vision_msgs is not None


def detection_array(header: Header, boxes: Boxes3D, class_names: Sequence[str]) -> Any:
    """Detections as `vision_msgs/Detection3DArray`; covariances stay zero, which means unknown.

    Args:
        header: the ego sweep's.
        boxes: with scores, in the header's frame.
        class_names: meaning of the labels.
    """
    message = vision_msgs.Detection3DArray(header=header)
    scores = np.zeros(len(boxes)) if boxes.scores is None else boxes.scores
    for row, score, label in zip(boxes.boxes, scores, boxes.labels, strict=True):
        pose = pose_message(pose_from_euler(row[:3], yaw=row[6]))
        result = vision_msgs.ObjectHypothesisWithPose()
        result.hypothesis.class_id = class_names[label]
        result.hypothesis.score = float(score)
        result.pose.pose = pose
        detection = vision_msgs.Detection3D(header=header, results=[result])
        detection.bbox.center = pose
        size = detection.bbox.size
        size.x, size.y, size.z = map(float, row[3:6])
        message.detections.append(detection)
    return message
