# SPDX-License-Identifier: Apache-2.0
"""The ground as a height grid: waves, slopes, crowned roads and raised pavements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.roads import RoadNetwork

HALF_EXTENT = 180.0
KERB_HEIGHT = 0.12
KERB_WIDTH = 1.0  # the kerb is a ramp, as fine as the grid
_Scalars = float | NDArray[np.float64]
_Tilt = tuple[NDArray[np.float64], NDArray[np.float64]]
_VERGE = 3.0  # metres from the carriageway at which the pavement ends


@dataclass(frozen=True, slots=True)
class HeightField:
    """Ground heights over the square |x|, |y| <= `HALF_EXTENT`, bilinear between nodes, constant outside.

    Attributes:
        heights: (n, n) float32, a node per metre; row along y, column along x, node 0 at -`HALF_EXTENT`.
        verge: (n, n) bool, whether a node is off the road; None if all ground is nearly level and of one
            material.
        reflectivity: of the road and of the verge, 0 to 1.
    """

    heights: NDArray[np.float32]
    verge: NDArray[np.bool_] | None = None
    reflectivity: tuple[float, float] = (0.18, 0.18)

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heights at equally shaped x and y, metres."""
        return _heights_at(self.heights, np.ravel(x), np.ravel(y)).reshape(np.shape(x))

    def height(self, x: float, y: float) -> float:
        """Height at one point, metres."""
        return float(height_at(self.heights, x, y))

    def tilt(self, x: _Scalars, y: _Scalars, yaw: _Scalars, length: _Scalars, width: _Scalars) -> _Tilt:
        """Roll and pitch (radians) of bodies at x, y with heading yaw: numbers or (n,) arrays."""
        c, s = np.cos(yaw), np.sin(yaw)
        ahead, left = length / 2, width / 2
        z = self.at(
            np.array([x + ahead * c, x - ahead * c, x - left * s, x + left * s]),
            np.array([y + ahead * s, y - ahead * s, y + left * c, y - left * c]),
        )
        return np.arctan2(z[2] - z[3], width), -np.arctan2(z[0] - z[1], length)


def make_ground(rng: np.random.Generator, roads: RoadNetwork, relief: bool) -> HeightField:
    """Draw waves up to about 15 cm high and 40 to 120 m long, and kerbs along the roads.

    With `relief` also a slope of up to 5 %, hills of up to 1 m, a crown of 2 % across the roads, and verges
    of another material.
    """
    axis = np.arange(-HALF_EXTENT, HALF_EXTENT + 1.0)
    amplitude, wavelength = rng.uniform(0.02, 0.1, 3), rng.uniform(40.0, 120.0, 3)
    direction, phase = rng.uniform(0, 2 * np.pi, (2, 3))
    # sin(a + b) from terms of each axis: two products per node and wave instead of a sine.
    outside = roads.distance_grid(axis, _VERGE if relief else KERB_WIDTH)
    heights = np.minimum(outside, KERB_WIDTH)
    if relief:
        amplitude[0], wavelength[0] = rng.uniform(0.0, 1.0), rng.uniform(100.0, 250.0)
    along_x = np.outer(2 * np.pi / wavelength * np.cos(direction), axis) + phase[:, None]
    along_y = np.outer(2 * np.pi / wavelength * np.sin(direction), axis)
    _relief(
        heights, np.sin(along_x), np.cos(along_x), amplitude[:, None] * np.sin(along_y),
        amplitude[:, None] * np.cos(along_y),
    )  # fmt: skip
    if not relief:
        return HeightField(heights.astype(np.float32))
    steepness, towards = rng.uniform(0.0, 0.05), rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.4:
        steepness = 0.0
    crown = rng.uniform(0.0, 0.03)
    verge = np.empty(heights.shape, np.bool_)
    _slope(
        heights, verge, outside, roads.distance_grid(axis, roads.half_width, from_centre=True), axis,
        steepness * np.cos(towards), steepness * np.sin(towards), crown,
    )  # fmt: skip
    return HeightField(heights.astype(np.float32), verge, (rng.uniform(0.06, 0.3), rng.uniform(0.15, 0.6)))


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


@kernel
def _slope(
    heights: NDArray[np.float64],
    verge: NDArray[np.bool_],
    outside: NDArray[np.float64],
    from_centre: NDArray[np.float64],
    axis: NDArray[np.float64],
    slope_x: float,
    slope_y: float,
    crown: float,
) -> None:
    """Add a slope and a crown to heights (n, n) and fill `verge` from the distances, (n, n) each."""
    n = len(axis)
    for j in range(n):
        for i in range(n):
            heights[j, i] += slope_x * axis[i] + slope_y * axis[j] - crown * from_centre[j, i]
            verge[j, i] = outside[j, i] >= _VERGE


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


@kernel(inline='always')
def surface_at(heights: NDArray[np.float32], x: float, y: float) -> tuple[float, float, float]:
    """Height at one point, metres, and its slope along x and y; heights as in `HeightField`."""
    nodes = len(heights)
    u = min(max(x + HALF_EXTENT, 0.0), nodes - 1.001)
    v = min(max(y + HALF_EXTENT, 0.0), nodes - 1.001)
    i = int(u)
    j = int(v)
    u -= i
    v -= j
    low, right = heights[j, i], heights[j, i + 1]
    up, far = heights[j + 1, i], heights[j + 1, i + 1]
    slope_x = (right - low) + v * ((far - up) - (right - low))
    slope_y = (up - low) + u * ((far - right) - (up - low))
    return low + u * (right - low) + v * slope_y, slope_x, slope_y


@kernel
def _heights_at(
    heights: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    result = np.empty(len(x))
    for k in range(len(x)):
        result[k] = height_at(heights, x[k], y[k])
    return result
