# SPDX-License-Identifier: Apache-2.0
"""The chunks of a sweep as ROS messages."""

from __future__ import annotations

import numpy as np
import pytest
from diffkd_ros.msg import BevChunk
from layered_map import link_tables, random_codes
from rclpy.serialization import deserialize_message, serialize_message

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import PoseError, pose_from_euler
from diffkd_ros.messages.building import header_message
from diffkd_ros.messages.poses import pose_of_chunk
from diffkd_ros.nodes.link.chunk_message import chunk_messages, overhead_of
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.unpacking import Unpacker

HEADER = header_message(12_345_678_901, 'cav_17/lidar')
TABLES = link_tables()
CODES = random_codes(TABLES)


@pytest.fixture
def link_card(card):
    return card.model_copy(update={'link': True, 'files': {**card.files, 'link.npz': 'ab' * 32}})


@pytest.fixture
def lidar():
    return LidarPose(
        pose_from_euler((5e6, -123.25, 2.0), roll=0.02, pitch=-0.1, yaw=2.5),
        'map',
        np.diag([0.04, 0.09, 0.01, 1e-4, 2e-4, 3e-4]),
        np.array([10.0, -0.5, 0.25]),
        np.array([0.0, 0.01, -0.3]),
    )


def exchanged(link_card, lidar, budget=4000, sequence=3):
    """The messages of a sweep after they were serialised, and their sizes."""
    overhead = overhead_of(HEADER, 'cav_17', link_card, lidar)
    chunks = Packer(TABLES).pack(CODES.outgoing(TABLES), budget, overhead)
    messages = chunk_messages(HEADER, 'cav_17', sequence, link_card, chunks, lidar)
    data = [serialize_message(message) for message in messages]
    return [deserialize_message(each, BevChunk) for each in data], [len(each) for each in data]


def test_a_sweep_survives_the_exchange(link_card, lidar):
    messages, _ = exchanged(link_card, lidar, 5000, sequence=2**32 + 3)
    assert len(messages) == 4
    for number, message in enumerate(messages):
        assert (message.chunk, message.chunks, message.sequence) == (number, 4, 3)
        assert (message.agent_id, message.model_id) == ('cav_17', 'sim_edge@abababababab')
        assert message.header == HEADER
        pose = pose_of_chunk(message)
        np.testing.assert_allclose(pose.pose[:3, 3], lidar.pose[:3, 3], rtol=0, atol=1e-9)
        np.testing.assert_allclose(pose.pose[:3, :3], lidar.pose[:3, :3], atol=1e-6)
        np.testing.assert_allclose(pose.covariance, lidar.covariance, rtol=1e-6)
        np.testing.assert_allclose(pose.linear, lidar.linear, rtol=1e-6)
        np.testing.assert_allclose(pose.angular, lidar.angular, rtol=1e-6)
        assert pose.map_frame == 'map'
    received = Unpacker(TABLES).unpack(message.data.tobytes() for message in messages)
    np.testing.assert_array_equal(received.coarse, CODES.coarse)


def test_the_budget_counts_serialised_bytes(link_card, lidar):
    for budget in (500, 2000, 4000, 4001, 4002):
        _, sizes = exchanged(link_card, lidar, budget)
        assert 0.97 * budget - 200 <= sum(sizes) <= budget


def test_a_chunk_fits_into_an_ethernet_frame(link_card, lidar):
    _, sizes = exchanged(link_card, lidar, 10_000)
    # RTPS header, INFO_TS, DATA and HEARTBEAT; UDP and IP.
    assert max(sizes) + 20 + 12 + 24 + 32 + 8 + 20 <= 1500
    assert overhead_of(HEADER, 'cav_17', link_card, lidar) <= 200


def test_an_unknown_motion_stays_unknown(link_card, lidar):
    still = LidarPose(lidar.pose, 'map')
    (message, *_), _ = exchanged(link_card, still)
    pose = pose_of_chunk(message)
    assert pose.linear is None
    assert not pose.covariance.any()


@pytest.mark.parametrize(
    ('name', 'value'),
    [('position', np.nan), ('position', 1e30), ('orientation', np.inf), ('orientation', 1.5)],
)
def test_an_invalid_pose_is_refused(link_card, lidar, name, value):
    (message, *_), _ = exchanged(link_card, lidar)
    getattr(message, name)[0] = value
    with pytest.raises(PoseError, match='not a rigid transform'):
        pose_of_chunk(message)


def test_an_invalid_twist_or_variance_is_unknown(link_card, lidar):
    (message, *_), _ = exchanged(link_card, lidar)
    message.twist[5], message.pose_variance[0] = np.inf, -1.0
    pose = pose_of_chunk(message)
    assert pose.linear is None
    assert not pose.covariance.any()
