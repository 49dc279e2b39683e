# SPDX-License-Identifier: Apache-2.0
"""The launch files of vehicles, against the real `launch` where it is installed, else against a stand-in."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from launch_stand_in import REAL, ended, load

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.share import share_directory

# Another value for each argument; each must change what is started.
ON_VEHICLES = {
    'points': '/lidar/points',
    'poses': '/localization/odometry',
    'pose_source': 'pose',
    'base_to_lidar': '1.2,0,1.8,0,0,0',
    'map_frame': 'utm',
    'min_score': '0.3',
    'autoware': 'true',
    'cpm': 'true',
    'log_level': 'warn',
    'respawn': 'true',
}
COOP = ON_VEHICLES | {
    'v2x_domain': '7',
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
VEHICLE = ON_VEHICLES | {
    'v2x_domain': '7',
    'namespace': 'truck',
    'ego': 'false',
    'model': '/some/model',
    'device': 'cuda',
    'params_file': '/some/params.yaml',
    'use_sim_time': 'true',
    'respawn': 'false',
}
FILES = {'coop': COOP, 'vehicle': VEHICLE}
# Of an ego, because of the arguments that need one.
GIVEN = {'coop': {}, 'vehicle': {'namespace': 'cav_1', 'ego': 'true'}}


@pytest.fixture
def loaded(monkeypatch):
    return lambda name: load(monkeypatch, share_directory() / 'launch' / f'{name}.launch.py')


@pytest.mark.parametrize('name', FILES)
def test_it_loads_and_declares_described_arguments(name, loaded):
    module = loaded(name)
    description = module.generate_launch_description()
    assert description.entities[: len(module.ARGUMENTS)] == [*module.ARGUMENTS]
    # And the profile of Fast DDS, and what starts the nodes.
    others = description.entities[len(module.ARGUMENTS) :]
    assert len(others) == len(fast_dds_environment(share_directory())) + 1
    assert all(argument.description for argument in module.ARGUMENTS)
    assert {argument.name for argument in module.ARGUMENTS} == set(FILES[name])


@pytest.fixture
def started(loaded):
    if REAL:
        pytest.skip('the real launch wants a LaunchContext: test_real_launch')

    def started(name='coop', **changed):
        module = loaded(name)
        defaults = {argument.name: argument.default_value for argument in module.ARGUMENTS}
        return module.start({**defaults, **GIVEN[name], **changed})

    return started


@pytest.mark.parametrize(('name', 'argument'), [(n, a) for n, values in FILES.items() for a in values])
def test_every_argument_is_used(name, argument, started):
    assert repr(started(name, **{argument: FILES[name][argument]})) != repr(started(name))


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
    for node in started() + started('vehicle'):
        if node.options['executable'] in ('ego_node', 'vehicle_node', 'player_node', 'evaluator_node'):
            assert ('v2x/features', '/v2x/features') in node.options['remappings']


def test_every_executable_exists(started):
    folder = Path(__file__).parents[2] / 'diffkd_ros' / 'nodes'
    for node in started(record='/some/bag', autoware='true', cpm='true'):
        assert node.options['package'] == 'diffkd_ros'
        assert (folder / f'{node.options["executable"]}.py').is_file()


def test_arguments_of_vehicles_reach_the_nodes_they_concern(started):
    nodes = {n.options['executable']: n.options for n in started(**ON_VEHICLES)}
    mount = [1.2, 0.0, 1.8, 0.0, 0.0, 0.0]
    for name in ('ego_node', 'vehicle_node', 'cpm_node'):
        parameters = nodes[name]['parameters'][-1]
        assert (parameters['pose_source'], parameters['base_to_lidar']) == ('pose', mount)
        assert ('pose', '/localization/odometry') in nodes[name]['remappings']
    assert nodes['ego_node']['parameters'][-1]['min_score'] == 0.3
    assert 'min_score' not in nodes['vehicle_node']['parameters'][-1]
    assert nodes['ego_node']['ros_arguments'] == ['--log-level', 'cav_1.ego_node:=warn']
    assert nodes['autoware_node']['namespace'] == nodes['cpm_node']['namespace'] == '/cav_1'
    assert [name for name, options in nodes.items() if options['respawn']] == [
        'ego_node', 'vehicle_node', 'autoware_node', 'cpm_node'
    ]  # fmt: skip


def test_an_empty_argument_leaves_the_parameter_to_the_file(started):
    (node,) = started('vehicle', ego='false')
    assert node.options['parameters'][-1] == {'model': 'sim_edge', 'device': 'cpu', 'use_sim_time': False}


@pytest.mark.parametrize(
    ('name', 'given', 'message'),
    [
        ('coop', {'vehicles': '1,two'}, 'vehicles:=1,two must consist of integers'),
        ('coop', {'ego': ''}, 'ego:= must consist of integers'),
        ('coop', {'rate': 'nan'}, 'rate:=nan must consist of finite numbers'),
        ('coop', {'base_to_lidar': '1,2'}, 'base_to_lidar:=1,2 must be 6 numbers'),
        ('vehicle', {'min_score': 'high'}, 'min_score:=high must consist of finite numbers'),
        ('vehicle', {'ego': 'false', 'cpm': 'true'}, 'cpm needs an ego'),
        ('vehicle', {'namespace': '/'}, 'namespace:= must not be empty'),
    ],
)
def test_errors_name_the_argument(name, given, message, started):
    with pytest.raises(DiffkdError, match=message):
        started(name, **given)


def test_a_missing_rviz_is_noticed_before_anything_starts(loaded, monkeypatch):
    if REAL:
        pytest.skip('see test_real_launch.py')
    module = loaded('coop')
    given = {argument.name: argument.default_value for argument in module.ARGUMENTS} | {'rviz': 'true'}
    found = sys.modules['ament_index_python.packages']

    def missing(package):
        raise found.PackageNotFoundError(package)

    assert len(module.start(given)) == 6
    monkeypatch.setattr(found, 'get_package_prefix', missing)
    with pytest.raises(DiffkdError, match='needs the ROS package rviz2'):
        module.start(given)


def test_the_end_of_each_node_ends_the_launch_with_its_result(started):
    for node in started(record='/some/bag', autoware='true'):
        (end,) = ended(node, 0)
        assert type(end).__name__ == 'Shutdown'
        for code in (1, 2, -11):
            with pytest.raises(DiffkdError, match=f'some_node-1 ended with exit code {code}'):
                ended(node, code)
        # After Ctrl-C all end.
        assert ended(node, -2, is_shutdown=True) == []


def test_a_respawned_node_ends_the_launch_only_if_it_cannot_start(started):
    (node,) = started('vehicle', ego='false')
    assert node.options['respawn']
    assert ended(node, -11) == ended(node, 0) == []
    with pytest.raises(DiffkdError, match='exit code 2'):
        ended(node, 2)


@pytest.mark.skipif(not REAL, reason='the real launch is not installed')
@pytest.mark.parametrize(('name', 'count'), [('coop', 5), ('vehicle', 1)])
def test_real_launch(name, count, loaded):
    from launch import LaunchContext

    module = loaded(name)
    context = LaunchContext()
    for argument in module.ARGUMENTS:
        if argument.default_value is not None:
            context.launch_configurations[argument.name] = argument.default_value[0].perform(context)
    context.launch_configurations.update(GIVEN[name])
    assert len(module.start(context)) == count


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
