# SPDX-License-Identifier: Apache-2.0
"""Which nodes make up a co-simulation, for launch files, demo and tests; imports no ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from diffkd_ros.launching.graph import V2X_TOPIC, GraphError, NodeSpec, vehicle_specs
from diffkd_ros.messages.names import TRUTH_TOPIC, agent_name

# Who makes clouds and poses of CARLA's sensors into topics: our bridge from Python; the server itself, with
# our bridge for what it lacks; or the CARLA project's ros-bridge.
Source = Literal['python', 'native', 'ros_bridge']
SOURCES: tuple[Source, ...] = ('python', 'native', 'ros_bridge')

_REMAPPINGS = (('ground_truth', TRUTH_TOPIC), ('v2x/features', V2X_TOPIC))


def native_lidar_name(agent: str) -> str:
    """Name and frame of an agent's LiDAR where CARLA itself publishes it."""
    return f'{agent}_lidar'


def bridge_spec(parameters: Mapping[str, object]) -> NodeSpec:
    """The node that makes a CARLA world into topics."""
    return NodeSpec('bridge_node', '/', _REMAPPINGS, parameters, 'cosim')


def gateway_spec(parameters: Mapping[str, object]) -> NodeSpec:
    """The node that OpenCDA's adapter talks to."""
    return NodeSpec('gateway_node', '/', _REMAPPINGS, parameters, 'cosim')


def carla_vehicle_specs(
    source: Source, roles: Mapping[int, str], ego: int, parameters: Mapping[str, object]
) -> list[NodeSpec]:
    """One node a vehicle, which listens to where its clouds and poses are published, in the world's time.

    Args:
        source: who publishes them.
        roles: agent number -> role name in CARLA.
        ego: the agent that fuses.
        parameters: for all of them.

    Raises:
        GraphError: if the ego is not among the vehicles.
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
        GraphError: if they are not as many, or not distinct.
    """
    names = list(roles) or [agent_name(vehicle) for vehicle in vehicles]
    if not len(names) == len(set(names)) == len(vehicles) == len(set(vehicles)):
        raise GraphError(f'vehicles and roles must be as many and distinct, got {list(vehicles)} and {names}')
    return dict(zip(vehicles, names, strict=True))
