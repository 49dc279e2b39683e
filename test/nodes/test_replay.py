# SPDX-License-Identifier: Apache-2.0
"""Replaying a bag: runs the processes of the launch file one by one, up to the report."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from launch_stand_in import REAL, ended, load
from patience import PATIENCE
from small_bags import STEP, messages_of, of_a_car, static_transforms, write

from diffkd_ros.bags.answers import read_answers
from diffkd_ros.bags.convert import write_bag
from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.launching.processes import child_environment
from diffkd_ros.share import share_directory
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

LAUNCH_FILE = share_directory() / 'launch' / 'replay.launch.py'
FRAMES = 3


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('recorded') / 'bag'
    config = SimulatorConfig(agents=2, frames_per_scenario=FRAMES)
    write_bag(map(Simulator(config, seed=4).scenario(0).frame, range(FRAMES)), path)
    return path


@pytest.fixture
def launch_module(monkeypatch):
    return load(monkeypatch, LAUNCH_FILE)


@pytest.fixture
def started(launch_module, bag, tmp_path):
    if REAL:
        pytest.skip('the real launch wants a LaunchContext: test_real_launch')
    given = {argument.name: argument.default_value for argument in launch_module.ARGUMENTS}
    given |= {'bag': str(bag), 'out': str(tmp_path / 'out')}

    def started(**changed):
        return launch_module.start({**given, **changed})

    return started


def test_it_loads_and_declares_described_arguments(launch_module):
    description = launch_module.generate_launch_description()
    assert description.entities[: len(launch_module.ARGUMENTS)] == [*launch_module.ARGUMENTS]
    # The others set the profile of Fast DDS and start the nodes.
    others = description.entities[len(launch_module.ARGUMENTS) :]
    assert len(others) == len(fast_dds_environment(share_directory())) + 1
    assert all(argument.description for argument in launch_module.ARGUMENTS)


def test_every_declared_argument_is_used(launch_module, started, bag, tmp_path):
    link = tmp_path / 'elsewhere'
    link.symlink_to(bag)
    other = {
        'bag': str(link),
        'ground_truth': str(link),
        'ego': '2',
        'topics': 'cav_1/points=/cav_1/points',
        'base_to_lidar': 'cav_2=1,0,2,0,0,0.1',
        'intensity_scale': 'ignore',
        'model': '/some/model',
        'device': 'cuda',
        'params_file': '/some/params.yaml',
        'mode': 'realtime',
        'speed': '2.0',
        'v2x_domain': '7',
        'out': str(tmp_path / 'other'),
        'rviz': 'true',
    }
    assert {argument.name for argument in launch_module.ARGUMENTS} == set(other)
    # The speed is used in real time only.
    usual = {mode: repr(started(mode=mode)) for mode in ('lockstep', 'realtime')}
    for name, value in other.items():
        mode = 'realtime' if name == 'speed' else 'lockstep'
        assert repr(started(**{'mode': mode, name: value})) != usual[mode], name


def test_a_folder_with_earlier_answers_is_refused(started, tmp_path):
    (tmp_path / 'out' / 'answers').mkdir(parents=True)
    with pytest.raises(DiffkdError, match='choose another folder'):
        started()


def test_rosbag2_plays_only_sensor_topics_where_it_is_installed(launch_module, started, monkeypatch):
    monkeypatch.setattr(launch_module.importlib.util, 'find_spec', lambda name: name == 'ros2bag')
    play = started(mode='realtime', speed='0.5')[-1].options['cmd']
    assert play[:3] == ['ros2', 'bag', 'play']
    assert play[play.index('--rate') + 1] == '0.5'
    assert set(play[play.index('--topics') + 1 :]) == {
        '/cav_1/points', '/cav_1/odometry', '/cav_2/points', '/cav_2/odometry',
        '/ground_truth', '/tf', '/tf_static',
    }  # fmt: skip
    # Only our own player repeats a run bit for bit.
    assert started(mode='lockstep')[-1].options['executable'] == 'player_node'


def test_in_real_time_a_recording_may_be_faster_than_the_simulator(
    launch_module, started, monkeypatch, group, tmp_path
):
    monkeypatch.setattr(launch_module.importlib.util, 'find_spec', lambda name: None)
    # A real LiDAR of nominally 20 Hz.
    period = 49_980_000
    drive = Simulator(SimulatorConfig(agents=1, frames_per_scenario=FRAMES), seed=4).scenario(0)
    write_bag((replace(drive.frame(k), stamp=k * period) for k in range(FRAMES)), tmp_path / 'fast')
    action = started(bag=str(tmp_path / 'fast'), mode='realtime', speed='3.0')[-1]
    result = tmp_path / 'result.json'
    parameters = {**action.options['parameters'][1], 'subscribers': 0, 'out': str(result)}
    player = group.start(NodeSpec('player_node', '/', (), parameters), label='fast')
    assert player.wait(PATIENCE), player.tail()
    assert player.returncode == 0, player.tail()
    group.stop([player])
    (run,) = json.loads(result.read_text())['runs']
    assert (run['rate'], run['sent']) == (pytest.approx(3e9 / period), FRAMES)


def test_a_bag_as_a_car_records_it_is_replayed_with_its_mounting(started, group, tmp_path):
    """Odometry of base_link, the mounting in /tf_static, other names of topics."""
    drive = Simulator(SimulatorConfig(agents=1, frames_per_scenario=FRAMES), seed=4).scenario(0)
    items = [
        item
        for index in range(FRAMES)
        for item in messages_of(replace(drive.frame(index), stamp=index * STEP))
    ]
    mounting = pose_from_euler((1.0, 0.0, 1.8), yaw=0.3)
    transforms = static_transforms(('base_link', 'velodyne', mounting))
    bag = write(tmp_path / 'car', [transforms, *of_a_car(items, 'cav_1', mounting)])
    topics = 'cav_1/points=/velodyne_points,cav_1/odometry=/localization/odom'
    nodes = {
        action.options['executable']: NodeSpec(
            action.options['executable'],
            action.options['namespace'],
            tuple(action.options['remappings']),
            action.options['parameters'][1],
        )
        for action in started(bag=str(bag), topics=topics)
    }
    np.testing.assert_allclose(
        nodes['ego_node'].parameters['base_to_lidar'], (1, 0, 1.8, 0, 0, 0.3), atol=1e-9
    )
    ego = group.start(nodes['ego_node'], label='car_ego')
    assert ego.ready.wait(PATIENCE), ego.tail()
    result = tmp_path / 'result.json'
    player = nodes['player_node']
    parameters = {**player.parameters, 'out': str(result), 'truth_subscribers': 0, 'answer_subscribers': 0}
    playing = group.start(replace(player, parameters=parameters), label='car_player')
    assert playing.wait(PATIENCE), playing.tail()
    group.stop([ego, playing])
    (run,) = json.loads(result.read_text())['runs']
    assert (run['sent'], run['answered']) == (FRAMES, FRAMES)


def test_the_report_of_a_replay_scores_its_answers(started, group, domain, tmp_path, bag):
    """The launch file's nodes over real DDS, then its last command."""
    nodes = {
        action.options['executable']: (
            action,
            NodeSpec(
                action.options['executable'],
                action.options['namespace'],
                tuple(action.options['remappings']),
                action.options['parameters'][1],
            ),
        )
        for action in started()
    }
    assert list(nodes) == ['ego_node', 'vehicle_node', 'evaluator_node', 'recorder_node', 'player_node']
    action, player_spec = nodes.pop('player_node')
    running = {name: group.start(spec) for name, (_, spec) in nodes.items()}
    group.wait_ready(PATIENCE)
    player = group.start(player_spec)
    assert player.wait(PATIENCE), player.tail()
    # Some time after it has ended, evaluator and recorder are ended too.
    (timer,) = ended(action, 0)
    last = [
        event.options['event'].options['process_matcher'].arguments[0] for event in timer.options['actions']
    ]
    assert [node.options['executable'] for node in last] == ['evaluator_node', 'recorder_node']
    assert ended(nodes['evaluator_node'][0], 0) == []
    group.stop([running['evaluator_node'], running['recorder_node']], patience=PATIENCE)
    (report,) = ended(nodes['recorder_node'][0], 0)
    (end,) = ended(report, 0)
    assert type(end).__name__ == 'Shutdown'
    with pytest.raises(DiffkdError, match='exit code 1'):
        ended(report, 1)
    command = [*report.options['cmd'], '--workers', '1']
    done = subprocess.run(
        command, env=child_environment({}), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / 'out'
    online, summary = (json.loads((out / name).read_text()) for name in ('online.json', 'summary.json'))
    assert (summary['frames'], summary['run']['left_out']['frames']) == (FRAMES, {})
    for iou, value in online['average_precision'].items():
        assert summary['clean'][f'ap{round(100 * float(iou))}'] == pytest.approx(value, abs=1e-9)
    assert 'detections recorded from a live run' in (out / 'report.html').read_text()
    answers = read_answers([out / 'answers'], 1)
    assert sorted(answers) == [frame.stamp for frame in RosbagDataset(bag)]


@pytest.mark.skipif(not REAL, reason='the real launch is not installed')
def test_real_launch(launch_module, bag, tmp_path):
    from launch import LaunchContext

    context = LaunchContext()
    for argument in launch_module.ARGUMENTS:
        if argument.default_value is not None:
            context.launch_configurations[argument.name] = argument.default_value[0].perform(context)
    context.launch_configurations.update({'bag': str(bag), 'out': str(tmp_path / 'out')})
    assert len(launch_module.start(context)) == 5
