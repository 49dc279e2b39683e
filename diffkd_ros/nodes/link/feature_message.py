# SPDX-License-Identifier: Apache-2.0
"""Converts encoded features to and from `diffkd_ros/BevFeature`."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseWithCovariance, TwistWithCovariance
from std_msgs.msg import Header

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.building import fill, pose_message
from diffkd_ros.msg import BevFeature
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.codec import EncodedFeature


def feature_message(
    header: Header,
    agent: str,
    sequence: int,
    card: ModelCard,
    encoded: EncodedFeature,
    lidar: LidarPose,
) -> BevFeature:
    """Convert an encoded feature to `diffkd_ros/BevFeature`.

    Args:
        header: of the sweep.
        agent: the sender's name.
        sequence: counts this sender's messages; wraps at 2**32.
        card: of the model that made the feature.
        encoded: from `diffkd_ros.runtime.codec.encode`.
        lidar: the LiDAR's pose and motion at the sweep's stamp.
    """
    twist = TwistWithCovariance()
    if lidar.linear is None:
        twist.covariance[0] = -1.0
    else:
        for vector, values in ((twist.twist.linear, lidar.linear), (twist.twist.angular, lidar.angular)):
            vector.x, vector.y, vector.z = map(float, values)
        twist.covariance = lidar.twist_covariance.ravel()
    message = BevFeature(
        header=header,
        agent_id=agent,
        sequence=sequence % 2**32,
        model_id=card.model_id,
        map_frame=lidar.map_frame,
        pose=PoseWithCovariance(pose=pose_message(lidar.pose), covariance=lidar.covariance.ravel()),
        twist=twist,
        channels=encoded.channels,
        height=encoded.height,
        width=encoded.width,
        encoding=encoded.encoding,
    )
    message.grid_range = np.array(card.grid.range, np.float32)
    fill(message.scales, encoded.scales)
    message.data.frombytes(encoded.data)
    return message


def encoded_of(message: BevFeature) -> EncodedFeature:
    """The encoded feature of a `diffkd_ros/BevFeature`, unchecked."""
    return EncodedFeature(
        encoding=message.encoding,
        channels=message.channels,
        height=message.height,
        width=message.width,
        scales=np.array(message.scales, np.float32),
        data=message.data.tobytes(),
    )
