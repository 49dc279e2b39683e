# SPDX-License-Identifier: Apache-2.0
"""The bird's-eye-view grid of the feature maps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BevGrid:
    """A grid in an agent's LiDAR frame. Row 0 is at y_min, column 0 at x_min; cells are square.

    Attributes:
        x_min, y_min, z_min, x_max, y_max, z_max: range in metres.
        height: rows, along y.
        width: columns, along x.
    """

    __pydantic_config__ = {'extra': 'forbid'}  # noqa: RUF012 - a plain dataclass, strict when read from YAML

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
