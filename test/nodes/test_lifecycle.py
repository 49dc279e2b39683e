# SPDX-License-Identifier: Apache-2.0
"""A managed node driven through its states, in simulated time that jumps back."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosgraph_msgs.msg import Clock

from diffkd_ros.nodes import graph
from diffkd_ros.nodes.conversions import time_message

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def vehicle(group, model):
    (spec,) = (s for s in graph.vehicle_specs([1, 2], 1, {'model': str(model)}) if 'vehicle' in s.executable)
    managed = {**spec.parameters, 'autostart': False, 'use_sim_time': True}
    process = group.start(replace(spec, parameters=managed))
    group.wait_ready(60.0)
    return process


@pytest.fixture(scope='module')
def change(vehicle, partner):
    client = partner.node.create_client(ChangeState, '/cav_2/vehicle_node/change_state')
    partner.until(client.service_is_ready, 'the lifecycle services')

    def change(transition):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        partner.until(future.done, f'transition {transition}')
        return future.result().success

    return change


def drive(partner, scene, start):
    """Let the vehicle drive until it answers; the stamp of that sweep."""
    return partner.until_answered(
        '/v2x/features', lambda at: partner.sweep('cav_2', at, scene.agents[2]), start=start
    )


def test_nothing_happens_before_it_is_told(vehicle, partner):
    assert partner.diagnosis('state', 'unconfigured').level == b'\x01'
    assert partner.node.count_publishers('/v2x/features') == 0


def test_it_works_when_active_only_and_again_after_each_round(change, partner, scene, stamp):
    features = partner.received['/v2x/features']
    for round_ in range(2):
        assert change(Transition.TRANSITION_CONFIGURE)
        partner.until(lambda: partner.node.count_publishers('/v2x/features'), 'the publisher')
        assert partner.node.count_subscribers('/cav_2/points') == 0
        partner.diagnosis('state', 'inactive')
        assert change(Transition.TRANSITION_ACTIVATE)
        last = drive(partner, scene, stamp + 100 * round_ * SECOND)
        assert change(Transition.TRANSITION_DEACTIVATE)
        partner.until(lambda: partner.node.count_subscribers('/cav_2/points') == 0, 'no subscriber')
        count = len(features)
        assert change(Transition.TRANSITION_ACTIVATE)
        again = drive(partner, scene, last + 10 * SECOND)
        # Deactivated in between, it goes on with the sequence: nobody counts a loss.
        assert features[count].sequence == features[count - 1].sequence + 1
        assert again > last
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert change(Transition.TRANSITION_CLEANUP)
        partner.until(lambda: partner.node.count_publishers('/v2x/features') == 0, 'no publisher')
        partner.diagnosis('state', 'unconfigured')


def test_a_transition_that_makes_no_sense_is_refused(change):
    assert not change(Transition.TRANSITION_ACTIVATE)


def test_time_that_jumps_back_voids_what_lies_in_the_future(change, vehicle, partner, scene, stamp):
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    partner.diagnosis('state', '/clock is silent')
    clock = partner.node.create_publisher(Clock, '/clock', 1)

    def tell(time, heard):
        """Until the node has heard it: what is sent before it has found the publisher is lost."""
        for _ in range(50):
            clock.publish(Clock(clock=time_message(time)))
            with contextlib.suppress(AssertionError):
                return partner.until(heard, 'the clock to be heard', timeout=0.2)
        raise AssertionError('the clock was not heard')

    diagnostics = partner.received['/diagnostics']
    tell(stamp + 50 * SECOND, lambda: diagnostics[-1].status[0].message == 'active')
    late = drive(partner, scene, stamp + 50 * SECOND)
    tell(stamp, lambda: 'time jumped back' in vehicle.tail())
    early = drive(partner, scene, stamp)
    assert early < late


def test_shutting_down_ends_the_process(change, vehicle):
    change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert vehicle.wait(10.0)
    assert vehicle.returncode == 0, vehicle.tail()
