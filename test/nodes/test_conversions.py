# SPDX-License-Identifier: Apache-2.0
"""Our types as messages and back."""

from __future__ import annotations

import numpy as np
import pytest
from diffkd_ros.msg import Boxes3D as Boxes3DMessage
from rclpy.serialization import deserialize_message, serialize_message

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.messages.cloud_message import cloud_message
from diffkd_ros.messages.conversions import boxes_message, header_message, odometry_message
from diffkd_ros.messages.point_cloud import read_cloud
from diffkd_ros.messages.reading import (
    MessageError,
    agent_name,
    agent_number,
    boxes_of,
    pose_of,
    stamp_of,
)
from diffkd_ros.sources.restamping import SCENARIO_GAP, restamped


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def test_stamps_keep_their_nanoseconds():
    for stamp in (0, 1, 1_795_347_026_504_524_760):
        assert stamp_of(header_message(stamp, 'map')) == stamp


def test_poses_survive_as_quaternions():
    rng = np.random.default_rng(1)
    for _ in range(20):
        pose = pose_from_euler(rng.normal(0, 500, 3), *rng.uniform(-1.5, 1.5, 2), rng.uniform(-3.1, 3.1))
        message = odometry_message(header_message(1, 'map'), 'lidar', pose, None)
        np.testing.assert_allclose(pose_of(over_the_wire(message).pose.pose), pose, atol=1e-9)
        assert message.twist.covariance[0] == -1.0


@pytest.mark.parametrize('count', [0, 1, 7])
def test_boxes_and_their_columns(count):
    rng = np.random.default_rng(count)
    truth = Boxes3D(
        rng.uniform(0.5, 9, (count, 7)).astype(np.float32),
        track_ids=rng.integers(-9, 900, count),
        num_points=rng.integers(0, 9000, count),
    )
    back = boxes_of(over_the_wire(boxes_message(header_message(1, 'x'), truth, ['vehicle'])))
    np.testing.assert_array_equal(back.boxes, truth.boxes)
    if count:
        np.testing.assert_array_equal(back.track_ids, truth.track_ids)
        np.testing.assert_array_equal(back.num_points, truth.num_points)
        assert back.scores is None
    found = Boxes3D(truth.boxes, scores=rng.random(count, np.float32))
    back = boxes_of(over_the_wire(boxes_message(header_message(1, 'x'), found, ['vehicle'])))
    np.testing.assert_array_equal(back.scores, found.scores)
    assert back.track_ids is None


def test_columns_of_different_length_are_an_error():
    message = Boxes3DMessage(labels=[0, 0], boxes=[0.0] * 13)
    with pytest.raises(MessageError, match='boxes'):
        boxes_of(message)


@pytest.mark.parametrize('extra', [True, False])
def test_a_cloud_is_read_as_it_was_written(extra):
    rng = np.random.default_rng(2)
    points = rng.uniform(0.1, 1, (1000, 4)).astype(np.float32)
    ring = rng.integers(0, 64, 1000).astype(np.uint16) if extra else None
    time = rng.uniform(-0.1, 0, 1000).astype(np.float32) if extra else None
    message = over_the_wire(cloud_message(header_message(5, 'lidar'), points, ring, time))
    assert message.point_step == (22 if extra else 16)
    assert message.row_step == len(message.data)
    back = read_cloud(message)
    np.testing.assert_array_equal(back.points, points)
    if extra:
        np.testing.assert_array_equal(back.ring, ring)
        np.testing.assert_array_equal(back.time, time)


def test_agents_have_names():
    for agent, name in ((7, 'cav_7'), (0, 'cav_0'), (-3, 'rsu_3')):
        assert agent_name(agent) == name
        assert agent_number(name) == agent
    with pytest.raises(MessageError, match='bus_1'):
        agent_number('bus_1')


def test_stamps_go_on_from_drive_to_drive(scene):
    from dataclasses import replace

    frames = [replace(scene, scenario=s, stamp=t) for s, t in (('a', 5), ('a', 8), ('b', 2), ('b', 3))]
    stamps = [frame.stamp for frame in restamped(frames, 1000)]
    assert stamps == [1000, 1003, 1003 + SCENARIO_GAP, 1004 + SCENARIO_GAP]
