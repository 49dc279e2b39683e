# SPDX-License-Identifier: Apache-2.0
"""How one agent's bird's-eye-view grid lies in another's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix, inverse


def grid_warps(
    poses: Sequence[Matrix], x_min: float, y_min: float, x_max: float, y_max: float
) -> NDArray[np.float32]:
    """Affine maps from the ego's normalised grid coordinates to each agent's.

    Normalised coordinates run from -1 to 1 over the grid's outer edges, x along columns. All agents use the
    same grid range, each in its own LiDAR frame; roll and pitch between them are left out.

    Args:
        poses: map <- LiDAR of every agent, the ego first.
        x_min: lower x edge of the range, metres.
        y_min: lower y edge.
        x_max: upper x edge.
        y_max: upper y edge.

    Returns:
        (n, 2, 3) float32; the ego's is the identity.
    """
    half = np.array([x_max - x_min, y_max - y_min]) / 2
    centre = np.array([x_max + x_min, y_max + y_min]) / 2
    warps = np.zeros((len(poses), 2, 3))
    for warp, pose in zip(warps, poses, strict=True):
        agent_from_ego = inverse(pose) @ poses[0]
        yaw = np.arctan2(agent_from_ego[1, 0], agent_from_ego[0, 0])
        rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        warp[:, :2] = rotation * half[None] / half[:, None]
        warp[:, 2] = (rotation @ centre + agent_from_ego[:2, 3] - centre) / half
    return warps.astype(np.float32)
