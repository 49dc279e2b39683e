# SPDX-License-Identifier: Apache-2.0
"""Transforms that a player publishes; the ROS 2 wheels do not include the messages of TF."""

from __future__ import annotations

import types
from dataclasses import dataclass

import pytest
from geometry_msgs.msg import Quaternion, TransformStamped

from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.playing import publisher
from diffkd_ros.nodes.playing.feeder import played


@dataclass
class StandInTf:
    """The used part of tf2_msgs/TFMessage."""

    transforms: list[TransformStamped]


@pytest.fixture
def sent(partner, monkeypatch):
    """Messages published to TF; all other topics are real."""
    sent = []
    create = partner.node.create_publisher

    def create_publisher(message_class, *given):
        if message_class is StandInTf:
            return types.SimpleNamespace(publish=sent.append)
        return create(message_class, *given)

    monkeypatch.setattr(partner.node, 'create_publisher', create_publisher)
    monkeypatch.setattr(publisher, 'TFMessage', StandInTf)
    return sent


def test_an_invalid_pose_only_omits_its_transform(sent, partner, scene):
    frame = played(scene)
    (unknown,) = frame.odometry['cav_3']
    # As sent by localisation that has not converged.
    unknown.pose.pose.orientation = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
    output = publisher.FramePublisher(partner.node, 0, 0, qos.POINTS)
    output.scene(frame)
    (message,) = sent
    found = {t.child_frame_id: t.transform.translation for t in message.transforms}
    for agent, sweep in scene.agents.items():
        if agent != 3:
            place = found.pop(f'cav_{agent}/lidar')
            assert (place.x, place.y, place.z) == pytest.approx(tuple(sweep.pose[:3, 3]))
    assert not found
    assert output.poses_left_out == 1
