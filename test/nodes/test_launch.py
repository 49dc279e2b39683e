# SPDX-License-Identifier: Apache-2.0
"""The launch file, against the real `launch` where it is installed, else against a stand-in."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import yaml

from diffkd_ros.share import share_directory

LAUNCH_FILE = share_directory() / 'launch' / 'coop.launch.py'
REAL = importlib.util.find_spec('launch_ros') is not None

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
    'rviz': 'true',
}


class Configuration:
    def __init__(self, name):
        self.name = name

    def perform(self, context):
        return context[self.name]


class Argument:
    def __init__(self, name, *, default_value, description, choices=None):
        self.name, self.default_value, self.description, self.choices = (
            name,
            default_value,
            description,
            choices,
        )


class Action:
    def __init__(self, *arguments, **options):
        self.arguments, self.options = arguments, options

    def __repr__(self):
        return f'{type(self).__name__}{self.arguments}{sorted(self.options.items())}'


class Node(Action):
    """With the options of launch_ros.actions.Node that are used."""

    def __init__(
        self,
        *,
        package,
        executable,
        name=None,
        namespace=None,
        remappings=None,
        parameters=None,
        arguments=None,
        output='log',
        on_exit=None,
    ):
        super().__init__(
            **{key: value for key, value in locals().items() if key not in ('self', '__class__')}
        )


@pytest.fixture
def launch_module(monkeypatch):
    share = types.SimpleNamespace(get_package_share_directory=lambda name: str(share_directory()))
    monkeypatch.setitem(sys.modules, 'ament_index_python.packages', share)
    if not REAL:
        description = type(
            'LaunchDescription', (), {'__init__': lambda self, e: setattr(self, 'entities', e)}
        )
        actions = types.SimpleNamespace(
            DeclareLaunchArgument=Argument,
            OpaqueFunction=type('OpaqueFunction', (Action,), {}),
            SetEnvironmentVariable=type('SetEnvironmentVariable', (Action,), {}),
            Shutdown=type('Shutdown', (Action,), {}),
        )
        monkeypatch.setitem(sys.modules, 'launch', types.SimpleNamespace(LaunchDescription=description))
        monkeypatch.setitem(sys.modules, 'launch.actions', actions)
        substitutions = types.SimpleNamespace(LaunchConfiguration=Configuration)
        monkeypatch.setitem(sys.modules, 'launch.substitutions', substitutions)
        monkeypatch.setitem(sys.modules, 'launch_ros', types.ModuleType('launch_ros'))
        monkeypatch.setitem(sys.modules, 'launch_ros.actions', types.SimpleNamespace(Node=Node))
    spec = importlib.util.spec_from_file_location('coop_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_loads_and_declares_described_arguments(launch_module):
    description = launch_module.generate_launch_description()
    assert len(description.entities) == len(launch_module.ARGUMENTS) + 2
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
    assert topics == {'/cav_1/points', '/cav_1/markers'}
