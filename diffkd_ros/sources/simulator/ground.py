# SPDX-License-Identifier: Apache-2.0
"""The ground as a height grid: long waves, and raised pavements along the carriageways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.roads import RoadNetwork

HALF_EXTENT = 180.0
KERB_HEIGHT = 0.12
KERB_WIDTH = 1.0  # the kerb is a ramp, as fine as the grid


@dataclass(frozen=True, slots=True)
class HeightField:
    """Ground heights over the square |x|, |y| <= `HALF_EXTENT`, bilinear between nodes, constant outside.

    Attributes:
        heights: (n, n) float32, a node per metre; row along y, column along x, node 0 at -`HALF_EXTENT`.
    """

    heights: NDArray[np.float32]

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heights at equally shaped x and y, metres."""
        return _heights_at(self.heights, np.ravel(x), np.ravel(y)).reshape(np.shape(x))

    def height(self, x: float, y: float) -> float:
        """Height at one point, metres."""
        return float(height_at(self.heights, x, y))

    def tilt(self, x: float, y: float, yaw: float, length: float, width: float) -> tuple[float, float]:
        """Roll and pitch (radians) of a body of that size at x, y with heading yaw."""
        c, s = np.cos(yaw), np.sin(yaw)
        ahead, left = length / 2, width / 2
        z = self.at(
            np.array([x + ahead * c, x - ahead * c, x - left * s, x + left * s]),
            np.array([y + ahead * s, y - ahead * s, y + left * c, y - left * c]),
        )
        return float(np.arctan2(z[2] - z[3], width)), float(-np.arctan2(z[0] - z[1], length))


def make_ground(rng: np.random.Generator, roads: RoadNetwork) -> HeightField:
    """Draw waves up to about 15 cm high and 40 to 120 m long, and kerbs along the roads."""
    axis = np.arange(-HALF_EXTENT, HALF_EXTENT + 1.0)
    amplitude, wavelength = rng.uniform(0.02, 0.1, 3), rng.uniform(40.0, 120.0, 3)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, 3))
    along_x = np.outer(2 * np.pi / wavelength * np.cos(direction), axis) + phase[:, None]
    along_y = np.outer(2 * np.pi / wavelength * np.sin(direction), axis)
    # sin(a + b) from terms of each axis: two products per node and wave instead of a sine.
    x, y = np.tile(axis, len(axis)), np.repeat(axis, len(axis))
    heights = roads.distance_outside(x, y, KERB_WIDTH).reshape(len(axis), len(axis))
    _relief(
        heights, np.sin(along_x), np.cos(along_x), amplitude[:, None] * np.sin(along_y),
        amplitude[:, None] * np.cos(along_y),
    )  # fmt: skip
    return HeightField(heights.astype(np.float32))


@kernel
def _relief(
    heights: NDArray[np.float64],
    sin_x: NDArray[np.float64],
    cos_x: NDArray[np.float64],
    sin_y: NDArray[np.float64],
    cos_y: NDArray[np.float64],
) -> None:
    """Turn distances from the road (n, n) into heights, in place: kerb plus products of (waves, n) terms."""
    for j in range(heights.shape[0]):
        for i in range(heights.shape[1]):
            height = KERB_HEIGHT / KERB_WIDTH * heights[j, i]
            for w in range(len(sin_x)):
                height += cos_y[w, j] * sin_x[w, i] + sin_y[w, j] * cos_x[w, i]
            heights[j, i] = height


@kernel(inline='always')
def height_at(heights: NDArray[np.float32], x: float, y: float) -> float:
    """Bilinear ground height at one point, metres; heights as in `HeightField`."""
    nodes = len(heights)
    u = min(max(x + HALF_EXTENT, 0.0), nodes - 1.001)
    v = min(max(y + HALF_EXTENT, 0.0), nodes - 1.001)
    i = int(u)
    j = int(v)
    u -= i
    v -= j
    near = heights[j, i] + u * (heights[j, i + 1] - heights[j, i])
    far = heights[j + 1, i] + u * (heights[j + 1, i + 1] - heights[j + 1, i])
    return near + v * (far - near)


@kernel
def _heights_at(
    heights: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    result = np.empty(len(x))
    for k in range(len(x)):
        result[k] = height_at(heights, x[k], y[k])
    return result
