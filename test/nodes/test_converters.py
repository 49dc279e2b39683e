# SPDX-License-Identifier: Apache-2.0
"""Detections converted to vision_msgs, Autoware and ETSI: values, and messages where installed."""

from __future__ import annotations

import importlib
from datetime import datetime, timezone

import numpy as np
import pytest
from std_msgs.msg import Header

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.messages.building import header_message
from diffkd_ros.nodes.output import vision
from diffkd_ros.nodes.output.autoware import autoware_objects, detected_objects
from diffkd_ros.nodes.output.cpm import (
    MapOrigin,
    collective_perception,
    cpm_message,
    geodetic,
    its_time,
)

STAMP = 1_780_000_000_123_456_789
NAMES = ['vehicle', 'truck', 'unicorn']
# Quarter turn to the left: the LiDAR's x axis points north, its y axis west.
POSE = pose_from_euler((100.0, 50.0, 3.0), yaw=np.pi / 2)
AACHEN = MapOrigin(50.775, 6.083, 200.0)


@pytest.fixture
def boxes():
    rows = [[10.0, 2.0, -1.0, 4.5, 1.8, 1.5, 0.0], [-5.0, 0.0, -0.5, 26.0, 2.5, 3.5, -np.pi / 2]]
    return Boxes3D(np.array(rows), scores=np.array([0.8, 0.4], np.float32), labels=np.array([0, 1]))


def messages(package):
    """The message classes of a package; skips the test if it is not installed."""
    pytest.importorskip(package, reason=f'{package} is not installed')
    return importlib.import_module(f'{package}.msg')


def test_autoware_s_labels_and_boxes(boxes):
    first, second = autoware_objects(boxes, NAMES)
    assert (first.label, second.label) == (1, 2)  # CAR, TRUCK
    assert first.dimensions == (4.5, 1.8, 1.5)
    assert first.probability == pytest.approx(0.8)
    np.testing.assert_allclose(second.pose, pose_from_euler((-5.0, 0.0, -0.5), yaw=-np.pi / 2))
    odd = Boxes3D(boxes.boxes, scores=boxes.scores, labels=np.array([2, 7]))
    assert [item.label for item in autoware_objects(odd, NAMES)] == [0, 0]  # UNKNOWN


def test_an_autoware_message(boxes):
    msgs = messages('autoware_perception_msgs')
    header = header_message(STAMP, 'lidar')
    message = detected_objects(msgs, header, autoware_objects(boxes, NAMES))
    assert message.header == header
    first, second = message.objects
    assert first.classification[0].label == msgs.ObjectClassification.CAR
    assert second.classification[0].label == msgs.ObjectClassification.TRUCK
    assert second.kinematics.orientation_availability == msgs.DetectedObjectKinematics.AVAILABLE
    assert second.shape.type == msgs.Shape.BOUNDING_BOX
    assert (second.shape.dimensions.x, second.shape.dimensions.y) == (26.0, 2.5)
    assert second.kinematics.pose_with_covariance.pose.orientation.z == pytest.approx(-np.sqrt(0.5))
    assert not first.kinematics.has_twist
    assert not first.kinematics.has_position_covariance


def test_its_time_counts_leap_seconds():
    # The standard gives 94 694 401 000 for 2007-01-01T00:00:00 UTC, one leap second after 2004.
    # Four more followed, in 2009, 2012, 2015 and 2017.
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
    since = moment - datetime(2004, 1, 1, tzinfo=timezone.utc)
    assert its_time(int(moment.timestamp()) * 10**9) == int(since.total_seconds()) * 1000 + 5000


def test_positions_on_the_ellipsoid():
    """Compared with the common series for the length of a degree."""
    origin = MapOrigin(50.775, 6.083)
    angle = np.radians(origin.latitude)
    meridian = 111_132.92 - 559.82 * np.cos(2 * angle) + 1.175 * np.cos(4 * angle)
    parallel = 111_412.84 * np.cos(angle) - 93.5 * np.cos(3 * angle) + 0.118 * np.cos(5 * angle)
    latitude, longitude, altitude = geodetic(origin, 1000.0, -500.0, 5.0)
    assert latitude - origin.latitude == pytest.approx(-500.0 / meridian, rel=1e-5)
    assert longitude - origin.longitude == pytest.approx(1000.0 / parallel, rel=1e-5)
    assert altitude == 5.0


def test_a_perceived_object_in_the_standard_s_units(boxes):
    values = collective_perception(STAMP, boxes, NAMES, POSE, AACHEN)
    latitude, longitude, _ = geodetic(AACHEN, 100.0, 50.0, 3.0)
    assert (values.latitude, values.longitude) == (round(latitude * 1e7), round(longitude * 1e7))
    assert (values.altitude, values.heading) == (20_300, 0)  # the LiDAR faces north
    first, second = values.objects
    # 10 m ahead and 2 m to the left of a LiDAR that faces north: 2 m west and 10 m north of it.
    assert first.position == (-200, 1000, -100)
    assert first.angle == 900
    assert first.dimensions == (45, 18, 15)
    assert (first.vehicle_type, first.quality) == (0, 12)
    assert (second.angle, second.vehicle_type) == (0, 8)
    assert second.dimensions[0] == 255  # above the range of the standard


def test_a_cpm(boxes):
    msgs = messages('etsi_its_cpm_ts_msgs')
    message = cpm_message(msgs, 4711, collective_perception(STAMP, boxes, NAMES, POSE, AACHEN))
    assert message.header.message_id.value == msgs.MessageId.CPM
    assert message.header.station_id.value == 4711
    assert message.payload.management_container.reference_time.value == its_time(STAMP)
    vehicle, perceived = message.payload.cpm_containers.value.array
    kinds = msgs.WrappedCpmContainer
    assert vehicle.container_id.value == kinds.CHOICE_CONTAINER_DATA_ORIGINATING_VEHICLE_CONTAINER
    assert perceived.container_id.value == kinds.CHOICE_CONTAINER_DATA_PERCEIVED_OBJECT_CONTAINER
    container = perceived.container_data_perceived_object_container
    assert container.number_of_perceived_objects.value == 2
    first = container.perceived_objects.array[0]
    assert first.position.x_coordinate.value.value == -200
    assert first.position.x_coordinate.confidence.value == msgs.CoordinateConfidence.UNAVAILABLE
    assert first.object_dimension_x.value.value == 45
    assert first.object_dimension_x.confidence.value == msgs.ObjectDimensionConfidence.UNAVAILABLE
    assert first.angles.z_angle.confidence.value == msgs.AngleConfidence.UNAVAILABLE
    (kind,) = container.perceived_objects.array[1].classification.array
    assert kind.object_class.vehicle_sub_class.value == msgs.TrafficParticipantType.HEAVY_TRUCK
    assert kind.confidence.value == msgs.ConfidenceLevel.UNAVAILABLE


def test_detections_and_labels_of_vision_msgs(boxes, card):
    msgs = messages('vision_msgs')
    message = vision.detection_array(Header(frame_id='lidar'), boxes)
    labels = {str(c.class_id): c.class_name for c in vision.label_info(card).class_map}
    first = message.detections[0]
    assert first.header.frame_id == 'lidar'
    assert labels[first.results[0].hypothesis.class_id] == 'vehicle'
    assert first.results[0].hypothesis.score == pytest.approx(0.8)
    assert (first.bbox.size.x, first.bbox.size.y, first.bbox.size.z) == (4.5, 1.8, 1.5)
    assert first.results[0].pose.pose == first.bbox.center
    assert not any(first.results[0].pose.covariance)  # all zero: unknown
    assert isinstance(vision.label_info(card), msgs.LabelInfo)
