# SPDX-License-Identifier: Apache-2.0
"""Bags that are not perfect; `test/nodes/test_playing.py` reads one that was recorded over DDS."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='messages are serialised by ROS 2')

from rclpy.serialization import serialize_message

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.nodes.bag_writer import BagError as WriteError
from diffkd_ros.nodes.bag_writer import BagWriter
from diffkd_ros.nodes.frame_feeder import played
from diffkd_ros.sources.rosbag import BagError, RosbagSource

TYPES = {
    'points': 'sensor_msgs/msg/PointCloud2',
    'odometry': 'nav_msgs/msg/Odometry',
    'ground_truth': 'diffkd_ros/msg/Boxes3D',
}


def frames(count, agents=(2, 5, -1), ego=5):
    rng = np.random.default_rng(3)
    for index in range(count):
        sweeps = {
            agent: AgentSweep(
                rng.uniform(0.1, 1, (20, 4)).astype(np.float32),
                pose_from_euler([agent, index, 1.0], yaw=0.3 * agent),
            )
            for agent in agents
        }
        truth = Boxes3D(
            np.array([[agent, index, 0.8, 4.0, 2.0, 1.5, 0.1] for agent in agents]),
            track_ids=np.array(agents),
            num_points=np.arange(len(agents)),
        )
        yield CoopFrame(sweeps, ego, (index + 1) * 100_000_000, truth)


def write(path, messages):
    writer = BagWriter(path)
    for topic, message in messages:
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        writer.write(topic, TYPES[topic.rpartition('/')[2]], stamp, serialize_message(message))
    writer.close()
    return path


def messages_of(frame):
    """Topic and message of everything in a frame."""
    parts = played(frame)
    for agent in parts.clouds:
        yield f'/{agent}/odometry', parts.odometry[agent]
        yield f'/{agent}/points', parts.clouds[agent]
    yield '/ground_truth', parts.ground_truth


def test_frames_come_back_in_order_with_all_agents(tmp_path):
    originals = list(frames(3))
    everything = [item for frame in originals for item in messages_of(frame)]
    # As when vehicles are not heard in the order of their sweeps.
    source = RosbagSource(write(tmp_path / 'bag', everything[::-1]))
    back = list(source)
    assert (source.agents, source.ego, source.incomplete) == ([-1, 2, 5], 5, 0)
    assert [frame.stamp for frame in back] == [frame.stamp for frame in originals]
    assert [frame.index for frame in back] == [0, 1, 2]
    for frame, original in zip(back, originals, strict=True):
        for agent, sweep in original.agents.items():
            np.testing.assert_array_equal(frame.agents[agent].points, sweep.points)
            np.testing.assert_allclose(frame.agents[agent].pose, sweep.pose, atol=1e-9)
            assert frame.agents[agent].velocity is None
        truth, expected = ground_truth_in(frame, 5), ground_truth_in(original, 5)
        np.testing.assert_allclose(truth.boxes, expected.boxes, atol=1e-5)
        np.testing.assert_array_equal(truth.num_points, [0, 2])


def test_what_was_lost_is_missing_and_counted(tmp_path):
    everything = [list(messages_of(frame)) for frame in frames(4)]
    everything[1] = [item for item in everything[1] if item[0] != '/cav_2/points']
    everything[2] = [item for item in everything[2] if item[0] != '/cav_5/odometry']
    everything[3] = [item for item in everything[3] if item[0] != '/ground_truth']
    source = RosbagSource(write(tmp_path / 'bag', [item for frame in everything for item in frame]))
    back = list(source)
    # The third has no ego and cannot be a frame.
    assert [sorted(frame.agents) for frame in back] == [[-1, 2, 5], [-1, 5], [-1, 2, 5]]
    assert [frame.ground_truth is None for frame in back] == [False, False, True]
    assert source.incomplete == 3
    assert len(list(source)) == 3
    assert source.incomplete == 3


def test_another_ego_can_be_chosen(tmp_path):
    path = write(tmp_path / 'bag', [m for f in frames(1) for m in messages_of(f) if m[0] != '/ground_truth'])
    assert RosbagSource(path).ego == -1
    (frame,) = RosbagSource(path, ego=2)
    assert (frame.ego, frame.ground_truth) == (2, None)
    with pytest.raises(BagError, match=r'ego 9 is not among the agents .*\[-1, 2, 5\]'):
        RosbagSource(path, ego=9)


def test_what_is_no_bag_of_ours(tmp_path):
    with pytest.raises(BagError, match='no bag at'):
        RosbagSource(tmp_path / 'nowhere')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(BagError, match='is no bag'):
        RosbagSource(tmp_path / 'folder')
    (frame,) = frames(1)
    path = write(tmp_path / 'bag', [('/ground_truth', played(frame).ground_truth)])
    with pytest.raises(BagError, match=r'has no agent with both .* it has /ground_truth'):
        RosbagSource(path)


def test_a_bag_is_never_overwritten(tmp_path):
    (tmp_path / 'bag').mkdir()
    with pytest.raises(WriteError, match='cannot write a bag'):
        BagWriter(tmp_path / 'bag')
