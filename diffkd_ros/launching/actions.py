# SPDX-License-Identifier: Apache-2.0
"""What the launch files have in common.

`launch` is imported when a launch file asks: elsewhere it may be absent.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.launching.middleware import fast_dds_environment


def given(arguments: Sequence[Any], context: Any) -> dict[str, str]:
    """What each declared argument was given as, or its default."""
    from launch.substitutions import LaunchConfiguration

    return {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}


def node(spec: NodeSpec, *parameter_files: str, **options: Any) -> Any:
    """The action that starts a node of the graph.

    Args:
        spec: of the node.
        parameter_files: a later one wins over an earlier, and the spec's own parameters over all.
        options: of `launch_ros.actions.Node`, beside.
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
    """The action that starts RViz, if `wanted` is 'true'."""
    from launch_ros.actions import Node

    config = str(Path(share) / 'config' / 'rviz' / 'coop.rviz')
    return [Node(package='rviz2', executable='rviz2', arguments=['-d', config])] if wanted == 'true' else []


def description(share: str, arguments: Sequence[Any], start: Callable[[Any], list[Any]]) -> Any:
    """A whole launch description: arguments, the middleware's profile, and what `start` makes of them."""
    from launch.actions import OpaqueFunction, SetEnvironmentVariable

    # Not by an import statement: type checkers take this checkout's folder launch/ for it.
    launch = importlib.import_module('launch')
    # See the file for why; other middlewares ignore the variable.
    profile = [SetEnvironmentVariable(*item) for item in fast_dds_environment(Path(share)).items()]
    return launch.LaunchDescription([*arguments, *profile, OpaqueFunction(function=start)])
