# SPDX-License-Identifier: Apache-2.0
"""The nodes of a cooperative set-up, with their names, topics and parameters. No ROS is imported.

Launch files turn a `NodeSpec` into a `launch_ros` action, the demo into a process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffkd_ros.errors import DiffkdError
from diffkd_ros.messages.names import CHUNKS_TOPIC, FEATURES_TOPIC, TRUTH_TOPIC, agent_name

# The link is shared by all vehicles, which are in namespaces of their own.
V2X_TOPIC = f'/{FEATURES_TOPIC}'
V2X_CHUNKS_TOPIC = f'/{CHUNKS_TOPIC}'
V2X_REMAPPINGS = ((FEATURES_TOPIC, V2X_TOPIC), (CHUNKS_TOPIC, V2X_CHUNKS_TOPIC))
LINK_NODES = frozenset(
    f'{name}_node' for name in ('vehicle', 'ego', 'player', 'evaluator', 'recorder', 'bridge', 'gateway')
)
"""Nodes that use the V2X link, and have its parameter `v2x_domain`."""


@dataclass(frozen=True)
class NodeSpec:
    """One node to start.

    Attributes:
        executable: name of the node and of its module.
        namespace: absolute; '/' is the root.
        remappings: (from, to) topic names.
        parameters: override those of the parameter file.
        package: subpackage of `diffkd_ros` that holds the module: `nodes` or `cosim`.
    """

    executable: str
    namespace: str = '/'
    remappings: tuple[tuple[str, str], ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    package: str = 'nodes'

    @property
    def label(self) -> str:
        """Unique name of the node and of its logger, such as ``cav_2.vehicle_node``."""
        return f'{self.namespace}/{self.executable}'.strip('/').replace('//', '/').replace('/', '.')


def vehicle_spec(namespace: str, *, fuses: bool, parameters: Mapping[str, object]) -> NodeSpec:
    """The node of a vehicle: `ego_node` if it fuses, `vehicle_node` if it only shares features.

    Args:
        namespace: absolute.
        fuses: whether it is an ego.
        parameters: of the node (`model`, `device`, ...).
    """
    executable = 'ego_node' if fuses else 'vehicle_node'
    return NodeSpec(executable, namespace, V2X_REMAPPINGS, parameters)


def vehicle_specs(vehicles: Sequence[int], ego: int, parameters: Mapping[str, object]) -> list[NodeSpec]:
    """One node per vehicle, the ego first.

    Args:
        vehicles: agent numbers.
        ego: agent number of the ego.
        parameters: of every node (`model`, `device`, ...).

    Raises:
        DiffkdError: if the ego is not among the vehicles or a number occurs twice.
    """
    if ego not in vehicles or len(set(vehicles)) != len(vehicles):
        raise DiffkdError(
            f'vehicles must be distinct and include the ego, got vehicles {list(vehicles)}, ego {ego}'
        )
    return [
        vehicle_spec(f'/{agent_name(vehicle)}', fuses=vehicle == ego, parameters=parameters)
        for vehicle in sorted(vehicles, key=lambda number: (number != ego, number))
    ]


def player_spec(
    parameters: Mapping[str, object],
    *,
    evaluated: bool = False,
    recorded: bool = False,
    answers_recorded: bool = False,
) -> NodeSpec:
    """The node that plays frames.

    Args:
        parameters: of the node.
        evaluated: wait for the evaluator's subscriptions before playing.
        recorded: wait for those of a recorder of all topics.
        answers_recorded: wait for those of a recorder of the ego's answers.
    """
    remappings = (('ground_truth', TRUTH_TOPIC), *V2X_REMAPPINGS)
    partners = {
        'subscribers': 1 + recorded,
        'truth_subscribers': int(evaluated) + recorded,
        'answer_subscribers': int(evaluated) + (recorded or answers_recorded),
    }
    return NodeSpec('player_node', '/', remappings, {**partners, **parameters})


def evaluator_spec(ego: int, parameters: Mapping[str, object]) -> NodeSpec:
    """The node that scores the ego's detections."""
    remappings = (('ground_truth', TRUTH_TOPIC), *V2X_REMAPPINGS)
    return NodeSpec('evaluator_node', f'/{agent_name(ego)}', remappings, parameters)


def sensor_topics(vehicle: int) -> tuple[str, str]:
    """Topics of a vehicle's clouds and odometry."""
    return f'/{agent_name(vehicle)}/points', f'/{agent_name(vehicle)}/odometry'


def recorded_topics(vehicles: Sequence[int], ego: int) -> list[str]:
    """Topics needed to replay and view a run, as name:type.

    /tf comes without a type, because tf2_msgs is not installed everywhere.
    """
    topics = {
        V2X_TOPIC: 'diffkd_ros/msg/BevFeature',
        V2X_CHUNKS_TOPIC: 'diffkd_ros/msg/BevChunk',
        TRUTH_TOPIC: 'diffkd_ros/msg/Boxes3D',
        f'/{agent_name(ego)}/detections': 'diffkd_ros/msg/Boxes3D',
        f'/{agent_name(ego)}/fusion_status': 'diffkd_ros/msg/FusionStatus',
        f'/{agent_name(ego)}/markers': 'visualization_msgs/msg/MarkerArray',
        '/diagnostics': 'diagnostic_msgs/msg/DiagnosticArray',
    }
    for vehicle in vehicles:
        points, odometry = sensor_topics(vehicle)
        topics[points] = 'sensor_msgs/msg/PointCloud2'
        topics[odometry] = 'nav_msgs/msg/Odometry'
    return [*(f'{name}:{message_type}' for name, message_type in topics.items()), '/tf']


def recorder_spec(vehicles: Sequence[int], ego: int, out: str) -> NodeSpec:
    """The node that records a run into the folder `out`."""
    return NodeSpec('recorder_node', '/', (), {'out': out, 'topics': recorded_topics(vehicles, ego)})


def answer_recorder_spec(ego: int, out: str) -> NodeSpec:
    """The node that records only the link and the ego's answers into the folder `out`, for a replayed run."""
    topics = (
        V2X_TOPIC,
        V2X_CHUNKS_TOPIC,
        f'/{agent_name(ego)}/detections',
        f'/{agent_name(ego)}/fusion_status',
    )
    chosen = [topic for topic in recorded_topics([], ego) if topic.partition(':')[0] in topics]
    return NodeSpec('recorder_node', '/', (), {'out': out, 'topics': chosen})
