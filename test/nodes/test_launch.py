# SPDX-License-Identifier: Apache-2.0
"""The launch file, against the real `launch` where it is installed, else against a stand-in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from launch_stand_in import REAL, load

from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.share import share_directory

LAUNCH_FILE = share_directory() / 'launch' / 'coop.launch.py'

# Another value for each argument; each must change what is started.
OTHER = {
    'vehicles': '1,2',
    'ego': '2',
    'model': '/some/model',
    'device': 'cuda',
    'params_file': '/some/params.yaml',
    'source': 'opv2v:/some/where',
    'seed': '7',
    'mode': 'lockstep',
    'rate': '7.5',
    'frames': '9',
    'record': '/some/bag',
    'use_sim_time': 'true',
    'rviz': 'true',
}


@pytest.fixture
def launch_module(monkeypatch):
    return load(monkeypatch, LAUNCH_FILE)


def test_it_loads_and_declares_described_arguments(launch_module):
    description = launch_module.generate_launch_description()
    assert description.entities[: len(launch_module.ARGUMENTS)] == [*launch_module.ARGUMENTS]
    # And the profile of Fast DDS, and what starts the nodes.
    others = description.entities[len(launch_module.ARGUMENTS) :]
    assert len(others) == len(fast_dds_environment(share_directory())) + 1
    assert all(argument.description for argument in launch_module.ARGUMENTS)


@pytest.fixture
def started(launch_module):
    if REAL:
        pytest.skip('the real launch wants a LaunchContext: test_real_launch')
    defaults = {argument.name: argument.default_value for argument in launch_module.ARGUMENTS}

    def started(**changed):
        return launch_module.start({**defaults, **changed})

    return started


def test_every_declared_argument_is_used(launch_module, started):
    assert {argument.name for argument in launch_module.ARGUMENTS} == set(OTHER)
    for name, value in OTHER.items():
        # The number of frames matters in lock-step only.
        assert repr(started(**{name: value})) != repr(started()), name


def test_the_default_is_an_ego_its_neighbours_a_player_and_an_evaluator(started):
    nodes = {(n.options['namespace'], n.options['executable']) for n in started()}
    assert nodes == {
        ('/cav_1', 'ego_node'),
        ('/cav_2', 'vehicle_node'),
        ('/cav_3', 'vehicle_node'),
        ('/', 'player_node'),
        ('/cav_1', 'evaluator_node'),
    }
    live = {n.options['executable'] for n in started(source='live')}
    assert live == {'ego_node', 'vehicle_node'}


def test_all_vehicles_share_one_v2x_topic(started):
    for node in started():
        if node.options['executable'] in ('ego_node', 'vehicle_node', 'player_node', 'evaluator_node'):
            assert ('v2x/features', '/v2x/features') in node.options['remappings']


def test_every_executable_exists(started):
    folder = Path(__file__).parents[2] / 'diffkd_ros' / 'nodes'
    for node in started(record='/some/bag'):
        assert node.options['package'] == 'diffkd_ros'
        assert (folder / f'{node.options["executable"]}.py').is_file()


@pytest.mark.skipif(not REAL, reason='the real launch is not installed')
def test_real_launch(launch_module):
    from launch import LaunchContext

    context = LaunchContext()
    for argument in launch_module.ARGUMENTS:
        context.launch_configurations[argument.name] = argument.default_value[0].perform(context)
    assert len(launch_module.start(context)) == 5


def test_the_rviz_configuration_is_yaml_and_shows_the_topics():
    config = yaml.safe_load((share_directory() / 'config' / 'rviz' / 'coop.rviz').read_text())
    topics = {d['Topic']['Value'] for d in config['Visualization Manager']['Displays'] if 'Topic' in d}
    sweeps = {f'/cav_{vehicle}/points' for vehicle in (1, 2, 3)}
    assert topics == {*sweeps, '/cav_1/markers', '/cav_1/truth_markers'}


def test_the_foxglove_layout_shows_the_same_topics_and_every_panel_once():
    layout = json.loads((share_directory() / 'config' / 'foxglove' / 'coop.json').read_text())
    scene = layout['configById']['3D!scene']
    sweeps = {f'/cav_{vehicle}/points' for vehicle in (1, 2, 3)}
    assert set(scene['topics']) == {*sweeps, '/cav_1/markers', '/cav_1/truth_markers'}
    fields = (share_directory() / 'msg' / 'FusionStatus.msg').read_text()
    fields += (share_directory() / 'msg' / 'NeighbourStatus.msg').read_text()
    for panel in ('Plot!gates', 'Plot!latency'):
        for path in layout['configById'][panel]['paths']:
            topic, *names = re.sub(r'\[.*?\]|\{.*?\}', '', path['value']).split('.')
            assert topic == '/cav_1/fusion_status'
            assert all(re.search(rf'\b{name}\b', fields) for name in names)

    def panels(part):
        return [part] if isinstance(part, str) else panels(part['first']) + panels(part['second'])

    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
