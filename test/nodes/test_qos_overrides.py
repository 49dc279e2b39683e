# SPDX-License-Identifier: Apache-2.0
"""Parameters `qos_overrides.*`: applied to the profiles of all topics, or refused."""

from __future__ import annotations

import pytest
from patience import PATIENCE
from rclpy.qos import HistoryPolicy, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.nodes.base import qos

OVERRIDES = {
    'qos_overrides./v2x/features.publisher.reliability': 'best_effort',
    'qos_overrides./v2x/features.publisher.depth': 3,
    'qos_overrides./cav_2/points.subscription.depth': 7,
    'qos_overrides./cav_2/odometry.subscription.reliability': 'best_effort',
    'qos_overrides./cav_2/odometry.subscription.history': 'keep_all',
    'qos_overrides./diagnostics.publisher.depth': 4,
    'qos_overrides./nowhere.publisher.depth': 4,
}


@pytest.fixture(scope='module')
def vehicle(group, model):
    spec = NodeSpec(
        'vehicle_node', '/cav_2', (('v2x/features', '/v2x/features'),), {'model': str(model), **OVERRIDES}
    )
    process = group.start(spec)
    group.wait_ready(PATIENCE)
    return process


def profile(partner, kind, topic):
    """The profile of the vehicle's end of a topic."""
    inspect = getattr(partner.node, f'get_{kind}s_info_by_topic')

    def found():
        return [info.qos_profile for info in inspect(topic) if info.node_name == 'vehicle_node']

    (profile,) = partner.until(found, f'the {kind} of {topic}')
    return profile


def test_they_replace_the_reliability_and_leave_other_topics_alone(vehicle, partner):
    best_effort, reliable = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE
    assert profile(partner, 'publisher', '/v2x/features').reliability == best_effort
    assert profile(partner, 'subscription', '/cav_2/odometry').reliability == best_effort
    assert profile(partner, 'subscription', '/cav_2/points').reliability == reliable
    assert profile(partner, 'publisher', '/diagnostics').reliability == reliable


def test_they_are_parameters_of_the_node(vehicle, partner):
    from rcl_interfaces.srv import GetParameters

    client = partner.node.create_client(GetParameters, '/cav_2/vehicle_node/get_parameters')
    partner.until(client.service_is_ready, 'the service')
    names = [name for name in OVERRIDES if 'nowhere' not in name]
    future = client.call_async(GetParameters.Request(names=names))
    partner.until(future.done, 'the parameters')
    values = [value.string_value or value.integer_value for value in future.result().values]
    assert values == [OVERRIDES[name] for name in names]


def test_one_without_a_topic_is_reported(vehicle):
    assert 'qos_overrides./nowhere.publisher.depth has no effect so far' in vehicle.tail()


def test_shared_profiles_are_not_changed(partner):
    from rclpy.parameter import Parameter

    from diffkd_ros.nodes.base.entry import RunnableNode

    overrides = [
        Parameter('qos_overrides./points.subscription.depth', value=33),
        Parameter('qos_overrides./points.subscription.history', value='keep_all'),
    ]
    node = RunnableNode('listener', context=partner.node.context, parameter_overrides=overrides)
    found = node.create_subscription(PointCloud2, 'points', print, qos.POINTS).qos_profile
    assert (found.depth, found.history) == (33, HistoryPolicy.KEEP_ALL)
    assert (qos.POINTS.depth, qos.POINTS.history) == (1, HistoryPolicy.KEEP_LAST)
    node.destroy_node()


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('qos_overrides./points.publisher.depht', 3, 'is not of the form qos_overrides./TOPIC'),
        ('qos_overrides.points.publisher.depth', 3, 'is not of the form qos_overrides./TOPIC'),
        ('qos_overrides./points.publisher.deadline', 3, 'with POLICY history, depth or reliability'),
        ('qos_overrides./points.publisher.depth', 0, 'must be an int of 1 or more, got 0'),
        ('qos_overrides./points.publisher.depth', 'deep', "must be an int of 1 or more, got 'deep'"),
        ('qos_overrides./points.publisher.reliability', 'good', 'must be one of reliable, best_effort'),
        ('qos_overrides./points.publisher.history', 1, 'must be one of keep_last, keep_all, got 1'),
    ],
)
def test_an_invalid_one_is_named(name, value, message):
    assert message in qos.override_error(name, value)
    assert name in qos.override_error(name, value)


def test_an_invalid_one_ends_the_node(group):
    process = group.start(
        NodeSpec('recorder_node', '/', (), {'qos_overrides./points.subscription.depth': 'deep'})
    )
    assert process.wait(PATIENCE)
    assert process.returncode == 2
    assert "depth must be an int of 1 or more, got 'deep'" in process.tail()
    group.stop([process])
