# SPDX-License-Identifier: Apache-2.0
"""Parameters of an active ego that are set through its services, as `ros2 param set` does."""

from __future__ import annotations

import pytest
from patience import PATIENCE
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter

from diffkd_ros.launching import graph


@pytest.fixture(scope='module')
def ego(group, partner, scene, feature_of, model):
    (spec,) = graph.vehicle_specs([1], 1, {'model': str(model)})
    process = group.start(spec)
    group.wait_ready(PATIENCE)
    return process


@pytest.fixture(scope='module')
def call(ego, partner):
    """Calls a service of the ego."""

    def call(service, name, request):
        client = partner.node.create_client(service, f'/cav_1/ego_node/{name}')
        partner.until(client.service_is_ready, name)
        future = client.call_async(request)
        partner.until(future.done, name)
        return future.result()

    return call


@pytest.fixture
def set_parameter(call):
    """Sets a parameter; returns the result."""

    def set_parameter(name, value):
        parameters = [Parameter(name, value=value).to_parameter_msg()]
        (result,) = call(
            SetParameters, 'set_parameters', SetParameters.Request(parameters=parameters)
        ).results
        return result

    return set_parameter


@pytest.fixture
def perceive(partner, scene, feature_of):
    """Sends a feature and a sweep until both are used; returns detections and the neighbour's status."""

    def perceive(start, age=0.0):
        def exchange(stamp):
            partner.publish('/v2x/features', feature_of(2, 'cav_2', stamp - round(age * 1e9)))
            partner.sweep('cav_1', stamp, scene.agents[1])

        at = partner.until_answered(
            '/cav_1/fusion_status', exchange, lambda status: len(status.neighbours) > 0, start
        )
        (neighbour,) = partner.message_at('/cav_1/fusion_status', at).neighbours
        return partner.message_at('/cav_1/detections', at), neighbour

    return perceive


def test_the_score_threshold(set_parameter, perceive, stamp):
    before, _ = perceive(stamp)
    scores = sorted(before.scores)
    threshold = float(scores[len(scores) // 2])
    assert set_parameter('min_score', threshold).successful
    after, _ = perceive(stamp + 10**11)
    assert sorted(after.scores) == [score for score in scores if score >= threshold]
    assert len(after.boxes) == 7 * len(after.scores)
    assert set_parameter('min_score', 0.0).successful


def test_the_age_that_is_fused(set_parameter, perceive, stamp):
    _, neighbour = perceive(stamp, age=1.0)
    assert neighbour.reason.startswith('older than max_age')
    assert set_parameter('max_age', 2.0).successful
    _, neighbour = perceive(stamp + 10**11, age=1.0)
    assert neighbour.accepted
    assert set_parameter('max_age', 0.5).successful


@pytest.mark.parametrize(
    ('allowed', 'accepted'), [(['cav_3'], False), (['rsu_*', 'cav_?'], True), ([''], False), (['*'], True)]
)
def test_the_neighbours_that_are_fused(set_parameter, perceive, stamp, allowed, accepted):
    assert set_parameter('allowed_neighbours', allowed).successful
    _, neighbour = perceive(stamp)
    assert neighbour.accepted is accepted
    if not accepted:
        assert neighbour.reason.startswith('not an allowed neighbour')


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('threads', 2, 'threads is only read at start: restart /cav_1/ego_node with the new value'),
        ('model', 'other', 'only allowed_neighbours, max_age, min_score'),
        ('max_age', 6.0, 'max_age'),
        ('max_age', 'long', 'type'),
    ],
)
def test_other_changes_are_refused_with_the_reason(set_parameter, call, name, value, reason):
    def current():
        (found,) = call(GetParameters, 'get_parameters', GetParameters.Request(names=[name])).values
        return found

    before = current()
    result = set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason
    assert current() == before
