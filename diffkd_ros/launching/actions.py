# SPDX-License-Identifier: Apache-2.0
"""Actions and arguments shared by the launch files.

`launch` and `launch_ros` are imported in the functions, because they are not installed everywhere.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from diffkd_ros.errors import NOT_STARTED, DiffkdError
from diffkd_ros.launching.graph import LINK_NODES, NodeSpec
from diffkd_ros.launching.middleware import fast_dds_environment

Number = TypeVar('Number', int, float)

BOOLEAN = ('true', 'false')
# Seconds before a node that has ended is started again.
_RESPAWN_DELAY = 2.0


def model_arguments(share: str) -> list[Any]:
    """The launch arguments `model`, `device` and `params_file`, the last with config/coop.yaml as default.

    Args:
        share: the package's share folder.
    """
    from launch.actions import DeclareLaunchArgument

    return [
        DeclareLaunchArgument(
            'model', default_value='sim_edge', description='Model folder, or the name of a shipped model.'
        ),
        DeclareLaunchArgument('device', default_value='cpu', description='cpu, cuda or tensorrt.'),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(Path(share) / 'config' / 'coop.yaml'),
            description='Parameters of all nodes; the other arguments override them.',
        ),
    ]


def vehicle_arguments(*, respawn: str) -> list[Any]:
    """The launch arguments of vehicles, which `on_vehicles` and `node` use.

    Args:
        respawn: default of the argument of that name, 'true' or 'false'.
    """
    from launch.actions import DeclareLaunchArgument

    def argument(name: str, default: str, description: str, *choices: str) -> Any:
        return DeclareLaunchArgument(
            name, default_value=default, description=description, choices=choices or None
        )

    return [
        argument('points', '', "Topic of the clouds; empty: points in the vehicle's namespace."),
        argument('poses', '', "Topic of the poses; empty: odometry or pose in the vehicle's namespace."),
        argument(
            'pose_source',
            '',
            'Source of the poses; empty: from params_file.',
            *('', 'odometry', 'pose', 'tf'),
        ),
        argument(
            'base_to_lidar',
            '',
            'x,y,z,roll,pitch,yaw (m, rad) of the LiDAR in the frame whose pose is received; empty: from '
            'params_file.',
        ),
        argument('map_frame', '', 'Frame that all vehicles share, for tf; empty: from params_file.'),
        argument(
            'min_score', '', 'Detections of the ego with a lower score are dropped; empty: from params_file.'
        ),
        argument('autoware', 'false', 'Convert the detections for Autoware.', *BOOLEAN),
        argument('cpm', 'false', 'Convert the detections to ETSI CPM.', *BOOLEAN),
        argument(
            'log_level',
            'info',
            'Level of the log of the nodes.',
            *('debug', 'info', 'warn', 'error', 'fatal'),
        ),
        argument(
            'respawn',
            respawn,
            'Restart vehicles and converters that end, unless they could not start; false: the end of one '
            'ends the launch.',
            *BOOLEAN,
        ),
    ]


def link_argument() -> Any:
    """The launch argument `v2x_domain`, which `on_link` uses."""
    from launch.actions import DeclareLaunchArgument

    return DeclareLaunchArgument(
        'v2x_domain',
        default_value='',
        description="DDS domain of the V2X link, other than that of the nodes; -1: the nodes'; empty: from "
        'params_file.',
    )


def given(arguments: Sequence[Any], context: Any) -> dict[str, str]:
    """Returns name -> value of every declared argument."""
    from launch.substitutions import LaunchConfiguration

    return {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in arguments}


def numbers(
    values: Mapping[str, str], name: str, kind: Callable[[str], Number], count: int | None = None
) -> list[Number]:
    """The numbers in a launch argument, separated by commas.

    Args:
        values: of all arguments.
        name: of the argument.
        kind: int or float.
        count: of the numbers; None: any.

    Raises:
        DiffkdError: if they are not finite numbers of that kind and count; the message names the argument.
    """
    items = values[name].split(',')
    if count not in (None, len(items)):
        raise DiffkdError(f'{name}:={values[name]} must be {count} numbers separated by commas')
    try:
        result = [kind(item) for item in items]
    except ValueError:
        result = []
    if not result or not all(map(math.isfinite, result)):
        wanted = 'integers' if kind is int else 'finite numbers'
        raise DiffkdError(f'{name}:={values[name]} must consist of {wanted}')
    return result


def number(values: Mapping[str, str], name: str, kind: Callable[[str], Number]) -> Number:
    """The number in a launch argument; raises as `numbers`."""
    return numbers(values, name, kind, 1)[0]


def on_link(values: Mapping[str, str], *specs: NodeSpec) -> list[NodeSpec]:
    """Nodes with the parameter of `link_argument`, those of them that use the V2X link.

    Args:
        values: of the arguments.
        specs: of any nodes.

    Raises:
        DiffkdError: if the argument is not an integer.
    """
    if not values['v2x_domain']:
        return list(specs)
    domain = {'v2x_domain': number(values, 'v2x_domain', int)}
    return [
        replace(spec, parameters={**spec.parameters, **domain}) if spec.executable in LINK_NODES else spec
        for spec in specs
    ]


def on_vehicles(values: Mapping[str, str], specs: Sequence[NodeSpec]) -> list[NodeSpec]:
    """Nodes of vehicles with the topics and parameters of `vehicle_arguments`, and the converters.

    Args:
        values: of the arguments.
        specs: of `vehicle_node`s and at most one `ego_node`.

    Raises:
        DiffkdError: if an argument is invalid, or needs an ego and there is none.
    """
    poses: dict[str, object] = {n: values[n] for n in ('pose_source', 'map_frame') if values[n]}
    if values['base_to_lidar']:
        poses['base_to_lidar'] = numbers(values, 'base_to_lidar', float, 6)
    topics = [('points', values['points'])] if values['points'] else []
    if values['poses']:
        topics += [('odometry', values['poses']), ('pose', values['poses'])]
    of_ego: dict[str, object] = {}
    if values['min_score']:
        of_ego['min_score'] = number(values, 'min_score', float)
    converters = [name for name in ('autoware', 'cpm') if values[name] == 'true']
    ego = next((spec for spec in specs if spec.executable == 'ego_node'), None)
    if ego is None:
        if of_ego or converters:
            raise DiffkdError(f'{", ".join([*of_ego, *converters])} needs an ego: set ego:=true')
        ego = specs[0]
    result = [
        replace(
            spec,
            remappings=(*spec.remappings, *topics),
            parameters={**spec.parameters, **poses, **(of_ego if spec is ego else {})},
        )
        for spec in specs
    ]
    if 'autoware' in converters:
        result.append(NodeSpec('autoware_node', ego.namespace))
    if 'cpm' in converters:
        result.append(NodeSpec('cpm_node', ego.namespace, tuple(topics), poses))
    return result


def node(
    spec: NodeSpec,
    *parameter_files: str,
    log_level: str = 'info',
    respawn: bool = False,
    then: Sequence[Any] | None = None,
) -> Any:
    """The action that starts a node; its end ends the launch.

    Args:
        spec: the node.
        parameter_files: later files override earlier ones; the parameters of `spec` override all.
        log_level: of the node's log.
        respawn: start it again if it ends, unless it could not start.
        then: actions after the node has ended with code 0, instead of the end of the launch.
    """
    from launch_ros.actions import Node

    return Node(
        package='diffkd_ros',
        executable=spec.executable,
        name=spec.executable,
        namespace=spec.namespace,
        remappings=list(spec.remappings),
        parameters=[*parameter_files, dict(spec.parameters)],
        ros_arguments=['--log-level', f'{spec.label}:={log_level}'],
        output='screen',
        respawn=respawn,
        respawn_delay=_RESPAWN_DELAY,
        on_exit=at_exit(then, respawn=respawn),
    )


def at_exit(then: Sequence[Any] | None = None, *, respawn: bool = False) -> Callable[[Any, Any], list[Any]]:
    """What happens when a process of the launch ends: a handler for `on_exit`.

    Without `respawn`, an exit code other than 0 ends the launch with exit code 1, the only one that
    `ros2 launch` has for errors.

    Args:
        then: actions after exit code 0; None: end the launch.
        respawn: the process is started again, unless it could not start.
    """

    def ended(event: Any, context: Any) -> list[Any]:
        from launch.actions import Shutdown

        if context.is_shutdown or (respawn and event.returncode != NOT_STARTED):
            return []
        if event.returncode:
            # The launch logs the message, ends all other processes and fails.
            raise DiffkdError(f'{event.process_name} ended with exit code {event.returncode}')
        return [Shutdown(reason=f'{event.process_name} has ended')] if then is None else list(then)

    return ended


def rviz(share: str, wanted: str) -> list[Any]:
    """The action that starts RViz; empty unless `wanted` is 'true'.

    Raises:
        DiffkdError: if RViz is not installed. `launch` itself finds out after it has started other nodes,
            which then keep running.
    """
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch_ros.actions import Node

    if wanted != 'true':
        return []
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        raise DiffkdError('rviz:=true needs the ROS package rviz2, which is not installed') from None
    config = str(Path(share) / 'config' / 'rviz' / 'coop.rviz')
    return [Node(package='rviz2', executable='rviz2', arguments=['-d', config])]


def description(share: str, arguments: Sequence[Any], start: Callable[[Any], list[Any]]) -> Any:
    """A launch description: arguments, the Fast DDS profile, and the actions that `start` returns."""
    from launch.actions import OpaqueFunction, SetEnvironmentVariable

    # An import statement would make type checkers look into the folder launch/ of this repository.
    launch = importlib.import_module('launch')
    profile = [SetEnvironmentVariable(*item) for item in fast_dds_environment(Path(share)).items()]
    return launch.LaunchDescription([*arguments, *profile, OpaqueFunction(function=start)])
