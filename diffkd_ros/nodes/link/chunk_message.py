# SPDX-License-Identifier: Apache-2.0
"""Converts the chunks of a sweep to `diffkd_ros/BevChunk`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.building import fill
from diffkd_ros.messages.rotations import quaternion_from_matrix
from diffkd_ros.msg import BevChunk
from diffkd_ros.runtime.card import ModelCard


def chunk_messages(
    header: Header, agent: str, sequence: int, card: ModelCard, chunks: Sequence[bytes], lidar: LidarPose
) -> list[BevChunk]:
    """Convert the chunks of a sweep to messages, one each.

    Args:
        header: of the sweep.
        agent: the sender's name.
        sequence: counts this sender's sweeps; wraps at 2**32.
        card: of the model that made the codes.
        chunks: from `diffkd_ros.runtime.link.packing.Packer.pack`.
        lidar: the LiDAR's pose and motion at the sweep's stamp. Of its covariance only the diagonal is sent.
    """
    known = lidar.linear is not None
    fields = {
        'position': lidar.pose[:3, 3],
        'orientation': quaternion_from_matrix(lidar.pose),
        'pose_variance': np.diag(lidar.covariance),
        'twist': np.array([lidar.linear, lidar.angular]).ravel() if known else np.zeros(6),
    }
    messages = []
    for number, data in enumerate(chunks):
        message = BevChunk(
            header=header,
            agent_id=agent,
            sequence=sequence % 2**32,
            chunk=number,
            chunks=len(chunks),
            model_id=card.link_id,
            map_frame=lidar.map_frame,
            twist_known=known,
        )
        for name, values in fields.items():
            fill(getattr(message, name), values)
        message.data.frombytes(data)
        messages.append(message)
    return messages


def overhead_of(header: Header, agent: str, card: ModelCard, lidar: LidarPose) -> int:
    """Serialised bytes of each of an agent's messages without its data."""
    (message,) = chunk_messages(header, agent, 0, card, [b''], lidar)
    return len(serialize_message(message))
