# SPDX-License-Identifier: Apache-2.0
"""Floods of messages on the V2X link: the ego answers all the same. `floods.py` measures larger ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from flooder import FLOODS
from ros_partner import start_ego

from diffkd_ros.nodes.link.refusal import Refusal

SECOND = 1_000_000_000
FLOODER = Path(__file__).with_name('flooder.py')
# Each is awaited for as long as it takes: what counts is that all are answered, not how quickly.
SWEEPS = 15
# Of the floods' rates, which two busy cores cannot send.
SHARE = 0.2
# Messages per second that the ego reads: so low that each of these is a flood. A message of the largest size
# uses up what one participant may send, but not what all may.
LINK_RATE = 50.0


@pytest.fixture(scope='module')
def ego(group, partner, scene, shared, model):
    def share(stamp):
        partner.publish('/v2x/features', shared(stamp, stamp // (SECOND // 10)))

    return start_ego(group, partner, scene.agents[1], model, share, link_rate=LINK_RATE)


@pytest.fixture
def flood(domain, request):
    """A process that floods the link until the test ends."""
    command = [sys.executable, FLOODER, '--domain', domain, '--flood', request.param]
    command += ['--seconds', 600, '--share', SHARE]
    process = subprocess.Popen(['nice', *map(str, command)], stdout=subprocess.DEVNULL)
    yield request.param
    process.terminate()
    process.wait()


def unread(partner, seen=0):
    """Number of messages that the newest diagnostics of the ego count as too many."""
    for array in reversed(partner.received['/diagnostics'][seen:]):
        for status in array.status:
            if status.name.endswith(': neighbours'):
                return sum(int(v.value) for v in status.values if v.key.endswith(Refusal.FLOOD.value))
    return None


@pytest.mark.parametrize('flood', FLOODS, indirect=True)
def test_the_ego_answers_its_sweeps_and_uses_its_neighbour(ego, partner, scene, shared, flood, stamps):
    seen = len(partner.received['/diagnostics'])
    partner.until(lambda: unread(partner, seen) is not None, 'diagnostics')
    before = unread(partner, seen)
    partner.until(lambda: unread(partner) > before, 'messages that are too many')
    fused = 0
    for sequence, stamp in enumerate(next(stamps)):
        partner.publish('/v2x/features', shared(stamp, sequence))
        partner.sweep('cav_1', stamp, scene.agents[1])
        status = partner.message_at('/cav_1/fusion_status', stamp)
        fused += any(n.agent_id == 'cav_2' and n.accepted for n in status.neighbours)
    # The message and the sweep take different ways: in single sweeps the message comes later.
    assert fused >= SWEEPS // 2, flood
    assert ego.returncode is None


@pytest.fixture(scope='module')
def stamps():
    """Stamps of sweeps, far from those of every other test."""
    return ([1000 * SECOND * k + j * SECOND // 10 for j in range(SWEEPS)] for k in range(1, 100))
