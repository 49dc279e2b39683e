# SPDX-License-Identifier: Apache-2.0
"""Real nodes over real DDS, and the scene that they are shown."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='the nodes need ROS 2')

from diffkd_ros.msg import BevChunk, BevFeature
from ros_partner import SECOND, Partner, domain, group, partner

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.building import header_message, odometry_message
from diffkd_ros.messages.names import MAP_FRAME, lidar_frame
from diffkd_ros.messages.poses import pose_of_odometry
from diffkd_ros.nodes.link.chunk_message import chunk_messages, overhead_of
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

__all__ = ['Partner', 'domain', 'group', 'partner']


@pytest.fixture(scope='session')
def model(whole_map_model: Path) -> Path:
    """A model that shares whole maps."""
    return whole_map_model


@pytest.fixture(scope='session')
def card(model: Path) -> ModelCard:
    return ModelCard.load(model)


@pytest.fixture(scope='session')
def encoder(card: ModelCard) -> FeatureEncoder:
    return FeatureEncoder(card)


@pytest.fixture(scope='session')
def linked(linked_model: Path) -> ModelCard:
    """A small model with a layered message."""
    return ModelCard.load(linked_model)


@pytest.fixture(scope='session')
def scene() -> CoopFrame:
    """Five vehicles at one instant; the ego is 1."""
    return Simulator(SimulatorConfig(agents=5, frames_per_scenario=2), seed=77).scenario(0).frame(0)


@pytest.fixture
def ego_pose(scene: CoopFrame) -> Matrix:
    """Map <- LiDAR of the scene's ego."""
    return scene.agents[1].pose


@pytest.fixture
def selector(card: ModelCard) -> NeighbourSelector:
    """Of an ego with the nodes' default limits, which has received nothing yet."""
    return NeighbourSelector(card, 'cav_1', max_age=0.5, future_tolerance=0.05, link_rate=2000.0)


@pytest.fixture(scope='session')
def feature_by(scene: CoopFrame) -> Callable[..., BevFeature]:
    """Makes the message that a vehicle of the scene would send with a model."""
    encoded: dict[tuple[str, int], codec.EncodedFeature] = {}

    def make(card: ModelCard, vehicle: int, name: str, stamp: int, sequence: int = 0) -> BevFeature:
        sweep = scene.agents[vehicle]
        key = card.model_id, vehicle
        if key not in encoded:
            encoded[key] = codec.encode(FeatureEncoder(card).encode(sweep.points))
        odometry = odometry_message(
            header_message(stamp, MAP_FRAME), lidar_frame(name), sweep.pose, sweep.velocity
        )
        header = header_message(stamp, lidar_frame(name))
        return feature_message(header, name, sequence, card, encoded[key], pose_of_odometry(odometry))

    return make


@pytest.fixture(scope='session')
def feature_of(
    card: ModelCard, feature_by: Callable[..., BevFeature]
) -> Callable[[int, str, int, int], BevFeature]:
    """Makes the message that a vehicle of the scene would send with a model that shares whole maps."""
    return partial(feature_by, card)


@pytest.fixture(scope='session')
def chunks_by(scene: CoopFrame) -> Callable[..., list[BevChunk]]:
    """Makes the messages that a vehicle of the scene would send with a model.

    Of its boxes the first ones, or invented ones.
    """

    def make(
        card: ModelCard,
        vehicle: int,
        name: str,
        stamp: int,
        sequence: int = 0,
        kilobytes: float = 100.0,
        boxes: int = 255,
        invented: Boxes3D | None = None,
    ) -> list[BevChunk]:
        sweep = scene.agents[vehicle]
        header = header_message(stamp, lidar_frame(name))
        lidar = LidarPose(sweep.pose, MAP_FRAME)
        overhead = overhead_of(header, name, card, lidar)
        codes = MapSender(card).prepare(FeatureEncoder(card).encode(sweep.points))
        codes = replace(codes, boxes=codes.boxes[:boxes] if invented is None else invented)
        chunks = Packer(LinkTables.load(card)).pack(codes, round(1e3 * kilobytes), overhead)
        return chunk_messages(header, name, sequence, card, chunks, lidar)

    return make


@pytest.fixture(scope='session')
def chunks_of(linked: ModelCard, chunks_by: Callable[..., list[BevChunk]]) -> Callable[..., list[BevChunk]]:
    """Makes the messages that a vehicle of the scene would send with the small model."""
    return partial(chunks_by, linked)


@pytest.fixture
def stamp(request: pytest.FixtureRequest) -> int:
    """An instant far from that of every other test, so that nothing of one is known in the next."""
    return next(_STAMPS)


_STAMPS = (1000 * SECOND * k for k in itertools.count(1))
