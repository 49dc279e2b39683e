# SPDX-License-Identifier: Apache-2.0
"""Offline evaluation and node fuse the same neighbours of a frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from diffkd_ros.msg import BevFeature
from rclpy.serialization import serialize_message

from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.cooperation import EarlyCooperation, IntermediateCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver
from diffkd_ros.messages.names import MAP_FRAME
from diffkd_ros.nodes.link.neighbours import NeighbourSelector

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def crowd(scene):
    """The ego and five neighbours, numbered by distance from it; the nearest one sensed nothing."""
    here = scene.agents[scene.ego].pose[:3, 3]
    others = sorted(
        (scene.agents[agent] for agent in scene.neighbours),
        key=lambda sweep: np.linalg.norm(sweep.pose[:3, 3] - here),
    )
    beside = scene.agents[scene.ego].pose.copy()
    beside[:3, 3] += (0.0, 3.0, 0.0)
    silent = replace(others[0], points=np.zeros((0, 4), np.float32), ring=None, time=None, pose=beside)
    agents = {scene.ego: scene.agents[scene.ego], **dict(enumerate([silent, *others], start=2))}
    return replace(scene, agents=agents)


@pytest.fixture(scope='module')
def found_by_node(crowd, card, feature_of, scene):
    """Neighbours fused by the node, by number; the nearest one's payload is damaged."""
    selector = NeighbourSelector(card, 'cav_1', max_age=0.5, future_tolerance=0.05, link_rate=2000.0)
    senders = {id(sweep.points): agent for agent, sweep in scene.agents.items()}
    for agent in crowd.neighbours:
        sweep = crowd.agents[agent]
        message = feature_of(senders.get(id(sweep.points), 2), f'cav_{agent}', SECOND)
        message.pose.pose.position.x, message.pose.pose.position.y = sweep.pose[:2, 3]
        if agent == 2:
            del message.data[len(message.data) // 2 :]
        selector.receive(BevFeature, serialize_message(message), {})
    verdicts = selector.select(SECOND, crowd.agents[crowd.ego].pose, MAP_FRAME)
    return [verdict.agent for verdict in verdicts if verdict.accepted]


@pytest.mark.parametrize('cooperation', [IntermediateCooperation, EarlyCooperation])
def test_a_neighbour_without_a_usable_message_takes_no_place(crowd, card, model, found_by_node, cooperation):
    assert (len(crowd.neighbours), card.max_agents) == (5, 5)
    clean = CleanFrame(crowd)
    perceiver = Perceiver(cooperation(Model(model)), Condition(CLEAN))
    perception = perceiver.perceive(clean, perceiver.take(clean))
    assert sorted(perception.observed.agents) == [1, 3, 4, 5, 6]
    assert found_by_node == ['cav_3', 'cav_4', 'cav_5', 'cav_6']


def test_over_links_an_absent_message_takes_no_place(crowd, model):
    clean = CleanFrame(crowd)
    perceiver = Perceiver(IntermediateCooperation(Model(model)), Condition('tile_loss', 1, who='neighbours'))
    perception = perceiver.perceive(clean, perceiver.take(clean))
    assert perception.fused == (1, 3, 4, 5, 6)


def test_the_farthest_is_left_out(crowd, card, model):
    """All five neighbours send something usable."""
    silent = replace(crowd.agents[2], points=crowd.agents[3].points)
    clean = CleanFrame(replace(crowd, agents={**crowd.agents, 2: silent}))
    perceiver = Perceiver(IntermediateCooperation(Model(model)), Condition(CLEAN))
    perception = perceiver.perceive(clean, perceiver.take(clean))
    assert perception.fused == (1, 2, 3, 4, 5)
