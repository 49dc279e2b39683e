# SPDX-License-Identifier: Apache-2.0
"""Two real processes, a vehicle and an ego, exchange `BevFeature` over DDS."""

from __future__ import annotations

import numpy as np
import pytest
from patience import PATIENCE
from ros_partner import until_fused

from diffkd_ros.launching import graph
from diffkd_ros.messages.building import pose_message
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.detector import CooperativeDetector

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def both(group, partner, scene, model):
    specs = graph.vehicle_specs([1, 2], 1, {'model': str(model), 'threads': 1})
    processes = [group.start(spec) for spec in specs]
    group.wait_ready(PATIENCE)
    until_fused(partner, scene, 0)
    return processes


def test_the_ego_fuses_what_the_vehicle_sent(both, partner, scene, encoder, card, stamp):
    ego, other = scene.agents[1], scene.agents[2]
    stamp = until_fused(partner, scene, stamp)
    status = partner.message_at('/cav_1/fusion_status', stamp)
    detections = partner.message_at('/cav_1/detections', stamp)

    (neighbour,) = status.neighbours
    assert (neighbour.agent_id, neighbour.accepted, neighbour.age) == ('cav_2', True, 0.0)
    features = [encoder.encode(ego.points), encoder.encode(other.points)]
    features[1] = codec.decode(codec.encode(features[1]), card.channels, card.grid.height, card.grid.width)
    # The poses travel as quaternions.
    poses = [pose_of(pose_message(s.pose)) for s in (ego, other)]
    expected = CooperativeDetector(card).detect(features, poses)
    np.testing.assert_allclose(np.reshape(detections.boxes, (-1, 7)), expected.boxes.boxes, atol=1e-3)
    np.testing.assert_allclose(detections.scores, expected.boxes.scores, atol=1e-4)
    assert neighbour.gate_weight == pytest.approx(float(expected.gate_weights[1]), abs=1e-4)
    assert status.ego_reliability == pytest.approx(expected.reliability, abs=1e-4)
    assert list(detections.class_names) == card.class_names


def test_a_restarted_vehicle_is_fused_again(both, group, partner, scene, stamp, model):
    """Its stamps continue, its sequence starts at 0; no other node needs a restart."""
    before = until_fused(partner, scene, stamp)
    group.stop([both[1]], patience=PATIENCE)
    assert both[1].returncode == 0
    _, spec = graph.vehicle_specs([1, 2], 1, {'model': str(model), 'threads': 1})
    group.start(spec, label='restarted')
    group.wait_ready(PATIENCE)
    again = until_fused(partner, scene, before + SECOND)
    (neighbour,) = partner.message_at('/cav_1/fusion_status', again).neighbours
    assert neighbour.agent_id == 'cav_2'
    sent = partner.message_at('/v2x/features', again).sequence
    assert neighbour.sequence == sent
    assert sent < (again - before - SECOND) // (SECOND // 10)
