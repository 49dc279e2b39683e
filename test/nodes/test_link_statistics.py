# SPDX-License-Identifier: Apache-2.0
"""The evaluator and the ego count the same losses from the same messages."""

from __future__ import annotations

import time

import pytest

from diffkd_ros.metrics.link_cost import LinkCost
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer


@pytest.mark.parametrize(
    ('sequence', 'lost', 'restarts'),
    [
        # Two hours of lost messages are a restart.
        ((0, 1, 70_000, 70_001), 0, 1),
        ((0, 1, 65_538, 65_539), 65_536, 0),
        ((500, 501, 0, 1, 3), 1, 1),
        ((2**32 - 2, 2**32 - 1, 0, 2), 1, 0),
    ],
)
def test_evaluator_and_ego_agree_on_losses(sequence, lost, restarts):
    link, buffer = LinkCost(), PeerBuffer('cav_1', max_age=10**9, future_tolerance=0, clock=time.monotonic)
    for stamp, number in enumerate(sequence):
        link.add('cav_2', 1000, stamp, number)
        buffer.add('cav_2', stamp, number, None)
    record = buffer.snapshot()['cav_2']
    assert link.summary()['cav_2']['lost'] == record.lost == lost
    assert link.summary()['cav_2']['messages'] == record.received == len(sequence)
    assert record.restarts == restarts
