# SPDX-License-Identifier: Apache-2.0
"""The bridge with the real CARLA client and real nodes, each in a process of its own, in lock-step."""

from __future__ import annotations

import itertools
import json
import signal
import time

import numpy as np
import pytest
from patience import PATIENCE, scaled, until

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')
pytest.importorskip('rclpy', reason='the bridge needs ROS 2')

from diffkd_ros.msg import Boxes3D
from nav_msgs.msg import Odometry
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from diffkd_ros.cosim import graph as cosim_graph
from diffkd_ros.cosim.bridge_node import BridgeParameters, session_settings, vehicle_transforms
from diffkd_ros.cosim.settings import LidarSettings
from diffkd_ros.cosim.testing.process import StandInProcess
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.launching import graph
from diffkd_ros.messages.clouds import read_cloud
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.messages.reading import boxes_of, stamp_of
from diffkd_ros.sources.source import Source

AGENTS = ['cav_1', 'cav_2', 'cav_3']
FRAMES = 30
PLAYED = 20
SEED = 2


@pytest.fixture(scope='module')
def drive():
    simulator = {'agents': 3, 'frames_per_scenario': PLAYED}
    return list(itertools.islice(Source(f'sim:{SEED}', simulator=simulator).frames(), PLAYED))


@pytest.fixture(scope='module')
def run(group, partner, model, tmp_path_factory):
    """Simulated traffic on the stand-in, sensed by three vehicles and fused by one."""
    out = tmp_path_factory.mktemp('run') / 'bridge.json'
    topics = [(Clock, '/clock'), (Boxes3D, '/ground_truth')]
    topics += [(PointCloud2, f'/{agent}/points') for agent in AGENTS]
    topics += [(Odometry, f'/{agent}/odometry') for agent in AGENTS]
    for message_class, topic in topics:
        partner.listen(message_class, topic)
    options = ('--source', 'sim', '--seed', str(SEED), '--frames', str(PLAYED))
    with StandInProcess(*options) as server:
        for spec in graph.vehicle_specs([1, 2, 3], 1, {'model': str(model), 'use_sim_time': True}):
            group.start(spec)
        group.wait_ready(PATIENCE)
        parameters = {'port': server.port, 'spawn': False, 'frames': FRAMES}
        parameters |= {'timeout': 60.0, 'ego_timeout': 60.0, 'sweep_timeout': 60.0}
        bridge = group.start(cosim_graph.bridge_spec({**parameters, 'out': str(out)}))
        assert bridge.wait(PATIENCE), bridge.tail()
        assert bridge.returncode == 0, bridge.tail()
        report = server.report()

    def complete():
        # The bridge ended after the last answer; this process may still have messages to take.
        headed = [topic for _, topic in topics[1:]] + ['/cav_1/detections', '/cav_1/fusion_status']
        last = max(max(by_stamp(partner, topic), default=0) for topic in headed)
        chunks = [m for m in partner.received['/v2x/chunks'] if stamp_of(m.header) == last]
        whole = {m.agent_id for m in chunks if sum(m.agent_id == n.agent_id for n in chunks) == m.chunks}
        return len(whole) == len(AGENTS) - 1 and all(last in by_stamp(partner, topic) for topic in headed)

    partner.until(complete, 'the messages of the last frame')
    return json.loads(out.read_text()), report


def by_stamp(partner, topic):
    return {stamp_of(message.header): message for message in partner.received[topic]}


def test_every_frame_is_answered(run):
    counts, report = run
    assert (counts['sent'], counts['answered'], counts['features_missing']) == (FRAMES, FRAMES, 0)
    assert (counts['sessions'], counts['problems']) == (1, {})
    assert (report['unknown'], report['failed'], report['synchronous']) == ({}, {}, False)
    assert not [kind for kind in report['actors'].values() if kind.startswith('sensor')]


def settled(partner):
    """Stamps by topic, and of the clock, from when all nodes had discovered this process: no loss since."""
    clocks = [m.clock.sec * 1_000_000_000 + m.clock.nanosec for m in partner.received['/clock']]
    topics = ['/ground_truth', '/cav_1/detections', '/cav_1/fusion_status']
    topics += [f'/{agent}/{kind}' for agent in AGENTS for kind in ('points', 'odometry')]
    stamps = {topic: sorted(by_stamp(partner, topic)) for topic in topics}
    first = max(each[0] for each in [clocks, *stamps.values()])
    return {topic: [stamp for stamp in each if stamp >= first] for topic, each in stamps.items()}, [
        stamp for stamp in clocks if stamp >= first
    ]


def test_all_that_belongs_to_a_frame_has_its_stamp(run, partner):
    stamps, clocks = settled(partner)
    assert len(clocks) >= FRAMES // 2
    assert set(np.diff(clocks)) == {100_000_000}
    for topic, each in stamps.items():
        assert each == clocks, topic
    chunks = {(m.agent_id, stamp_of(m.header)) for m in partner.received['/v2x/chunks']}
    assert chunks >= {(agent, stamp) for agent in AGENTS[1:] for stamp in clocks}
    for status in partner.received['/cav_1/fusion_status']:
        assert [(n.accepted, n.age) for n in status.neighbours] == [(True, 0.0)] * 2


def test_clouds_and_poses_are_those_of_the_drive_right_handed(run, partner, drive):
    seen = by_stamp(partner, '/cav_1/points')
    played = {frame.agents[1].points.tobytes(): frame for frame in drive}
    _, stamps = settled(partner)
    for agent in (1, 2, 3):
        clouds = by_stamp(partner, f'/cav_{agent}/points')
        poses = by_stamp(partner, f'/cav_{agent}/odometry')
        for stamp in stamps:
            odometry = poses[stamp]
            ego = read_cloud(seen[stamp]).points
            sweep = played[ego.tobytes()].agents[agent]
            np.testing.assert_array_equal(read_cloud(clouds[stamp]).points, sweep.points)
            np.testing.assert_allclose(pose_of(odometry.pose.pose), sweep.pose, atol=2e-5)
            assert clouds[stamp].header.frame_id == odometry.child_frame_id == f'cav_{agent}/lidar'


def test_the_shipped_model_finds_what_is_there(run, partner):
    """What it is sure of, on whichever side of the road: where the vehicle is, to half a metre."""
    truths = by_stamp(partner, '/ground_truth')
    apart, sides = [], []
    answers = by_stamp(partner, '/cav_1/detections')
    for stamp in settled(partner)[1]:
        found = boxes_of(answers[stamp])
        truth = boxes_of(truths[stamp]).boxes
        for box in found.boxes[found.scores >= 0.7]:
            distance = np.hypot(*(truth[:, :2] - box[:2]).T)
            apart.append(distance.min())
            sides.append(box[1] > 0.0)
    assert len(apart) >= FRAMES
    assert np.mean(np.array(apart) <= 0.5) >= 0.9
    assert 0.1 < np.mean(sides) < 0.9


@pytest.fixture
def lone_bridge(group):
    """A bridge without an ego, while the other nodes keep running."""
    made = []

    def start(port, **parameters):
        patient = {'timeout': 60.0, 'sweep_timeout': 60.0}
        spec = cosim_graph.bridge_spec(
            {'port': port, 'vehicles': [1], 'wait_for_ego': False, **patient, **parameters}
        )
        made.append(group.start(spec, label=f'bridge_{port}_{len(made)}'))
        return made[-1]

    yield start
    group.stop(made, patience=PATIENCE)


def test_a_server_that_comes_late_dies_and_comes_back(run, lone_bridge, partner, group):
    with StandInProcess() as server:
        port = server.port
    bridge = lone_bridge(port, timeout=scaled(1.0))
    partner.diagnosis('bridge_node: carla', 'ServerAbsentError')
    with StandInProcess('--port', str(port)) as server:
        partner.diagnosis('bridge_node: carla', 'connected')
        server.kill()
        partner.diagnosis('bridge_node: carla', 'ServerLostError')
    with StandInProcess('--port', str(port)):
        partner.diagnosis('bridge_node: carla', 'connected')
    assert bridge.returncode is None
    # Vehicles and ego are not affected.
    group.check()


def test_a_second_ticker_is_named(run, lone_bridge, partner, empty):
    bridge = lone_bridge(empty.port)
    partner.diagnosis('bridge_node: carla', 'connected')

    def named():
        empty.call('tick_cue')
        return any(
            'SecondTickerError' in status.message
            for array in partner.received['/diagnostics'][-20:]
            for status in array.status
        )

    partner.until(named, 'the second ticker to be named')
    # It stops ticking, and leaves the world as it was.
    until(lambda: not empty.report()['synchronous'], 'the settings to be restored')
    before = empty.report()
    assert [kind for kind in before['actors'].values() if kind.startswith('sensor')] == []
    # Longer than the pause before a new session.
    time.sleep(scaled(3.0))
    assert empty.report()['calls']['tick_cue'] == before['calls']['tick_cue']
    assert bridge.returncode is None
    partner.diagnosis('bridge_node: carla', 'SecondTickerError')


def test_a_destroyed_lidar_is_reported(run, lone_bridge, partner, empty):
    bridge = lone_bridge(empty.port)
    partner.diagnosis('bridge_node: carla', 'connected')
    (lidar,) = (n for n, kind in empty.report()['actors'].items() if kind.startswith('sensor'))
    empty.call('destroy_actor', int(lidar))

    def reported():
        values = partner.diagnosis('bridge_node: carla', 'connected').values
        return {value.key: value.value for value in values}['LiDARs attached again'] == '1'

    until(reported, 'the destroyed LiDAR to be counted')
    assert 'another client has destroyed the LiDAR of cav_1' in bridge.tail()
    assert 'sensor.lidar.ray_cast' in empty.report()['actors'].values()


@pytest.mark.parametrize(
    ('server_options', 'parameters', 'name'),
    [
        (('--version', '0.9.15'), {}, 'VersionMismatchError'),
        ((), {'rotation_frequency': 20.0}, 'RotationMismatchError'),
    ],
)
def test_an_error_is_named_and_retried(run, lone_bridge, partner, server_options, parameters, name):
    with StandInProcess(*server_options) as server:
        bridge = lone_bridge(server.port, **parameters)
        partner.diagnosis('bridge_node: carla', name)
        assert bridge.returncode is None
        # While there is a server: a call to one that is gone takes its whole timeout, a minute here.
        bridge.signal(signal.SIGINT)
        assert bridge.wait(PATIENCE)


def test_interrupted_it_leaves_the_world_as_it_was(run, lone_bridge, partner, empty):
    before = empty.report()['actors']
    bridge = lone_bridge(empty.port)
    partner.diagnosis('bridge_node: carla', 'connected')
    assert empty.report()['synchronous']
    bridge.signal(signal.SIGINT)
    assert bridge.wait(PATIENCE)
    assert bridge.returncode == 0
    after = empty.report()
    assert (after['actors'], after['synchronous']) == (before, False)


def test_interrupted_after_the_server_hung_it_leaves_the_world_as_it_was(run, lone_bridge, partner):
    with StandInProcess() as server:
        before = server.report()['actors']
        bridge = lone_bridge(server.port, timeout=scaled(1.0))
        partner.diagnosis('bridge_node: carla', 'connected')
        server.signal(signal.SIGSTOP)
        # Twice: while the server hangs, and at the next try.
        partner.diagnosis('bridge_node: carla', 'ServerLostError')
        partner.diagnosis('bridge_node: carla', 'ServerAbsentError')
        server.signal(signal.SIGCONT)
        bridge.signal(signal.SIGINT)
        assert bridge.wait(PATIENCE)
        assert bridge.returncode == 0
        after = server.report()
    assert (after['actors'], after['synchronous']) == (before, False)


def test_vehicles_roles_and_ego_must_match():
    assert session_settings(BridgeParameters()).roles == {1: 'cav_1', 2: 'cav_2', 3: 'cav_3'}
    named = BridgeParameters(vehicles=(1, 2), roles=('hero', 'cav_2'))
    assert session_settings(named).roles == {1: 'hero', 2: 'cav_2'}
    for wrong in (
        {'roles': ('hero',)},
        {'roles': ('a', 'a', 'b')},
        {'vehicles': (1, 1, 2)},
        {'ego': 9},
    ):
        with pytest.raises(DiffkdError):
            session_settings(BridgeParameters(**wrong))


@pytest.mark.parametrize('native', [False, True])
def test_the_transforms_chain_up_to_the_lidars_pose(native):
    pose = pose_from_euler((10.0, -4.0, 2.0), 0.02, -0.05, 1.2)
    frame = CoopFrame({7: AgentSweep(np.zeros((0, 4)), pose)}, 7, 1_500_000_000)
    mount = LidarSettings(forward=0.4, height=2.1).mount
    chain, parents = np.eye(4), []
    for transform in vehicle_transforms(frame, mount, native):
        t, q = transform.transform.translation, transform.transform.rotation
        part = type('Pose', (), {'position': t, 'orientation': q})
        chain = chain @ pose_of(part)
        parents.append((transform.header.frame_id, transform.child_frame_id))
        assert stamp_of(transform.header) == 1_500_000_000
    links = [('map', 'cav_7'), ('cav_7', 'cav_7/lidar')]
    assert parents == (links[:1] if native else links)
    np.testing.assert_allclose(chain @ (mount if native else np.eye(4)), pose, atol=1e-9)
