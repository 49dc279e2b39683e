# SPDX-License-Identifier: Apache-2.0
"""Actions shared by the launch files.

`launch` and `launch_ros` are imported in the functions, because they are not installed everywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.launching.middleware import fast_dds_environment


def given(arguments: Sequence[Any], context: Any) -> dict[str, str]:
    """Returns name -> value of every declared argument."""
    from launch.substitutions import LaunchConfiguration

    return {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}


def node(spec: NodeSpec, *parameter_files: str, **options: Any) -> Any:
    """The action that starts a node.

    Args:
        spec: the node.
        parameter_files: later files override earlier ones; the parameters of `spec` override all.
        options: further options of `launch_ros.actions.Node`.
    """
    from launch_ros.actions import Node

    return Node(
        package='diffkd_ros',
        executable=spec.executable,
        name=spec.executable,
        namespace=spec.namespace,
        remappings=list(spec.remappings),
        parameters=[*parameter_files, dict(spec.parameters)],
        output='screen',
        **options,
    )


def rviz(share: str, wanted: str) -> list[Any]:
    """The action that starts RViz; empty unless `wanted` is 'true'."""
    from launch_ros.actions import Node

    config = str(Path(share) / 'config' / 'rviz' / 'coop.rviz')
    return [Node(package='rviz2', executable='rviz2', arguments=['-d', config])] if wanted == 'true' else []


def description(share: str, arguments: Sequence[Any], start: Callable[[Any], list[Any]]) -> Any:
    """A launch description: arguments, the Fast DDS profile, and the actions that `start` returns."""
    from launch.actions import OpaqueFunction, SetEnvironmentVariable

    # An import statement would make type checkers look into the folder launch/ of this repository.
    launch = importlib.import_module('launch')
    profile = [SetEnvironmentVariable(*item) for item in fast_dds_environment(Path(share)).items()]
    return launch.LaunchDescription([*arguments, *profile, OpaqueFunction(function=start)])
