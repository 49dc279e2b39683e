# SPDX-License-Identifier: Apache-2.0
"""Managed nodes in all their states, and in simulated time that jumps back."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from patience import PATIENCE, attempts
from ros_partner import until_fused
from rosgraph_msgs.msg import Clock

from diffkd_ros.launching import graph
from diffkd_ros.messages.building import cloud_message, header_message, time_message

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def vehicle(group, model):
    (spec,) = (s for s in graph.vehicle_specs([1, 2], 1, {'model': str(model)}) if 'vehicle' in s.executable)
    managed = {**spec.parameters, 'autostart': False, 'use_sim_time': True}
    process = group.start(replace(spec, parameters=managed))
    group.wait_ready(PATIENCE)
    return process


def transitions(partner, node):
    """A function that changes the state of a node and returns whether that succeeded."""
    client = partner.node.create_client(ChangeState, f'{node}/change_state')
    partner.until(client.service_is_ready, 'the lifecycle services')

    def change(transition):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        partner.until(future.done, f'transition {transition}', timeout=PATIENCE)
        return future.result().success

    return change


@pytest.fixture(scope='module')
def change(vehicle, partner):
    return transitions(partner, '/cav_2/vehicle_node')


def drive(partner, scene, start):
    """Send the vehicle sweeps until it answers; returns the stamp of that sweep."""
    return partner.until_answered(
        '/v2x/features', lambda at: partner.sweep('cav_2', at, scene.agents[2]), start=start
    )


def test_it_waits_for_the_first_transition(vehicle, partner):
    assert partner.diagnosis('state', 'unconfigured').level == b'\x01'
    assert partner.node.count_publishers('/v2x/features') == 0


def test_it_works_only_when_active_and_after_each_clean_up_again(change, partner, scene, stamp):
    features = partner.received['/v2x/features']
    for round_ in range(2):
        before = len(features)
        assert change(Transition.TRANSITION_CONFIGURE)
        partner.until(lambda: partner.node.count_publishers('/v2x/features'), 'the publisher')
        assert partner.node.count_subscribers('/cav_2/points') == 0
        partner.diagnosis('state', 'inactive')
        assert change(Transition.TRANSITION_ACTIVATE)
        last = drive(partner, scene, stamp + 100 * round_ * SECOND)
        # The sequence continues after a clean-up too.
        assert features[before].sequence == (features[before - 1].sequence + 1 if before else 0)
        assert change(Transition.TRANSITION_DEACTIVATE)
        partner.until(lambda: partner.node.count_subscribers('/cav_2/points') == 0, 'no subscriber')
        count = len(features)
        assert change(Transition.TRANSITION_ACTIVATE)
        again = drive(partner, scene, last + SECOND // 2)
        # The sequence continues after a deactivation: receivers count no loss.
        assert features[count].sequence == features[count - 1].sequence + 1
        assert again > last
        # Nor is what was published meanwhile missing; the period of the sweeps is known after a few.
        for k in range(1, 5):
            partner.sweep('cav_2', again + k * SECOND // 10, scene.agents[2])
            partner.message_at('/v2x/features', again + k * SECOND // 10)
        values = {v.key: v.value for v in partner.diagnosis('input', 'points in the last sweep').values}
        assert values['sweeps missing by their stamps'] == '0'
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert change(Transition.TRANSITION_CLEANUP)
        partner.until(lambda: partner.node.count_publishers('/v2x/features') == 0, 'no publisher')
        partner.diagnosis('state', 'unconfigured')


def test_an_invalid_transition_is_refused(change):
    assert not change(Transition.TRANSITION_ACTIVATE)


def publish_cloud(partner, agent, at, sweep):
    """A sweep without a pose."""
    partner.publish(f'/{agent}/points', cloud_message(header_message(at, f'{agent}/lidar'), sweep.points))


def test_a_refusal_is_discarded_at_deactivation(change, partner, scene, stamp):
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    publish_cloud(partner, 'cav_2', stamp, scene.agents[2])
    partner.diagnosis('input', 'refused: no odometry received yet')
    assert change(Transition.TRANSITION_DEACTIVATE)
    assert change(Transition.TRANSITION_ACTIVATE)
    assert partner.diagnosis('input', 'no cloud received yet').level == b'\x01'
    assert change(Transition.TRANSITION_DEACTIVATE)
    assert change(Transition.TRANSITION_CLEANUP)


@pytest.fixture
def ego(group, model):
    spec, _ = graph.vehicle_specs([1, 2], 1, {'model': str(model), 'use_sim_time': True})
    process = group.start(spec)
    group.wait_ready(PATIENCE)
    yield process
    group.stop([process])


def test_an_ego_is_cleaned_up_and_configured_again(ego, partner, scene, stamp):
    change = transitions(partner, '/cav_1/ego_node')
    outputs = ['detections', 'fusion_status', 'markers']

    def publishers():
        return [partner.node.count_publishers(f'/cav_1/{topic}') for topic in outputs]

    def listeners():
        return [info.node_name for info in partner.node.get_subscriptions_info_by_topic('/v2x/features')]

    for round_ in range(2):
        at = partner.until_answered(
            '/cav_1/fusion_status',
            lambda at: partner.sweep('cav_1', at, scene.agents[1]),
            start=stamp + 100 * round_ * SECOND,
        )
        status = partner.message_at('/cav_1/fusion_status', at)
        assert 1 <= status.sweeps_fused <= status.sweeps_received
        assert change(Transition.TRANSITION_DEACTIVATE)
        partner.until(lambda: 'ego_node' not in listeners(), 'the end of the subscription')
        assert change(Transition.TRANSITION_CLEANUP)
        partner.until(lambda: publishers() == [0, 0, 0], 'no publisher')
        partner.diagnosis('ego_node: state', 'unconfigured')
        assert change(Transition.TRANSITION_CONFIGURE)
        partner.until(lambda: publishers() == [1, 1, 1], 'one publisher of each output')
        assert change(Transition.TRANSITION_ACTIVATE)


def test_stored_input_with_later_stamps_is_dropped_when_time_jumps_back(
    change, vehicle, ego, partner, scene, stamp
):
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    partner.diagnosis('state', 'no message on /clock')
    clock = partner.node.create_publisher(Clock, '/clock', 1)

    def set_clock(time, heard):
        """Publish repeatedly: messages sent before the discovery of the publisher are lost."""
        for wait in attempts():
            clock.publish(Clock(clock=time_message(time)))
            with contextlib.suppress(AssertionError):
                return partner.until(heard, 'the clock to be received', timeout=0.2 * wait)
        raise AssertionError('the clock was not received')

    def both_active():
        states = [array.status[0] for array in partner.received['/diagnostics'] if array.status]
        return {s.name for s in states if s.message == 'active'} >= {
            'cav_1/ego_node: state',
            'cav_2/vehicle_node: state',
        }

    set_clock(stamp + 50 * SECOND, both_active)

    late = until_fused(partner, scene, stamp + 50 * SECOND)
    set_clock(stamp, lambda: all('time jumped back' in node.tail() for node in (vehicle, ego)))
    # The pose at the stamp of that sweep was received before, and so was the neighbour's feature.
    publish_cloud(partner, 'cav_2', late, scene.agents[2])
    partner.diagnosis('vehicle_node: input', 'refused: no odometry received yet')
    again = late + SECOND // 20
    partner.sweep('cav_1', again, scene.agents[1])
    assert len(partner.message_at('/cav_1/fusion_status', again).neighbours) == 0
    until_fused(partner, scene, stamp)


def test_shutting_down_ends_the_process(change, vehicle):
    change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert vehicle.wait(PATIENCE)
    assert vehicle.returncode == 0, vehicle.tail()
