# SPDX-License-Identifier: Apache-2.0
"""Detections as Autoware's `autoware_perception_msgs/DetectedObjects`.

`autoware_objects` converts boxes to plain values, which `detected_objects` copies into messages; so the
conversion does not need the message package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from std_msgs.msg import Header

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import Matrix, pose_from_euler
from diffkd_ros.messages.building import pose_message

# autoware_perception_msgs/ObjectClassification. It has no generic vehicle: `vehicle` becomes a car.
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
# The detector distinguishes front and back.
ORIENTATION_AVAILABLE = 2


@dataclass(frozen=True)
class AutowareObject:
    """One object as Autoware describes it.

    Attributes:
        label: constant of `ObjectClassification`.
        probability: score of the network; not a calibrated probability, despite the name of Autoware's field.
        pose: (4, 4) frame of the detections <- centre of the box.
        dimensions: length, width, height, metres.
    """

    label: int
    probability: float
    pose: Matrix
    dimensions: tuple[float, float, float]


def autoware_objects(boxes: Boxes3D, class_names: Sequence[str]) -> list[AutowareObject]:
    """Boxes as Autoware describes them; an unknown class becomes UNKNOWN."""
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
    """Objects as `DetectedObjects`; velocities and covariances are marked as unavailable.

    Args:
        messages: the module `autoware_perception_msgs.msg`.
        header: of the detections.
        objects: from `autoware_objects`.
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
