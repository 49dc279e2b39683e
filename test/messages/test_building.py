# SPDX-License-Identifier: Apache-2.0
"""Our types as messages, and back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='it builds messages of ROS 2')

from diffkd_ros.msg import Boxes3D as Boxes3DMessage
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2

from diffkd_ros.bags.writer import serialised
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.messages.building import (
    boxes_message,
    cloud_message,
    frame_messages,
    header_message,
    odometry_message,
)
from diffkd_ros.messages.clouds import read_cloud
from diffkd_ros.messages.names import agent_name, agent_number
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.messages.reading import MessageError, boxes_of, stamp_of
from diffkd_ros.sources.bag_files import message_types


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
    with pytest.raises(DiffkdError, match='bus_1'):
        agent_number('bus_1')


KINDS = {'points': PointCloud2, 'odometry': Odometry, 'ground_truth': Boxes3DMessage}


@pytest.mark.parametrize('points', [500, 0])
def test_a_frame_is_the_same_in_rclpy_s_messages_and_in_those_of_rosbags(points):
    rng = np.random.default_rng(points)

    def sweep(*columns, velocity=None):
        pose = pose_from_euler(rng.normal(0, 500, 3), *rng.uniform(-1, 1, 3))
        return AgentSweep(rng.uniform(0.1, 1, (points, 4)).astype(np.float32), pose, *columns, velocity)

    ring, time = np.arange(points, dtype=np.uint16), -rng.random(points, np.float32)
    agents = {4: sweep(ring, time, velocity=np.array([8.0, 1.0, 0.0])), -2: sweep(None, None)}
    truth = Boxes3D(rng.uniform(0.5, 9, (3, 7)), track_ids=np.arange(3), num_points=np.array([7, 0, 9]))
    frame = CoopFrame(agents, 4, 1_795_347_026_504_524_760, truth)
    messages = frame_messages(frame)
    built = {f'/{agent}/points': message for agent, message in messages.clouds.items()}
    built |= {f'/{agent}/odometry': message for agent, message in messages.odometry.items()}
    built['/ground_truth'] = messages.ground_truth
    store = message_types()
    for topic, kind, data in serialised(frame, store):
        if topic == '/tf':
            continue
        message = built.pop(topic)
        assert deserialize_message(bytes(data), KINDS[topic.rpartition('/')[2]]) == message
        # rclpy leaves the bytes of padding undefined: they are defined by serialising once more.
        assert store.serialize_cdr(store.deserialize_cdr(serialize_message(message), kind), kind) == data
    assert not built
