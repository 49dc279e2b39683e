# SPDX-License-Identifier: Apache-2.0
"""An ego node with the shipped model, in its own process, and a neighbour that invents vehicles."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from ros_partner import start_ego

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.runtime.card import ModelCard

TENTH = 100_000_000


@pytest.fixture(scope='module')
def shipped(shipped_model):
    return ModelCard.load(shipped_model)


@pytest.fixture(scope='module')
def lies_of(scene, shipped, chunks_by):
    """Makes the messages of vehicle 3 with ghosts around the ego."""
    places = [(x, y) for x in range(-32, 33, 8) for y in (-9, -3, 3, 9) if abs(x) > 4]
    in_ego = np.array([[x, y, -1.0, 4.5, 1.9, 1.5, 0.0] for x, y in places])
    ghosts = transform_boxes(inverse(scene.agents[3].pose) @ scene.agents[1].pose, in_ego)
    boxes = Boxes3D(ghosts, scores=np.full(len(ghosts), 0.95, np.float32))
    return partial(chunks_by, shipped, 3, 'liar', kilobytes=4.0, invented=boxes)


@pytest.fixture(scope='module')
def ego(group, partner, scene, shipped, chunks_by):
    def share(stamp):
        for chunk in chunks_by(shipped, 2, 'first', stamp, kilobytes=4.0):
            partner.publish('/v2x/chunks', chunk)

    return start_ego(group, partner, scene.agents[1], shipped.link_path.parent, share)


def answer(partner, scene, stamp, senders):
    """Send the ego what neighbours send, and a sweep; returns boxes, neighbours and status."""
    for chunks in senders:
        for chunk in chunks:
            partner.publish('/v2x/chunks', chunk)
    partner.sweep('cav_1', stamp, scene.agents[1])
    status = partner.message_at('/cav_1/fusion_status', stamp)
    found = {neighbour.agent_id: neighbour for neighbour in status.neighbours}
    return np.reshape(partner.message_at('/cav_1/detections', stamp).boxes, (-1, 7)), found, status


def test_it_is_left_out_named_and_counted(ego, partner, scene, shipped, chunks_by, lies_of, stamp):
    def honest(k):
        return chunks_by(shipped, 2, 'cav_2', stamp + k * TENTH, k, kilobytes=4.0)

    for k in range(8):
        now = stamp + k * TENTH
        boxes, found, status = answer(partner, scene, now, [honest(k), lies_of(now, k)])
        assert found['cav_2'].accepted
        assert not found['liar'].accepted
        assert found['liar'].reason.startswith('implausible: ')
    assert 'boxes where the ego sees none' in found['liar'].reason
    assert 'in quarantine' in found['liar'].reason
    assert found['liar'].messages_refused == found['liar'].messages_received == 8
    assert (found['cav_2'].messages_refused, found['cav_2'].messages_fused) == (0, 8)
    alone, *_ = answer(partner, scene, now + TENTH, [honest(8)])
    np.testing.assert_allclose(boxes, alone, atol=1e-4)
    # Of each box, how many see it by themselves: nobody but the ego and the honest neighbour counts.
    assert len(status.seen_by) == len(boxes)
    assert set(status.seen_by) <= {0, 1, 2}
    assert {1, 2} <= set(status.seen_by)
    assert 'boxes' in partner.diagnosis('neighbour/liar', 'refused: implausible: ').message
