# SPDX-License-Identifier: Apache-2.0
"""Loads launch files with the real `launch` if it is installed, else with a stand-in."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

from script import load_script

from diffkd_ros.share import share_directory

REAL = importlib.util.find_spec('launch_ros') is not None


class Configuration:
    def __init__(self, name):
        self.name = name

    def perform(self, context):
        return context[self.name]


class Argument:
    def __init__(self, name, *, default_value=None, description, choices=None):
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
        # The address in the representation of a function differs each time.
        shown = {name: value for name, value in self.options.items() if not callable(value)}
        return f'{type(self).__name__}{self.arguments}{sorted(shown.items())}'


class Node(Action):
    """With the options of launch_ros.actions.Node that the launch files use."""

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
        ros_arguments=None,
        output='log',
        on_exit=None,
        respawn=False,
        respawn_delay=0.0,
    ):
        super().__init__(
            **{key: value for key, value in locals().items() if key not in ('self', '__class__')}
        )


class ExecuteProcess(Action):
    """With the options of launch.actions.ExecuteProcess that the launch files use."""

    def __init__(self, *, cmd, output='log', on_exit=None):
        super().__init__(cmd=cmd, output=output, on_exit=on_exit)


def _kind(name: str) -> type:
    return type(name, (Action,), {})


def _stand_in() -> dict[str, types.SimpleNamespace]:
    description = type('LaunchDescription', (), {'__init__': lambda self, e: setattr(self, 'entities', e)})
    kinds = ('EmitEvent', 'OpaqueFunction', 'SetEnvironmentVariable', 'Shutdown', 'TimerAction')
    actions = {name: _kind(name) for name in kinds}
    return {
        'launch': types.SimpleNamespace(LaunchDescription=description),
        'launch.actions': types.SimpleNamespace(
            DeclareLaunchArgument=Argument, ExecuteProcess=ExecuteProcess, **actions
        ),
        'launch.events': types.SimpleNamespace(matches_action=_kind('matches_action')),
        'launch.events.process': types.SimpleNamespace(ShutdownProcess=_kind('ShutdownProcess')),
        'launch.substitutions': types.SimpleNamespace(LaunchConfiguration=Configuration),
        'launch_ros': types.ModuleType('launch_ros'),
        'launch_ros.actions': types.SimpleNamespace(Node=Node),
    }


def ended(action: Action, code: int, *, is_shutdown: bool = False) -> list:
    """The actions that follow the end of a started process."""
    event = types.SimpleNamespace(returncode=code, process_name='some_node-1')
    return action.options['on_exit'](event, types.SimpleNamespace(is_shutdown=is_shutdown))


def load(monkeypatch, path: Path) -> types.ModuleType:
    """The launch file as a module, with this environment activated for its commands."""
    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    index = types.SimpleNamespace(
        get_package_share_directory=lambda name: str(share_directory()),
        get_package_prefix=lambda name: '/opt/ros',
        PackageNotFoundError=KeyError,
    )
    monkeypatch.setitem(sys.modules, 'ament_index_python.packages', index)
    for name, module in ({} if REAL else _stand_in()).items():
        monkeypatch.setitem(sys.modules, name, module)
    return load_script(path)
