# SPDX-License-Identifier: Apache-2.0
"""Detections as ETSI's Collective Perception Message, TS 103 324 release 2 (`etsi_its_cpm_ts_msgs`).

`collective_perception` converts boxes to plain values in the standard's units, which `cpm_message` copies
into ROS messages. Encoding (UPER), signing and sending are left to an ITS stack.

Coordinates are east, north and up of the reference position, which is that of the LiDAR. The map frame must
therefore have x east and y north (REP-103) and a known origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import Matrix, yaw_of

# 2004-01-01 in Unix time. ITS time counts leap seconds; there were five since then.
_ITS_EPOCH_MS = 1_072_915_200_000
_LEAP_SECONDS_MS = 5_000

# WGS 84.
_EQUATOR_RADIUS = 6_378_137.0
_ECCENTRICITY_SQUARED = 6.694379990141e-3

MESSAGE_ID = 14
PROTOCOL_VERSION = 2
VEHICLE_CONTAINER = 1
OBJECT_CONTAINER = 5
MAX_OBJECTS = 255
# Values that mean unavailable.
NO_COORDINATE_CONFIDENCE = 4096
NO_ANGLE_CONFIDENCE = 127
NO_DIMENSION_CONFIDENCE = 32
NO_SEMI_AXIS = 4095
NO_HEADING = 3601
NO_ALTITUDE_CONFIDENCE = 15
NO_CLASS_CONFIDENCE = 101

# TrafficParticipantType. It has no generic vehicle: `vehicle` becomes unknown.
_VEHICLES = {'vehicle': 0, 'car': 5, 'truck': 8, 'bus': 6, 'trailer': 9, 'motorcycle': 4}


@dataclass(frozen=True)
class MapOrigin:
    """Position of the map frame's origin: degrees, degrees, metres above the ellipsoid."""

    latitude: float
    longitude: float
    altitude: float = 0.0


@dataclass(frozen=True)
class PerceivedObject:
    """One object in the standard's units.

    Attributes:
        object_id: index in the message; not stable between messages, because there is no tracking.
        position: east, north, up of the reference position, 0.01 m.
        angle: of the x axis from east to north, 0.1 degrees.
        dimensions: length, width, height, 0.1 m.
        vehicle_type: TrafficParticipantType, or None if the object is not a vehicle.
        quality: ObjectPerceptionQuality, 15 times the score of the network.
    """

    object_id: int
    position: tuple[int, int, int]
    angle: int
    dimensions: tuple[int, int, int]
    vehicle_type: int | None
    quality: int


@dataclass(frozen=True)
class CollectivePerception:
    """One message in the standard's units.

    Attributes:
        reference_time: milliseconds of ITS time.
        latitude: 1e-7 degrees.
        longitude: 1e-7 degrees.
        altitude: 0.01 m.
        heading: of the LiDAR's x axis, clockwise from north, 0.1 degrees.
        objects: at most `MAX_OBJECTS`, by descending score.
    """

    reference_time: int
    latitude: int
    longitude: int
    altitude: int
    heading: int
    objects: list[PerceivedObject]


def its_time(stamp: int) -> int:
    """Unix nanoseconds as milliseconds of ITS time."""
    return stamp // 1_000_000 - _ITS_EPOCH_MS + _LEAP_SECONDS_MS


def geodetic(origin: MapOrigin, east: float, north: float, up: float) -> tuple[float, float, float]:
    """Latitude, longitude and altitude of a point given in metres in the tangent plane at the origin.

    The error is centimetres within a kilometre and grows with the square of the distance.
    """
    latitude = np.radians(origin.latitude)
    # Radii of curvature of the ellipsoid.
    flattening = 1.0 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2
    meridian = _EQUATOR_RADIUS * (1.0 - _ECCENTRICITY_SQUARED) / flattening**1.5
    prime_vertical = _EQUATOR_RADIUS / np.sqrt(flattening)
    return (
        origin.latitude + np.degrees(north / (meridian + origin.altitude)),
        origin.longitude + np.degrees(east / ((prime_vertical + origin.altitude) * np.cos(latitude))),
        origin.altitude + up,
    )


def _clipped(value: float, low: int, high: int) -> int:
    return int(np.clip(round(value), low, high))


def _tenth_degrees(angle: float) -> int:
    return round(np.degrees(angle) * 10.0) % 3600


def collective_perception(
    stamp: int, boxes: Boxes3D, class_names: Sequence[str], pose: Matrix, origin: MapOrigin
) -> CollectivePerception:
    """Detections of one sweep in the units of the standard.

    Args:
        stamp: of the sweep, Unix nanoseconds.
        boxes: in the LiDAR's frame, by descending score.
        class_names: meaning of the labels.
        pose: (4, 4) map <- LiDAR.
        origin: of the map.
    """
    latitude, longitude, altitude = geodetic(origin, *pose[:3, 3])
    # Axes of the map, origin at the LiDAR.
    rotation = pose.copy()
    rotation[:3, 3] = 0.0
    rows = transform_boxes(rotation, boxes.boxes[:MAX_OBJECTS])
    scores = np.zeros(len(boxes)) if boxes.scores is None else boxes.scores
    objects = []
    for number, row in enumerate(rows):
        label = int(boxes.labels[number])
        name = class_names[label] if label < len(class_names) else ''
        objects.append(
            PerceivedObject(
                number,
                tuple(_clipped(100.0 * v, -131_072, 131_071) for v in row[:3]),  # type: ignore[arg-type]
                _tenth_degrees(row[6]),
                tuple(_clipped(10.0 * v, 1, 255) for v in row[3:6]),  # type: ignore[arg-type]
                _VEHICLES.get(name),
                _clipped(15.0 * float(scores[number]), 0, 15),
            )
        )
    return CollectivePerception(
        its_time(stamp),
        round(latitude * 1e7),
        round(longitude * 1e7),
        _clipped(100.0 * altitude, -100_000, 800_000),
        _tenth_degrees(np.pi / 2 - yaw_of(pose)),
        objects,
    )


def cpm_message(messages: Any, station: int, values: CollectivePerception) -> Any:
    """Values as a `CollectivePerceptionMessage`.

    Args:
        messages: the module `etsi_its_cpm_ts_msgs.msg`.
        station: StationId of the sender.
        values: from `collective_perception`.
    """
    message = messages.CollectivePerceptionMessage()
    message.header.protocol_version.value = PROTOCOL_VERSION
    message.header.message_id.value = MESSAGE_ID
    message.header.station_id.value = station
    management = message.payload.management_container
    management.reference_time.value = values.reference_time
    reference = management.reference_position
    reference.latitude.value, reference.longitude.value = values.latitude, values.longitude
    reference.altitude.altitude_value.value = values.altitude
    reference.altitude.altitude_confidence.value = NO_ALTITUDE_CONFIDENCE
    ellipse = reference.position_confidence_ellipse
    ellipse.semi_major_confidence.value = ellipse.semi_minor_confidence.value = NO_SEMI_AXIS
    ellipse.semi_major_orientation.value = NO_HEADING

    vehicle = messages.WrappedCpmContainer()
    vehicle.container_id.value = VEHICLE_CONTAINER
    heading = vehicle.container_data_originating_vehicle_container.orientation_angle
    heading.value.value, heading.confidence.value = values.heading, NO_ANGLE_CONFIDENCE

    perceived = messages.WrappedCpmContainer()
    perceived.container_id.value = OBJECT_CONTAINER
    container = perceived.container_data_perceived_object_container
    container.number_of_perceived_objects.value = len(values.objects)
    container.perceived_objects.array = [_object_message(messages, item) for item in values.objects]
    message.payload.cpm_containers.value.array = [vehicle, perceived]
    return message


def _object_message(messages: Any, item: PerceivedObject) -> Any:
    message = messages.PerceivedObject()
    message.object_id.value = item.object_id
    message.object_id_is_present = True
    message.measurement_delta_time.value = 0
    position = message.position
    position.z_coordinate_is_present = True
    axes = (position.x_coordinate, position.y_coordinate, position.z_coordinate)
    for coordinate, value in zip(axes, item.position, strict=True):
        coordinate.value.value = value
        coordinate.confidence.value = NO_COORDINATE_CONFIDENCE
    message.angles.z_angle.value.value = item.angle
    message.angles.z_angle.confidence.value = NO_ANGLE_CONFIDENCE
    message.angles_is_present = True
    for axis, value in zip('xyz', item.dimensions, strict=True):
        dimension = getattr(message, f'object_dimension_{axis}')
        dimension.value.value, dimension.confidence.value = value, NO_DIMENSION_CONFIDENCE
        setattr(message, f'object_dimension_{axis}_is_present', True)
    message.object_perception_quality.value = item.quality
    message.object_perception_quality_is_present = True
    if item.vehicle_type is not None:
        kind = messages.ObjectClassWithConfidence()
        kind.object_class.choice = 0
        kind.object_class.vehicle_sub_class.value = item.vehicle_type
        kind.confidence.value = NO_CLASS_CONFIDENCE
        message.classification.array = [kind]
        message.classification_is_present = True
    return message
