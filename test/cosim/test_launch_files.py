# SPDX-License-Identifier: Apache-2.0
"""The launch files of the co-simulation, with the real `launch` if it is installed, else with a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from launch_stand_in import REAL, load

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.middleware import fast_dds_environment
from diffkd_ros.share import share_directory

PROJECT = Path(__file__).parents[2]
# Another value for each argument, which must change the started actions.
CARLA = {
    'source': 'native',
    'host': '10.0.0.1',
    'port': '3000',
    'tick': 'follow',
    'step': '0.05',
    'vehicles': '1,2',
    'roles': 'hero,friend,other',
    'ego': '2',
    'spawn': 'false',
    'wait_for_ego': 'false',
    'model': '/some/model',
    'device': 'cuda',
    'params_file': '/some/params.yaml',
    'stub': 'true',
    'stub_source': 'opv2v:/some/where',
    'record': '/some/bag',
    'v2x_domain': '7',
    'rviz': 'true',
}
OPENCDA = {
    'host': '0.0.0.0',
    'port': '7500',
    'vehicles': '1,2',
    'ego': '2',
    'model': '/some/model',
    'device': 'cuda',
    'params_file': '/some/params.yaml',
    'record': '/some/bag',
    'v2x_domain': '7',
    'rviz': 'true',
}
FILES = {'cosim_carla': CARLA, 'cosim_opencda': OPENCDA}


@pytest.fixture
def start(monkeypatch):
    if REAL:
        pytest.skip('the real launch wants a LaunchContext: test_real_launch')

    def start(name, **changed):
        module = load(monkeypatch, share_directory() / 'launch' / f'{name}.launch.py')
        defaults = {argument.name: argument.default_value for argument in module.ARGUMENTS}
        assert changed.keys() <= defaults.keys()
        return module.start({**defaults, **changed})

    return start


@pytest.mark.parametrize('name', FILES)
def test_it_loads_and_declares_described_arguments(name, monkeypatch):
    module = load(monkeypatch, share_directory() / 'launch' / f'{name}.launch.py')
    entities = module.generate_launch_description().entities
    assert entities[: len(module.ARGUMENTS)] == [*module.ARGUMENTS]
    # The profile of Fast DDS, and the function that starts the nodes.
    others = entities[len(module.ARGUMENTS) :]
    assert len(others) == len(fast_dds_environment(share_directory())) + 1
    assert {argument.name for argument in module.ARGUMENTS} == set(FILES[name])
    assert all(argument.description for argument in module.ARGUMENTS)


@pytest.mark.parametrize(('name', 'argument'), [(n, a) for n, values in FILES.items() for a in values])
def test_every_argument_is_used(name, argument, start):
    # What the stand-in plays matters only if it is started.
    always = {'stub': 'true'} if argument == 'stub_source' else {}
    changed = {**always, argument: FILES[name][argument]}
    assert repr(start(name, **changed)) != repr(start(name, **always))


def nodes(actions):
    return {
        (a.options['namespace'], a.options['executable']): a.options
        for a in actions
        if 'executable' in a.options
    }


def test_with_our_bridge_there_is_a_node_a_vehicle_and_the_bridge(start):
    started = nodes(start('cosim_carla'))
    assert set(started) == {
        ('/cav_1', 'ego_node'),
        ('/cav_2', 'vehicle_node'),
        ('/cav_3', 'vehicle_node'),
        ('/', 'bridge_node'),
        ('/cav_1', 'evaluator_node'),
    }
    assert started['/', 'bridge_node']['respawn']
    for options in started.values():
        assert ('v2x/features', '/v2x/features') in options['remappings']
        if options['executable'] != 'bridge_node':
            assert options['parameters'][-1]['use_sim_time'] is True


def test_where_the_server_publishes_the_nodes_listen_to_it(start):
    started = nodes(start('cosim_carla', source='native'))
    assert ('points', '/carla/cav_2/cav_2_lidar') in started['/cav_2', 'vehicle_node']['remappings']
    assert any(str(file).endswith('native.yaml') for file in started['/', 'bridge_node']['parameters'])


def test_with_ros_bridge_there_is_no_bridge_of_ours(start):
    started = nodes(start('cosim_carla', source='ros_bridge', roles='hero,friend,other'))
    assert {executable for _, executable in started} == {'ego_node', 'vehicle_node'}
    assert ('points', '/carla/hero/lidar') in started['/cav_1', 'ego_node']['remappings']
    assert ('odometry', '/carla/friend/odometry') in started['/cav_2', 'vehicle_node']['remappings']


def test_the_parameters_of_the_user_override_those_of_the_source(start, tmp_path):
    own, mount = tmp_path / 'own.yaml', [1.2, 0.0, 2.1, 0.0, 0.0, 0.0]
    said = {
        f'/**/{node}': {'ros__parameters': {'base_to_lidar': mount}} for node in ('ego_node', 'vehicle_node')
    }
    own.write_text(yaml.safe_dump(said))
    started = nodes(start('cosim_carla', source='ros_bridge', params_file=str(own)))
    for options in started.values():
        assert effective(options)['base_to_lidar'] == mount


def effective(options):
    """The parameters of a started node; a later file overrides an earlier one."""
    merged = {}
    for given in options['parameters']:
        if not isinstance(given, dict):
            content = yaml.safe_load(Path(given).read_text())
            given = content.get(f'/**/{options["executable"]}', {}).get('ros__parameters', {})
        merged |= given
    return merged


@pytest.mark.parametrize(
    ('name', 'changed'),
    [
        ('cosim_carla', {}),
        ('cosim_carla', {'source': 'native'}),
        ('cosim_carla', {'source': 'ros_bridge'}),
        ('cosim_carla', {'params_file': 'own.yaml'}),
        ('cosim_opencda', {}),
    ],
)
def test_intensities_are_ignored_by_default(start, tmp_path, name, changed):
    if 'params_file' in changed:
        own = tmp_path / 'own.yaml'
        own.write_text('/**/bridge_node: {ros__parameters: {timeout: 9.0}}')
        changed = {'params_file': str(own)}
    scales = {
        node: effective(options).get('intensity_scale')
        for (_, node), options in nodes(start(name, **changed)).items()
        if node in ('ego_node', 'vehicle_node')
    }
    assert scales == {'ego_node': 'ignore', 'vehicle_node': 'ignore'}


def test_with_the_stand_in_no_vehicles_are_spawned(start):
    actions = start('cosim_carla', stub='true', vehicles='1,2', port='2100')
    (stand_in,) = [a.options['cmd'] for a in actions if 'cmd' in a.options]
    # In the Python of the nodes, which may differ from that of `ros2`.
    assert stand_in[:3] == ['python3', '-m', 'diffkd_ros.cosim.testing.carla_stand_in']
    assert stand_in[stand_in.index('--port') + 1] == '2100'
    assert stand_in[stand_in.index('--vehicles') + 1] == '2'
    assert {'--own-body', '--carla-intensity'} <= set(stand_in)
    assert nodes(actions)['/', 'bridge_node']['parameters'][-1]['spawn'] is False


def test_opencda_gets_a_gateway(start):
    started = nodes(start('cosim_opencda', vehicles='1,2,-1'))
    assert set(started) == {
        ('/cav_1', 'ego_node'),
        ('/cav_2', 'vehicle_node'),
        ('/rsu_1', 'vehicle_node'),
        ('/', 'gateway_node'),
    }
    assert started['/', 'gateway_node']['parameters'][-1]['vehicles'] == [1, 2, -1]


def test_vehicles_and_roles_that_do_not_match_are_named(start):
    with pytest.raises(DiffkdError, match='distinct and equal in number'):
        start('cosim_carla', roles='hero,friend')


@pytest.mark.skipif(not REAL, reason='the real launch is not installed')
@pytest.mark.parametrize(('name', 'count'), [('cosim_carla', 5), ('cosim_opencda', 4)])
def test_real_launch(name, count, monkeypatch):
    from launch import LaunchContext

    module = load(monkeypatch, share_directory() / 'launch' / f'{name}.launch.py')
    context = LaunchContext()
    for argument in module.ARGUMENTS:
        context.launch_configurations[argument.name] = argument.default_value[0].perform(context)
    assert len(module.start(context)) == count


@pytest.mark.parametrize('path', sorted((PROJECT / 'config' / 'cosim').glob('*.yaml')), ids=lambda p: p.name)
def test_every_shipped_parameter_exists(path):
    """An unknown parameter would end the node."""
    pytest.importorskip('rclpy', reason='the parameter tables need ROS 2')
    from dataclasses import fields

    from diffkd_ros.cosim.bridge_node import BridgeParameters
    from diffkd_ros.cosim.gateway_node import GatewayParameters
    from diffkd_ros.nodes.ego_node import EgoParameters

    tables = {
        'bridge_node': BridgeParameters,
        'gateway_node': GatewayParameters,
        'ego_node': EgoParameters,
        'vehicle_node': EgoParameters,
    }
    shipped = yaml.safe_load(path.read_text())
    if path.name == 'opencda_scenario.yaml':
        perception = shipped['vehicle_base']['sensing']['perception']
        turn = perception['lidar']['rotation_frequency'] * shipped['world']['fixed_delta_seconds']
        assert turn == pytest.approx(1.0)
        return
    for node, content in shipped.items():
        known = {field.name for field in fields(tables[node.rpartition('/')[2]])}
        assert content['ros__parameters'].keys() <= known
