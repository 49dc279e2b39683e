# SPDX-License-Identifier: Apache-2.0
"""An ego node in its own process whose model remembers the maps of the sweeps before."""

from __future__ import annotations

import time

import numpy as np
import pytest
from patience import scaled
from ros_partner import start_ego

from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.memory import MapMemory, Moment
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.unpacking import Unpacker

SWEEP = 100_000_000
_ARRIVES = 0.3


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


def answer(partner, scene, stamp, chunks=()):
    """Send the ego chunks and a sweep; returns its detections."""
    for chunk in chunks:
        partner.publish('/v2x/chunks', chunk)
    if chunks:
        time.sleep(scaled(_ARRIVES))  # no message confirms the reception
    partner.sweep('cav_1', stamp, scene.agents[1])
    return partner.message_at('/cav_1/detections', stamp)


def assert_same(detections, boxes):
    np.testing.assert_allclose(np.reshape(detections.boxes, (-1, 7)), boxes.boxes, atol=1e-4)
    np.testing.assert_allclose(detections.scores, boxes.scores, atol=1e-4)


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
        detections = answer(partner, scene, at, chunks)
        expected = by_hand.found(memory, at, (4, 'cav_4', used, known))
        assert_same(detections, expected)
    # What is remembered of the neighbour matters, not only what is remembered of the ego.
    own = MapMemory()
    for at in stamps[:2]:
        by_hand.found(own, at)
    forgotten = by_hand.found(own, stamps[2], (4, 'cav_4', used, known))
    assert len(expected) > 3
    assert not np.isin(expected.scores, forgotten.scores).all()


def test_time_that_jumps_back_leaves_nothing_to_remember(ego, partner, scene, chunks_by, card, stamp):
    by_hand = Ego(card, scene)
    first = answer(partner, scene, stamp)
    assert_same(first, by_hand.found(MapMemory(), stamp))
    second = answer(partner, scene, stamp + SWEEP)
    assert list(second.scores) != list(first.scores)
    again = answer(partner, scene, stamp - SWEEP)
    assert list(again.scores) == list(first.scores)
