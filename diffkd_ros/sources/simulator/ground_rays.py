# SPDX-License-Identifier: Apache-2.0
"""Where the rays of a spinning LiDAR meet the ground."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.ground import HALF_EXTENT, height_at, surface_at

GROUND = -1
VERGE = -3
_SHALLOWEST = -0.004  # sine of the least steep elevation at which the ground is searched
_GROUND_TOLERANCE = 0.004  # metres of height
_STEEP = -0.15  # sine of the elevation below which the iteration converges on slopes and kerbs too
_SKY = 0.3  # sine of the elevation above which no ground is met: steeper than any slope
_STEP = 1.5  # metres between heights that are compared with a flatter ray, near the sensor
_STEP_GROWTH = 0.04  # share of the distance by which the step grows


@kernel
def cast_level_ground(
    heights: NDArray[np.float32],
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    cos_azimuth: NDArray[np.float64],
    sin_azimuth: NDArray[np.float64],
    cos_elevation: NDArray[np.float64],
    sin_elevation: NDArray[np.float64],
    max_range: float,
    distance: NDArray[np.float32],
    hit: NDArray[np.int32],
    incidence: NDArray[np.float32],
) -> None:
    """Enter the hits on the ground where no nearer solid was hit.

    Fixed-point iteration: intersect the ray with the horizontal plane at the ground height of the last
    estimate, until the height changes by less than the tolerance. For rays nearly parallel to a slope a few
    centimetres of error may remain.
    """
    below = height_at(heights, origin[0], origin[1]) - origin[2]
    for c in range(len(cos_azimuth)):
        # The column's part of the ray direction in the map; a ring adds its elevation.
        across_x = rotation[0, 0] * cos_azimuth[c] + rotation[0, 1] * sin_azimuth[c]
        across_y = rotation[1, 0] * cos_azimuth[c] + rotation[1, 1] * sin_azimuth[c]
        across_z = rotation[2, 0] * cos_azimuth[c] + rotation[2, 1] * sin_azimuth[c]
        drop = below
        for r in range(len(cos_elevation)):
            dz = across_z * cos_elevation[r] + rotation[2, 2] * sin_elevation[r]
            if dz > _SHALLOWEST:
                continue
            inverse = 1.0 / dz
            t = drop * inverse  # starts from the height at which the ring below met the ground
            best = min(distance[c, r], max_range)
            if t > 2 * best:
                continue
            dx = across_x * cos_elevation[r] + rotation[0, 2] * sin_elevation[r]
            dy = across_y * cos_elevation[r] + rotation[1, 2] * sin_elevation[r]
            for _ in range(4):
                last = t
                level = height_at(heights, origin[0] + t * dx, origin[1] + t * dy)
                drop = level - origin[2]
                t = min(drop * inverse, 2 * max_range)
                if abs(t - last) * -dz < _GROUND_TOLERANCE:
                    break
            if 0 < t < best:
                distance[c, r] = t
                hit[c, r] = GROUND
                incidence[c, r] = -dz


@kernel
def cast_relief(
    heights: NDArray[np.float32],
    verge: NDArray[np.bool_],
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    velocity: NDArray[np.float64],
    times: NDArray[np.float64],
    cos_azimuth: NDArray[np.float64],
    sin_azimuth: NDArray[np.float64],
    cos_elevation: NDArray[np.float64],
    sin_elevation: NDArray[np.float64],
    max_range: float,
    distance: NDArray[np.float32],
    hit: NDArray[np.int32],
    incidence: NDArray[np.float32],
) -> None:
    """Enter the hits on hilly ground where no nearer solid was hit.

    Steep rays are intersected by Newton's method, which starts at the plane that the ring below met. Flatter
    rays are followed in steps from where the ring below met the ground, since a higher ring of the column
    never meets it nearer, and the crossing is interpolated.
    """
    last_node = len(heights) - 1
    for c in range(len(cos_azimuth)):
        across_x = rotation[0, 0] * cos_azimuth[c] + rotation[0, 1] * sin_azimuth[c]
        across_y = rotation[1, 0] * cos_azimuth[c] + rotation[1, 1] * sin_azimuth[c]
        across_z = rotation[2, 0] * cos_azimuth[c] + rotation[2, 1] * sin_azimuth[c]
        x0 = origin[0] + velocity[0] * times[c]
        y0 = origin[1] + velocity[1] * times[c]
        z0 = origin[2] + velocity[2] * times[c]
        # The plane that touches the ground where the last ring met it.
        level, slope_x, slope_y = surface_at(heights, x0, y0)
        level -= z0
        reached = 0.0  # up to where the last ring was above the ground
        for r in range(len(cos_elevation)):
            best = min(distance[c, r], max_range)
            dx = across_x * cos_elevation[r] + rotation[0, 2] * sin_elevation[r]
            dy = across_y * cos_elevation[r] + rotation[1, 2] * sin_elevation[r]
            dz = across_z * cos_elevation[r] + rotation[2, 2] * sin_elevation[r]
            if dz > _SKY:
                break
            if dz < _STEEP:
                t = level / (dz - dx * slope_x - dy * slope_y)
                if t > 1.5 * best:
                    continue
                for _ in range(4):
                    height, slope_x, slope_y = surface_at(heights, x0 + t * dx, y0 + t * dy)
                    fall = dz - dx * slope_x - dy * slope_y
                    gap = z0 + t * dz - height
                    t -= gap / fall
                    if abs(gap) < _GROUND_TOLERANCE:
                        break
                level = t * fall
                reached = max(0.9 * t, 0.0)
            else:
                t = reached
                gap = z0 + t * dz - height_at(heights, x0 + t * dx, y0 + t * dy)
                while gap > 0 and t < best:
                    step = _STEP + _STEP_GROWTH * t
                    t += step
                    above = gap
                    gap = z0 + t * dz - height_at(heights, x0 + t * dx, y0 + t * dy)
                    if gap > 0:
                        reached = t
                    else:
                        t -= step * gap / (gap - above)
                if t < best:
                    _, slope_x, slope_y = surface_at(heights, x0 + t * dx, y0 + t * dy)
            if 0 < t < best:
                i = min(max(int(x0 + t * dx + HALF_EXTENT + 0.5), 0), last_node)
                j = min(max(int(y0 + t * dy + HALF_EXTENT + 0.5), 0), last_node)
                distance[c, r] = t
                hit[c, r] = VERGE if verge[j, i] else GROUND
                norm = math.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
                incidence[c, r] = max((dx * slope_x + dy * slope_y - dz) / norm, 0.0)
