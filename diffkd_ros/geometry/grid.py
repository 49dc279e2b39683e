# SPDX-License-Identifier: Apache-2.0
"""The bird's-eye-view grid of the feature maps, and affine maps between the grids of agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.poses import Matrix, inverse


@dataclass(frozen=True)
class BevGrid:
    """A grid in an agent's LiDAR frame. Row 0 is at y_min, column 0 at x_min; cells are square.

    Attributes:
        x_min, y_min, z_min, x_max, y_max, z_max: range in metres.
        height: rows, along y.
        width: columns, along x.
    """

    __pydantic_config__ = {'extra': 'forbid', 'allow_inf_nan': False}  # noqa: RUF012 - when read from YAML

    x_min: float
    y_min: float
    z_min: float
    x_max: float
    y_max: float
    z_max: float
    height: int
    width: int

    @property
    def cell(self) -> float:
        """Edge of a feature cell in metres."""
        return (self.x_max - self.x_min) / self.width

    @property
    def range(self) -> tuple[float, float, float, float, float, float]:
        """x_min, y_min, z_min, x_max, y_max, z_max in metres."""
        return self.x_min, self.y_min, self.z_min, self.x_max, self.y_max, self.z_max

    @property
    def area(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max in metres."""
        return self.x_min, self.y_min, self.x_max, self.y_max

    def centres(self) -> NDArray[np.float64]:
        """Centres (height * width, 3) of the cells, row by row, at height 0."""
        return self.centres_of(np.ones((self.height, self.width), bool))

    def centres_of(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Centres (n, 3) of the cells in a mask (height, width), row by row, at height 0."""
        row, column = np.nonzero(mask)
        x, y = self.x_min + (column + 0.5) * self.cell, self.y_min + (row + 0.5) * self.cell
        return np.column_stack((x, y, np.zeros(len(x))))

    def contains(self, points: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each point (n, 3 or more; x, y, z first) is in the range; False if it is not finite."""
        x, y, z = points.T[:3]
        inside = (x >= self.x_min) & (x < self.x_max) & (y >= self.y_min) & (y < self.y_max)
        return inside & (z >= self.z_min) & (z < self.z_max)


def grid_warps(poses: Sequence[Matrix], grid: BevGrid) -> NDArray[np.float32]:
    """Affine maps from the ego's normalised grid coordinates to each agent's, derived here.

    Normalised coordinates run from -1 to 1 between the grid's outer edges, x along columns. Roll and pitch
    between the agents are ignored.

    Args:
        poses: (4, 4) map <- LiDAR of every agent, the ego first.
        grid: of all agents, each in its own LiDAR frame.

    Returns:
        (n, 2, 3) float32; the ego's is the identity.
    """
    half = np.array([grid.x_max - grid.x_min, grid.y_max - grid.y_min]) / 2
    centre = np.array([grid.x_max + grid.x_min, grid.y_max + grid.y_min]) / 2
    warps = np.zeros((len(poses), 2, 3))
    for warp, pose in zip(warps, poses, strict=True):
        agent_from_ego = inverse(pose) @ poses[0]
        yaw = np.arctan2(agent_from_ego[1, 0], agent_from_ego[0, 0])
        rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        warp[:, :2] = rotation * half[None] / half[:, None]
        warp[:, 2] = (rotation @ centre + agent_from_ego[:2, 3] - centre) / half
    return warps.astype(np.float32)
