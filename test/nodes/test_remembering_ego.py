# SPDX-License-Identifier: Apache-2.0
"""An ego node in its own process whose model remembers the maps of the sweeps before."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from patience import attempts
from ros_partner import start_ego

from diffkd_ros.messages.names import MAP_FRAME
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.memory import MapMemory, Moment
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.unpacking import Unpacker

SWEEP = 100_000_000
TOLERANCE = 1e-4


@pytest.fixture(scope='module')
def card(remembering_model):
    return ModelCard.load(remembering_model)


@pytest.fixture(scope='module')
def ego(group, partner, scene, chunks_by, card):
    def share(stamp):
        for chunk in chunks_by(card, 2, 'first', stamp):
            partner.publish('/v2x/chunks', chunk)

    return start_ego(group, partner, scene.agents[1], card.link_path.parent, share)


class Ego:
    """What the node should find, computed from the messages."""

    def __init__(self, card, scene):
        self._card, self._scene, self._receiver = card, scene, MapReceiver(card)
        self._own = FeatureEncoder(card).encode(scene.agents[1].points)
        self._detect = CooperativeDetector(card).detect

    def found(self, memory, stamp, *messages):
        """The boxes of a sweep with the chunks of (vehicle, name, stamp)."""
        unpacker = Unpacker(self._receiver.tables)
        received = [unpacker.unpack([chunk.data.tobytes() for chunk in chunks]) for *_, chunks in messages]
        poses = [self._scene.agents[vehicle].pose for vehicle in (1, *(each[0] for each in messages))]
        agents = ['cav_1', *(name for _, name, *_ in messages)]
        moment = Moment(memory, agents, [stamp, *(each[2] for each in messages)])
        detect = self._detect
        return detect_layered(self._card, self._receiver, detect, self._own, received, poses, moment).boxes


def answer(partner, scene, stamp, chunks=(), map_frame=MAP_FRAME):
    """Send the ego chunks and, as in lock-step, a sweep after them; returns its detections and status."""
    for chunk in chunks:
        partner.publish('/v2x/chunks', chunk)
    partner.sweep('cav_1', stamp, scene.agents[1], map_frame)
    status = partner.message_at('/cav_1/fusion_status', stamp)
    return partner.message_at('/cav_1/detections', stamp), status


def rows(detections):
    """Box and score of each detection, by descending score."""
    return np.column_stack((np.reshape(detections.boxes, (-1, 7)), detections.scores))


def assert_same(detections, others):
    np.testing.assert_allclose(rows(detections), rows(others), rtol=0, atol=TOLERANCE)


def differ(detections, others):
    """Whether the strongest ones differ by much more than what counts as the same."""
    return np.abs(rows(detections)[:3] - rows(others)[:3]).max() > 10 * TOLERANCE


def test_what_was_lost_is_detected_in_from_the_sweep_before(ego, partner, scene, chunks_by, card, stamp):
    """Of the second sweep the first chunk arrives, of the third none: the second one is used again."""
    by_hand, memory = Ego(card, scene), MapMemory()
    stamps = [stamp, stamp + SWEEP, stamp + 2 * SWEEP]
    # Without boxes, which the ego would find whatever it remembers.
    complete, second = (chunks_by(card, 4, 'cav_4', at, k, boxes=0) for k, at in enumerate(stamps[:2]))
    assert len(second) > 1
    part = second[:1]
    sent = [(complete, stamps[0], complete), (part, stamps[1], part), ((), stamps[1], part)]
    for at, (chunks, used, known) in zip(stamps, sent, strict=True):
        detections, status = answer(partner, scene, at, chunks)
        (neighbour,) = [each for each in status.neighbours if each.agent_id == 'cav_4']
        assert (neighbour.accepted, neighbour.sweep_chunks_received) == (True, len(known))
        expected = by_hand.found(memory, at, (4, 'cav_4', used, known))
        assert_same(detections, expected)
    # What is remembered of the neighbour matters, not only what is remembered of the ego.
    own = MapMemory()
    for at in stamps[:2]:
        by_hand.found(own, at)
    forgotten = by_hand.found(own, stamps[2], (4, 'cav_4', used, known))
    assert len(expected) > 3
    assert differ(expected, forgotten)


def test_time_that_jumps_back_leaves_nothing_to_remember(ego, partner, scene, card, stamp):
    first, _ = answer(partner, scene, stamp)
    assert_same(first, Ego(card, scene).found(MapMemory(), stamp))
    second, _ = answer(partner, scene, stamp + SWEEP)
    assert differ(second, first)
    again, _ = answer(partner, scene, stamp - SWEEP)
    assert list(again.scores) == list(first.scores)


def test_another_map_frame_leaves_nothing_to_remember(ego, partner, scene, stamp):
    """Poses in two frames do not say how an agent moved."""
    first, _ = answer(partner, scene, stamp)
    for k, (map_frame, remembered) in enumerate(((MAP_FRAME, True), ('odom', False), ('odom', True)), 1):
        detections, _ = answer(partner, scene, stamp + k * SWEEP, map_frame=map_frame)
        assert differ(detections, first) == remembered, k


def test_a_deactivated_ego_forgets(ego, partner, scene, stamp):
    first, _ = answer(partner, scene, stamp)
    client = partner.node.create_client(ChangeState, '/cav_1/ego_node/change_state')
    partner.until(client.service_is_ready, 'the lifecycle services')
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        partner.until(future.done, f'transition {transition}')
        assert future.result().success
    # Repeated until it arrives; a sweep remembers nothing of its own stamp.
    for wait in attempts():
        partner.sweep('cav_1', stamp + SWEEP, scene.agents[1])
        with suppress(AssertionError):
            again = partner.message_at('/cav_1/detections', stamp + SWEEP, timeout=wait)
            break
    assert list(again.scores) == list(first.scores)
