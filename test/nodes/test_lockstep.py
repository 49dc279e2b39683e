# SPDX-License-Identifier: Apache-2.0
"""Lock-step with partners that answer, do not answer, and appear later."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from diffkd_ros.msg import BevChunk, FusionStatus
from nav_msgs.msg import Odometry
from patience import PATIENCE
from sensor_msgs.msg import PointCloud2

from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.playing.feeder import played
from diffkd_ros.nodes.playing.lockstep import LockStep
from diffkd_ros.runtime.link.packing import MOST_CHUNKS


@pytest.fixture(scope='module')
def answering(partner):
    """Answers the ego's sweeps with 40 ms while the event is set."""
    answering = threading.Event()
    answering.set()
    status = partner.node.create_publisher(FusionStatus, '/cav_1/fusion_status', qos.RESULTS)

    def answer(message):
        if answering.is_set():
            status.publish(FusionStatus(header=message.header, stages=['total'], latency_ms=[40.0]))

    partner.node.create_subscription(PointCloud2, '/cav_1/points', answer, qos.POINTS_IN_LOCKSTEP)
    partner.until(lambda: status.get_subscription_count() > 0, 'a subscriber of the answers')
    partner.listen(Odometry, '/cav_1/odometry')
    return answering


@pytest.fixture
def alone(scene):
    return replace(scene, agents={1: scene.agents[1]})


@pytest.fixture
def lockstep(partner, answering):
    lockstep = LockStep(partner.node, 3.0, waits=True, ego='cav_1')
    partner.until(lambda: partner.node.count_subscribers('/cav_1/fusion_status') > 1, 'the subscription')
    return lockstep


def test_an_answer_from_before_a_jump_back_does_not_count(lockstep, answering, alone, stamp):
    lockstep.connect(played(alone))
    assert lockstep.publish(played(replace(alone, stamp=stamp))) == 40.0
    answering.clear()
    assert lockstep.publish(played(replace(alone, stamp=stamp))) is None
    answering.set()
    assert (lockstep.sent, lockstep.answered) == (2, 1)


def test_an_agent_that_appears_later_is_published(partner, scene, alone, stamp):
    """In real time, without waiting for its partners."""
    lockstep = LockStep(partner.node, 0.1, waits=False)
    partner.listen(PointCloud2, '/cav_2/points')
    lockstep.publish(played(replace(alone, stamp=stamp)))
    both = {agent: scene.agents[agent] for agent in (1, 2)}

    def arrived():
        lockstep.publish(played(replace(scene, agents=both, stamp=stamp + 1)))
        return partner.received['/cav_2/points']

    partner.until(arrived, 'a sweep of the new agent')


def test_all_chunks_of_the_largest_sweep_are_waited_for(partner, answering, scene, stamp):
    """A vehicle sends them at once; the ego's sweep follows the last one."""
    lockstep = LockStep(partner.node, PATIENCE, waits=True, ego='cav_1', subscribers=0)
    both = played(replace(scene, agents={agent: scene.agents[agent] for agent in (1, 2)}, stamp=stamp))
    chunks = partner.node.create_publisher(BevChunk, 'v2x/chunks', qos.CHUNKS)
    sent = []

    def share(message):
        for number in range(MOST_CHUNKS):
            chunk = BevChunk(header=message.header, agent_id='cav_2', chunk=number, chunks=MOST_CHUNKS)
            chunks.publish(chunk)
            sent.append(number)

    clouds = partner.node.create_subscription(PointCloud2, '/cav_2/points', share, qos.POINTS_IN_LOCKSTEP)
    partner.until(lambda: chunks.get_subscription_count() > 0, 'the subscription of the chunks')
    lockstep.connect(both)
    partner.until(lambda: partner.node.count_publishers('/cav_2/points') > 0, 'the clouds')
    assert lockstep.publish(both) == 40.0
    assert (len(sent), lockstep.features_missing, lockstep.answered) == (MOST_CHUNKS, 0, 1)
    partner.node.destroy_subscription(clouds)


def test_missing_features_are_counted(partner, answering, scene, stamp):
    lockstep = LockStep(partner.node, 0.2, waits=True, ego='cav_1', subscribers=0)
    lockstep.connect(played(scene))
    lockstep.publish(played(replace(scene, stamp=stamp)))
    assert (lockstep.sent, lockstep.features_missing) == (1, 4)
