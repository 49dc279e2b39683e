# SPDX-License-Identifier: Apache-2.0
"""Detections as `vision_msgs/Detection3DArray` and `LabelInfo`, if `vision_msgs` is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.messages.building import pose_message
from diffkd_ros.nodes.base import qos
from diffkd_ros.runtime.card import ModelCard

try:
    from vision_msgs import msg as vision_msgs
except ImportError:  # not available as a wheel
    vision_msgs = None

available = vision_msgs is not None


class VisionOutput:
    """Publishes detections, and the latched class names once, as `vision_msgs`.

    Args:
        node: owner of the lifecycle publishers.
        card: of the model.
    """

    DETECTIONS = 'detections_3d'
    LABELS = 'label_info'

    def __init__(self, node: LifecycleNode, card: ModelCard) -> None:
        self._node, self._card = node, card
        self._detections = node.create_lifecycle_publisher(
            vision_msgs.Detection3DArray, self.DETECTIONS, qos.RESULTS
        )
        self._labels = node.create_lifecycle_publisher(vision_msgs.LabelInfo, self.LABELS, qos.LATCHED)

    def publish_labels(self) -> None:
        """Publish the class names; the node must be active."""
        message = label_info(self._card)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._labels.publish(message)

    def publish(self, header: Header, boxes: Boxes3D) -> None:
        """Publish the detections of one sweep."""
        self._detections.publish(detection_array(header, boxes))


def label_info(card: ModelCard) -> Any:
    """Class names of a model as `vision_msgs/LabelInfo`."""
    classes = [
        vision_msgs.VisionClass(class_id=number, class_name=name)
        for number, name in enumerate(card.class_names)
    ]
    return vision_msgs.LabelInfo(class_map=classes, threshold=float(card.min_score))


def detection_array(header: Header, boxes: Boxes3D) -> Any:
    """Detections as `vision_msgs/Detection3DArray`.

    `class_id` is the number in `LabelInfo`, as a string. Covariances stay zero, which means unknown.

    Args:
        header: of the ego's sweep.
        boxes: with scores, in the header's frame.
    """
    message = vision_msgs.Detection3DArray(header=header)
    scores = np.zeros(len(boxes)) if boxes.scores is None else boxes.scores
    for row, score, label in zip(boxes.boxes, scores, boxes.labels, strict=True):
        pose = pose_message(pose_from_euler(row[:3], yaw=row[6]))
        result = vision_msgs.ObjectHypothesisWithPose()
        result.hypothesis.class_id = str(label)
        result.hypothesis.score = float(score)
        result.pose.pose = pose
        detection = vision_msgs.Detection3D(header=header, results=[result])
        detection.bbox.center = pose
        size = detection.bbox.size
        size.x, size.y, size.z = map(float, row[3:6])
        message.detections.append(detection)
    return message
