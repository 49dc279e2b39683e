# SPDX-License-Identifier: Apache-2.0
"""The nodes of a co-simulation, for launch files, demo and tests. No ROS is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.graph import V2X_REMAPPINGS, NodeSpec, vehicle_specs
from diffkd_ros.messages.names import TRUTH_TOPIC, agent_name

# What publishes clouds and poses: our bridge through CARLA's Python client; the server itself, with our
# bridge for what it does not publish; or the CARLA project's ros-bridge.
Source = Literal['python', 'native', 'ros_bridge']
SOURCES: tuple[Source, ...] = ('python', 'native', 'ros_bridge')

_REMAPPINGS = (('ground_truth', TRUTH_TOPIC), *V2X_REMAPPINGS)


def native_lidar_name(agent: str) -> str:
    """Name and frame of an agent's LiDAR when CARLA publishes it."""
    return f'{agent}_lidar'


def bridge_spec(parameters: Mapping[str, object]) -> NodeSpec:
    """The node that publishes a CARLA world as topics."""
    return NodeSpec('bridge_node', '/', _REMAPPINGS, parameters, 'cosim')


def gateway_spec(parameters: Mapping[str, object]) -> NodeSpec:
    """The node that the OpenCDA adapter talks to."""
    return NodeSpec('gateway_node', '/', _REMAPPINGS, parameters, 'cosim')


def carla_vehicle_specs(
    source: Source, roles: Mapping[int, str], ego: int, parameters: Mapping[str, object]
) -> list[NodeSpec]:
    """One node per vehicle, remapped to the topics of its clouds and poses, in the time of the world.

    Args:
        source: what publishes clouds and poses.
        roles: agent number -> role name in CARLA.
        ego: agent number of the ego.
        parameters: of every node.

    Raises:
        DiffkdError: if the ego is not among the vehicles.
    """
    specs = vehicle_specs(list(roles), ego, {**parameters, 'use_sim_time': True})
    role_of = {f'/{agent_name(agent)}': role for agent, role in roles.items()}
    return [replace(spec, remappings=spec.remappings + _topics(source, spec, role_of)) for spec in specs]


def _topics(source: Source, spec: NodeSpec, role_of: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    agent = spec.namespace.strip('/')
    if source == 'native':
        return (('points', f'/carla/{agent}/{native_lidar_name(agent)}'),)
    if source == 'ros_bridge':
        role = role_of[spec.namespace]
        return (('points', f'/carla/{role}/lidar'), ('odometry', f'/carla/{role}/odometry'))
    return ()


def role_names(vehicles: Sequence[int], roles: Sequence[str]) -> dict[int, str]:
    """Agent number -> role name; without roles they are ``cav_1``, ``cav_2`` and so on.

    Raises:
        DiffkdError: if they are not equal in number and distinct.
    """
    names = list(roles) or [agent_name(vehicle) for vehicle in vehicles]
    if not len(names) == len(set(names)) == len(vehicles) == len(set(vehicles)):
        raise DiffkdError(
            f'vehicles and roles must be distinct and equal in number, got {list(vehicles)} and {names}'
        )
    return dict(zip(vehicles, names, strict=True))
