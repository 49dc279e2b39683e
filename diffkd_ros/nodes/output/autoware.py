# SPDX-License-Identifier: Apache-2.0
"""Detections as Autoware's `autoware_perception_msgs/DetectedObjects`.

What an object becomes is decided in plain values, `autoware_objects`; `detected_objects` copies them into
messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from std_msgs.msg import Header

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import Matrix, pose_from_euler
from diffkd_ros.messages.conversions import pose_message

# autoware_perception_msgs/ObjectClassification. It knows no vehicle of whatever kind: that counts as a car.
LABELS = {
    'vehicle': 1,
    'car': 1,
    'truck': 2,
    'bus': 3,
    'trailer': 4,
    'motorcycle': 5,
    'cyclist': 6,
    'bicycle': 6,
    'pedestrian': 7,
}
UNKNOWN = 0
BOUNDING_BOX = 0
# A detector that tells front from back.
ORIENTATION_AVAILABLE = 2


@dataclass(frozen=True)
class AutowareObject:
    """One object in Autoware's terms.

    Attributes:
        label: one of Autoware's numbers.
        probability: the network's score, which is no probability, though Autoware's fields are called so.
        pose: (4, 4) frame of the detections <- centre of the box.
        dimensions: length, width, height, metres.
    """

    label: int
    probability: float
    pose: Matrix
    dimensions: tuple[float, float, float]


def autoware_objects(boxes: Boxes3D, class_names: Sequence[str]) -> list[AutowareObject]:
    """Boxes in Autoware's terms; a class it does not know becomes UNKNOWN."""
    scores = np.zeros(len(boxes)) if boxes.scores is None else boxes.scores
    return [
        AutowareObject(
            LABELS.get(class_names[label] if label < len(class_names) else '', UNKNOWN),
            float(score),
            pose_from_euler(row[:3], yaw=row[6]),
            (float(row[3]), float(row[4]), float(row[5])),
        )
        for row, score, label in zip(boxes.boxes, scores, boxes.labels, strict=True)
    ]


def detected_objects(messages: Any, header: Header, objects: Sequence[AutowareObject]) -> Any:
    """Fill a message.

    Args:
        messages: the module `autoware_perception_msgs.msg`.
        header: of the detections.
        objects: from `autoware_objects`. Velocities and covariances are unknown and marked so.
    """
    result = messages.DetectedObjects(header=header)
    for item in objects:
        detected = messages.DetectedObject(existence_probability=item.probability)
        detected.classification = [
            messages.ObjectClassification(label=item.label, probability=item.probability)
        ]
        kinematics = detected.kinematics
        kinematics.pose_with_covariance.pose = pose_message(item.pose)
        kinematics.has_position_covariance = False
        kinematics.orientation_availability = ORIENTATION_AVAILABLE
        kinematics.has_twist = kinematics.has_twist_covariance = False
        detected.shape.type = BOUNDING_BOX
        size = detected.shape.dimensions
        size.x, size.y, size.z = item.dimensions
        result.objects.append(detected)
    return result
