# SPDX-License-Identifier: Apache-2.0
"""Real nodes over real DDS on the loopback interface, and two vehicles that they are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='the nodes need ROS 2')

from diffkd_ros.msg import BevFeature
from ros_partner import domain, group, partner

from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.building import header_message
from diffkd_ros.messages.names import MAP_FRAME, lidar_frame
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

__all__ = ['domain', 'group', 'partner']


@pytest.fixture(scope='session')
def model(whole_map_model: Path) -> Path:
    """A model that shares whole maps."""
    return whole_map_model


@pytest.fixture(scope='session')
def scene() -> CoopFrame:
    """Two vehicles at one instant; the ego is 1."""
    return Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), seed=77).scenario(0).frame(0)


@pytest.fixture(scope='session')
def shared(model: Path, scene: CoopFrame) -> Callable[[int, int], BevFeature]:
    """Makes the message that the neighbour sends, by stamp and sequence."""
    card = ModelCard.load(model)
    sweep = scene.agents[2]
    encoded = codec.encode(FeatureEncoder(card).encode(sweep.points))

    def make(stamp: int, sequence: int) -> BevFeature:
        header = header_message(stamp, lidar_frame('cav_2'))
        return feature_message(header, 'cav_2', sequence, card, encoded, LidarPose(sweep.pose, MAP_FRAME))

    return make
