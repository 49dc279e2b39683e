# SPDX-License-Identifier: Apache-2.0
"""The V2X link in a DDS domain of its own: what arrives through it, and what a stranger in it can reach."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from diffkd_ros.msg import BevChunk, BevFeature, FusionStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from patience import PATIENCE, scaled, until
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from ros_partner import Partner
from rosbags.highlevel import AnyReader

from diffkd_ros.cosim.graph import bridge_spec, gateway_spec
from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching import graph
from diffkd_ros.launching.middleware import free_domain
from diffkd_ros.launching.processes import NodeGroup
from diffkd_ros.nodes.base.entry import RunnableNode
from diffkd_ros.nodes.base.link_node import LinkFirstExecutor, LinkNode
from diffkd_ros.sources.bag_files import message_types

SECOND = 1_000_000_000
LINK_TOPICS = {'/v2x/features', '/v2x/chunks'}
EGO, VEHICLE = '/cav_1/ego_node', '/cav_2/vehicle_node'
# Messages per second that the ego reads; the flood of this test has many more.
LINK_RATE = 50.0
CARLA = pytest.mark.skipif(find_spec('carla') is None, reason='the CARLA client has no wheel here')
OVERRIDE = 'qos_overrides./v2x/features.publisher.reliability'


@pytest.fixture(scope='module')
def domains():
    """Domains of the ego, of the other vehicle, and of the link."""
    first = free_domain()
    second = free_domain(first + 1)
    return first, second, free_domain(second + 1)


@pytest.fixture(scope='module')
def partners(domains):
    """A node in each of the domains; the last one is a stranger on the link."""
    with ExitStack() as stack:
        partners = []
        for domain in domains:
            partners.append(Partner(domain))
            stack.callback(partners[-1].close)
        partners[0].listen(FusionStatus, '/cav_1/fusion_status')
        partners[2].listen(BevFeature, '/v2x/features')
        yield partners


@pytest.fixture(scope='module')
def both(domains, partners, model, scene, tmp_path_factory):
    """The ego and the vehicle, each in its own domain, once the ego fuses what the vehicle sends."""
    link = {
        'model': str(model),
        'threads': 1,
        'v2x_domain': domains[2],
        'v2x_reliability': 'best_effort',
        OVERRIDE: 'reliable',
        'qos_overrides./v2x/features.subscription.reliability': 'reliable',
    }
    own = {'ego_node': {'link_rate': LINK_RATE}, 'vehicle_node': {}}
    logs = tmp_path_factory.mktemp('logs')
    with ExitStack() as stack:
        processes = []
        for spec, domain in zip(graph.vehicle_specs([1, 2], 1, link), domains, strict=False):
            environment = {'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': str(logs / 'ros')}
            group = stack.enter_context(NodeGroup([], logs, environment))
            spec = replace(spec, parameters={**spec.parameters, **own[spec.executable]})
            processes.append(group.start(spec))
            group.wait_ready(PATIENCE)
        until_fused(partners, scene, 0)
        yield processes


def until_fused(partners, scene, start):
    """Send sweeps of both until the ego has fused the vehicle's."""
    of_ego, of_vehicle, stranger = partners

    def exchange(stamp):
        of_vehicle.sweep('cav_2', stamp, scene.agents[2])
        with contextlib.suppress(AssertionError):
            stranger.message_at('/v2x/features', stamp, timeout=scaled(1.0))
        of_ego.sweep('cav_1', stamp, scene.agents[1])

    def fused(status):
        return any(n.agent_id == 'cav_2' and n.accepted for n in status.neighbours)

    return of_ego.until_answered('/cav_1/fusion_status', exchange, fused, start)


def caller(partner, kind, service):
    """A function that calls a service with a request and returns the answer."""
    client = partner.node.create_client(kind, service)
    partner.until(client.service_is_ready, service)

    def call(**request):
        future = client.call_async(kind.Request(**request))
        partner.until(future.done, service)
        return future.result()

    return call


def others(partner, names_and_types, own):
    """Names that the partner did not add to its domain itself."""
    return {name for name, _ in names_and_types if not name.startswith('/partner/')} - own


def test_the_overrides_of_the_quality_of_service_hold_in_the_domain_of_the_link(both, partners):
    _, of_vehicle, stranger = partners
    (offered,) = stranger.node.get_publishers_info_by_topic('/v2x/features')
    assert offered.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    get = caller(of_vehicle, GetParameters, f'{VEHICLE}/get_parameters')
    (value,) = get(names=[OVERRIDE]).values
    assert value.string_value == 'reliable'


def test_a_stranger_on_the_link_sees_its_topics_and_nothing_else(both, partners):
    stranger = partners[2].node
    partners[2].until(lambda: stranger.count_subscribers('/v2x/chunks'), "the ego's subscriptions")
    nodes = {f'{space}/{name}' for name, space in stranger.get_node_names_and_namespaces()}
    assert {EGO, VEHICLE} <= nodes
    own = {'/rosout', '/parameter_events'}
    assert others(partners[2], stranger.get_topic_names_and_types(), own) == LINK_TOPICS
    assert others(partners[2], stranger.get_service_names_and_types(), set()) == set()
    for topic in own:
        ends = stranger.get_publishers_info_by_topic(topic) + stranger.get_subscriptions_info_by_topic(topic)
        assert {end.node_name for end in ends} <= {'partner'}


@pytest.mark.parametrize('place', [0, 1])
def test_the_link_is_not_in_the_domain_of_a_vehicle(both, partners, place):
    node = partners[place].node
    topics = {name for name, _ in node.get_topic_names_and_types()}
    assert {'/cav_1/points', '/cav_2/points'} & topics
    assert not LINK_TOPICS & topics


def test_a_strangers_call_does_not_reach_the_ego(both, partners, scene, stamp):
    of_ego, _, stranger = partners
    client = stranger.node.create_client(ChangeState, f'{EGO}/change_state')
    future = client.call_async(
        ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    )
    until_fused(partners, scene, stamp)
    assert not future.done()
    assert caller(of_ego, GetState, f'{EGO}/get_state')().current_state.id == State.PRIMARY_STATE_ACTIVE


def test_a_flood_on_the_link_does_not_stop_the_services_of_the_ego(both, partners, scene, feature_of, stamp):
    of_ego, _, stranger = partners
    of_ego.listen(DiagnosticArray, '/diagnostics')
    publisher = stranger.node.create_publisher(BevFeature, '/v2x/features', 10)
    ended, sent = threading.Event(), []

    def flood():
        while not ended.is_set():
            publisher.publish(feature_of(3, 'cav_3', stamp, len(sent)))
            sent.append(stamp)

    thread = threading.Thread(target=flood)
    thread.start()
    change = caller(of_ego, ChangeState, f'{EGO}/change_state')
    try:
        of_ego.diagnosis('admission', 'messages turned away since')
        for transition, topics in (
            (Transition.TRANSITION_DEACTIVATE, 0),
            (Transition.TRANSITION_ACTIVATE, 1),
        ):
            before = len(sent)
            assert change(transition=Transition(id=transition)).success
            # Its subscriptions of the link, and the stranger's own of the features.
            until(lambda n=topics: stranger.node.count_subscribers('/v2x/chunks') == n, 'the ego')
            assert len(sent) > before
        until_fused(partners, scene, stamp)
    finally:
        ended.set()
        thread.join()
        stranger.node.destroy_publisher(publisher)


def test_a_vehicle_that_is_cleaned_up_leaves_the_link_and_returns(both, partners, scene, stamp):
    _, of_vehicle, stranger = partners
    change = caller(of_vehicle, ChangeState, f'{VEHICLE}/change_state')
    for transitions, publishers in (
        ((Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP), 0),
        ((Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE), 1),
    ):
        for transition in transitions:
            assert change(transition=Transition(id=transition)).success
        until(
            lambda n=publishers: stranger.node.count_publishers('/v2x/features') == n, 'the end of the link'
        )
    until_fused(partners, scene, stamp)


def test_both_end_on_sigterm(both):
    """Runs last: they are needed before."""
    for process in both:
        process.signal(signal.SIGTERM)
    for process in both:
        assert process.wait(PATIENCE)
        assert process.returncode == 0, process.tail()
        assert 'Traceback' not in process.tail()


def test_a_run_is_played_scored_and_recorded_through_the_link(domains, model, tmp_path):
    run = {'v2x_domain': domains[2]}
    vehicles = {**run, 'model': str(model), 'threads': 1}
    environment = {'ROS_DOMAIN_ID': str(domains[0]), 'ROS_LOG_DIR': str(tmp_path / 'ros')}
    recorder = graph.recorder_spec([1, 2], 1, str(tmp_path / 'bag'))
    # Found by its name, in the domain of the link.
    topics = [topic.removesuffix(':diffkd_ros/msg/BevFeature') for topic in recorder.parameters['topics']]
    assert '/v2x/features' in topics
    play = {'source': 'sim:12', 'vehicles': 2, 'frames': 3, 'timeout': PATIENCE, **run}
    with NodeGroup([], tmp_path, environment) as group:
        for spec in graph.vehicle_specs([1, 2], 1, vehicles):
            group.start(spec)
        scored = {'model': str(model), 'out': str(tmp_path / 'scored.json'), **run}
        watchers = [
            group.start(graph.evaluator_spec(1, scored)),
            group.start(replace(recorder, parameters={**recorder.parameters, 'topics': topics, **run})),
        ]
        group.wait_ready(PATIENCE)
        played = {**play, 'out': str(tmp_path / 'played.json')}
        player = group.start(graph.player_spec(played, evaluated=True, recorded=True))
        assert player.wait(PATIENCE), player.tail()
        assert player.returncode == 0, player.tail()
        group.stop(watchers, patience=PATIENCE)
    result = json.loads((tmp_path / 'played.json').read_text())
    assert result['features_missing'] == 0
    assert result['runs'][0]['answered'] == 3
    result = json.loads((tmp_path / 'scored.json').read_text())
    assert result['features_fused'] == {'cav_2': 3}
    assert result['link']['cav_2']['messages'] == 3
    with AnyReader([tmp_path / 'bag'], default_typestore=message_types()) as reader:
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
    assert counts['/v2x/features'] == counts['/cav_1/detections'] == counts['/cav_2/points'] == 3


@pytest.mark.parametrize(
    'spec',
    [
        graph.evaluator_spec(1, {}),
        graph.player_spec({}),
        pytest.param(bridge_spec({}), marks=CARLA),
        gateway_spec({'port': 0}),
    ],
    ids=lambda spec: spec.executable,
)
def test_every_node_that_uses_the_link_listens_in_its_domain_only(spec, domains, partners, tmp_path):
    of_node, _, stranger = partners

    def listens(partner):
        ends = partner.node.get_subscriptions_info_by_topic('/v2x/chunks')
        return [end.node_name for end in ends]

    assert spec.executable in graph.LINK_NODES
    environment = {'ROS_DOMAIN_ID': str(domains[0]), 'ROS_LOG_DIR': str(tmp_path)}
    with NodeGroup([], tmp_path, environment) as group:
        group.start(replace(spec, parameters={**spec.parameters, 'v2x_domain': domains[2]}))
        stranger.until(lambda: group.check() or spec.executable in listens(stranger), spec.executable)
        of_node.until(lambda: spec.executable in of_node.node.get_node_names(), spec.executable)
        assert not listens(of_node)


@pytest.fixture
def owner(domains):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domains[0], args=['--ros-args', '-r', 'v2x/chunks:=/v2x/chunks'])
    simulated = [Parameter('use_sim_time', value=True)]
    node = RunnableNode('vehicle', namespace='/cav_2', context=context, parameter_overrides=simulated)
    yield node
    node.destroy_node()
    context.try_shutdown()


def test_it_takes_no_time_from_the_link(owner, domains):
    owner.open_link(domains[2])
    assert owner.link is not owner
    assert [each.topic_name for each in owner.subscriptions] == ['/clock']
    for ends in ('subscriptions', 'publishers', 'services', 'clients', 'timers'):
        assert not list(getattr(owner.link, ends)), ends


def test_topics_of_the_link_are_remapped_as_those_of_the_node(owner, domains):
    owner.open_link(domains[2])
    assert owner.link.create_publisher(BevChunk, 'v2x/chunks', 1).topic_name == '/v2x/chunks'
    assert owner.link.create_publisher(BevFeature, 'v2x/features', 1).topic_name == '/cav_2/v2x/features'


def test_it_keeps_the_enclave_of_the_node_but_not_its_remappings(owner, domains, monkeypatch):
    arguments = ['--enclave', '/cav_2', '-r', '__node:=other', '-p', 'use_sim_time:=true']
    monkeypatch.setattr('sys.argv', ['vehicle_node', '--ros-args', *arguments])
    owner.open_link(domains[2])
    known = owner.link.get_node_names_and_namespaces_with_enclaves()
    assert ('vehicle', '/cav_2', '/cav_2') in known
    assert not list(owner.link.subscriptions)


def test_the_link_comes_first_in_a_turn(owner, domains):
    owner.open_link(domains[2])
    for nodes in (owner.nodes, owner.nodes[::-1]):
        executor = LinkFirstExecutor(context=owner.context)
        for node in nodes:
            executor.add_node(node)
        assert executor.get_nodes() == [owner.link, owner]
        executor.shutdown()


def test_the_domain_of_the_node_is_refused(owner, domains):
    with pytest.raises(DiffkdError, match="is the node's own domain"):
        owner.open_link(domains[0])


def test_a_domain_that_cannot_be_joined_is_an_error(owner, domains, monkeypatch, tmp_path):
    """As with a keystore of SROS 2 that lacks the node's enclave."""
    for name, value in (('ENABLE', 'true'), ('STRATEGY', 'Enforce'), ('KEYSTORE', str(tmp_path))):
        monkeypatch.setenv(f'ROS_SECURITY_{name}', value)
    with pytest.raises(DiffkdError, match=f'cannot join the DDS domain {domains[2]} of the V2X link'):
        owner.open_link(domains[2])


def test_without_a_domain_the_link_is_in_that_of_the_node(owner):
    owner.open_link(-1)
    assert owner.link is owner
    assert not isinstance(owner.link, LinkNode)
