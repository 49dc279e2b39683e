# SPDX-License-Identifier: Apache-2.0
"""The parameters that say where a vehicle's poses come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rclpy.node import Node

from diffkd_ros.nodes.base.parameters import ParameterError, parameter
from diffkd_ros.nodes.base.subscription import RELIABILITIES
from diffkd_ros.nodes.input.poses import SOURCES, PoseSource, TfPoses, TopicPoses


@dataclass(frozen=True)
class PoseParameters:
    """Parameters of every node that needs to know where its LiDAR is."""

    pose_source: str = parameter(
        'odometry',
        "Where the LiDAR's poses come from: nav_msgs/Odometry on odometry, "
        'geometry_msgs/PoseWithCovarianceStamped on pose, or TF.',
        choices=SOURCES,
    )
    pose_tolerance: float = parameter(
        0.05,
        'Largest difference between the stamps of a cloud and its nearest pose, s; poses are brought to the '
        "cloud's stamp. Not for tf.",
        minimum=0.0,
        maximum=1.0,
    )
    pose_wait: float = parameter(
        0.05,
        'Longest wait for a pose that is not older than the cloud, s of real time, in the inference thread.',
        minimum=0.0,
        maximum=1.0,
    )
    base_to_lidar: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        'x, y, z (m), roll, pitch, yaw (rad) of the LiDAR in the frame whose pose comes; all zero: it is the '
        "LiDAR's own. Not for tf.",
    )
    map_frame: str = parameter(
        'map', 'Frame that all vehicles share; for tf only, others name it themselves.'
    )
    input_reliability: str = parameter(
        'auto',
        'Reliability asked of clouds and poses; auto: reliable, or best effort if no more is offered.',
        choices=RELIABILITIES,
    )


def pose_source_of(node: Node, parameters: PoseParameters, wait: float | None = None) -> PoseSource:
    """The source of poses that the parameters ask for.

    Args:
        node: that subscribes.
        parameters: of the node.
        wait: instead of the parameter `pose_wait`.

    Raises:
        SetupError: if it needs what is not installed.
        ParameterError: if `base_to_lidar` is no pose.
    """
    p = parameters
    wait = p.pose_wait if wait is None else wait
    if p.pose_source == 'tf':
        return TfPoses(node, p.map_frame, wait)
    if len(p.base_to_lidar) != 6 or not np.isfinite(p.base_to_lidar).all():
        raise ParameterError(f'parameter base_to_lidar must be six finite numbers, got {p.base_to_lidar}')
    return TopicPoses(node, p.pose_source, p.pose_tolerance, wait, p.input_reliability, p.base_to_lidar)
