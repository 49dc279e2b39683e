# SPDX-License-Identifier: Apache-2.0
"""The parameters of a vehicle's source of poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rclpy.node import Node

from diffkd_ros.errors import DiffkdError
from diffkd_ros.nodes.base.parameters import parameter
from diffkd_ros.nodes.base.subscription import RELIABILITIES
from diffkd_ros.nodes.input.poses import SOURCES, PoseSource, TfPoses, TopicPoses


@dataclass(frozen=True)
class PoseParameters:
    """Parameters of every node that needs its LiDAR's pose."""

    pose_source: str = parameter(
        'odometry',
        "Source of the LiDAR's poses: nav_msgs/Odometry on odometry, "
        'geometry_msgs/PoseWithCovarianceStamped on pose, or TF.',
        choices=SOURCES,
    )
    pose_tolerance: float = parameter(
        0.05,
        'Largest difference between the stamps of a cloud and its nearest pose, s; the pose at the cloud is '
        'interpolated or extrapolated. Not for tf.',
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
        'x, y, z (m), roll, pitch, yaw (rad) of the LiDAR in the frame whose pose is received; all zero if '
        "that is the LiDAR's own. Not for tf.",
    )
    map_frame: str = parameter(
        'map', 'Frame that all vehicles share; only for tf, other poses name their frame.'
    )
    input_reliability: str = parameter(
        'auto',
        'Reliability of the subscriptions to clouds and poses; auto: reliable, or best effort if a publisher '
        'offers only that.',
        choices=RELIABILITIES,
    )


def pose_source_of(node: Node, parameters: PoseParameters, wait: float | None = None) -> PoseSource:
    """Create the source of poses that the parameters select.

    Args:
        node: subscribes.
        parameters: of the node.
        wait: overrides the parameter `pose_wait`.

    Raises:
        DiffkdError: if tf2_ros is needed and not installed, or `base_to_lidar` is not six finite numbers.
    """
    p = parameters
    wait = p.pose_wait if wait is None else wait
    if p.pose_source == 'tf':
        return TfPoses(node, p.map_frame, wait)
    if len(p.base_to_lidar) != 6 or not np.isfinite(p.base_to_lidar).all():
        raise DiffkdError(f'parameter base_to_lidar must be six finite numbers, got {p.base_to_lidar}')
    return TopicPoses(node, p.pose_source, p.pose_tolerance, wait, p.input_reliability, p.base_to_lidar)
