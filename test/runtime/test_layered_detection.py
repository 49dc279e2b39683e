# SPDX-License-Identifier: Apache-2.0
"""Detection with layered messages, with and without a map of the ego."""

from __future__ import annotations

import numpy as np
import pytest

from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig


@pytest.mark.parametrize('left_out', [False, True])
def test_received_boxes_are_used_as_they_are_only_without_a_map_of_the_ego(shipped_model, left_out):
    """Everything arrives, so that with its own map the ego detects in the fused map alone."""
    card = ModelCard.load(shipped_model)
    frame = Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), seed=77).scenario(0).frame(0)
    encoder, receiver = FeatureEncoder(card), MapReceiver(card)
    sent = MapSender(card).prepare(encoder.encode(frame.agents[2].points))
    received = Unpacker(receiver.tables).unpack(Packer(receiver.tables).pack(sent, 10**6, 0))
    own = encoder.encode(frame.agents[1].points)
    if left_out:
        own = BevFeature.empty(card.channels, card.grid.height, card.grid.width)
    poses = [frame.agents[k].pose for k in (1, 2)]
    found = detect_layered(card, receiver, CooperativeDetector(card).detect, own, [received], poses).boxes
    theirs = transform_boxes(inverse(poses[0]) @ poses[1], received.boxes.boxes)
    same = np.abs(found.boxes[:, None] - theirs).max(axis=2).min(axis=1, initial=np.inf) < 1e-6
    assert len(theirs) > 3
    assert same.any() == left_out
