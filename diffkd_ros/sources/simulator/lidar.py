# SPDX-License-Identifier: Apache-2.0
"""Turns ideal ray hits into LiDAR returns: losses, range noise and intensity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import AgentSweep
from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.config import LidarConfig
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.raycast import NOTHING, Solids, cast

_GROUND_REFLECTIVITY = 0.18
_GROUND_ROUGHNESS = 0.01
_FALLOFF_RANGE = 80.0  # metres at which the intensity has halved


def scan(
    rng: np.random.Generator,
    lidar: LidarConfig,
    rate: float,
    pose: NDArray[np.float64],
    velocity: NDArray[np.float64],
    solids: Solids,
    ground: HeightField,
    agent: int,
    objects: int,
) -> tuple[AgentSweep, NDArray[np.int64]]:
    """One revolution of an agent's sensor.

    All columns are cast from the pose at the stamp. `time` holds when in the revolution a column fires, but
    the distortion of the sweep by motion is not simulated.

    Args:
        rng: draws noise and losses; the number of draws does not depend on what is hit.
        lidar: the sensor.
        rate: revolutions per second.
        pose: (4, 4) map <- LiDAR.
        velocity: (3,) of the sensor in the map, metres per second.
        solids: the scene; `owner` is the index of an object or -1.
        ground: the ground.
        agent: owner that the sensor does not see: the vehicle that carries it.
        objects: number of objects to count returns for.

    Returns:
        The sweep, and (objects,) int64 returns on each object.
    """
    columns, rings = lidar.columns, lidar.beams
    elevations = np.radians(np.linspace(lidar.elevation_min, lidar.elevation_max, rings))
    # Column 0 points backwards, up to a random fraction of a column, as a real encoder is not in phase.
    azimuth_start = -np.pi + rng.random() * 2 * np.pi / columns
    range_noise = rng.standard_normal((columns, rings), np.float32)
    intensity_noise = rng.standard_normal((columns, rings), np.float32)
    survival = rng.random((columns, rings), np.float32)
    distance, hit, incidence = cast(
        pose, azimuth_start, columns, elevations, lidar.max_range, solids, ground, skip=agent
    )
    points = np.empty((columns * rings, 4), np.float32)
    ring = np.empty(len(points), np.uint16)
    column = np.empty(len(points), np.uint16)
    counts = np.zeros(objects, np.int64)
    returned = _returns(
        distance, hit, incidence, range_noise, intensity_noise, survival,
        np.cos(elevations), np.sin(elevations), azimuth_start,
        solids.owner, solids.reflectivity, np.hypot(lidar.range_noise, solids.roughness),
        float(np.hypot(lidar.range_noise, _GROUND_ROUGHNESS)),
        lidar.min_range, lidar.max_range, lidar.dropout, lidar.dropout_far, lidar.dropout_grazing,
        lidar.intensity_noise,
        points, ring, column, counts,
    )  # fmt: skip
    time = column[:returned].astype(np.float32) / np.float32(rate * columns)
    return AgentSweep(points[:returned].copy(), pose, ring[:returned].copy(), time, velocity), counts


@kernel
def _returns(
    distance: NDArray[np.float32],
    hit: NDArray[np.int32],
    incidence: NDArray[np.float32],
    range_noise: NDArray[np.float32],
    intensity_noise: NDArray[np.float32],
    survival: NDArray[np.float32],
    cos_elevation: NDArray[np.float64],
    sin_elevation: NDArray[np.float64],
    azimuth_start: float,
    owner: NDArray[np.int64],
    reflectivity: NDArray[np.float32],
    spread: NDArray[np.float32],
    ground_spread: float,
    min_range: float,
    max_range: float,
    dropout: float,
    dropout_far: float,
    dropout_grazing: float,
    intensity_spread: float,
    points: NDArray[np.float32],
    ring: NDArray[np.uint16],
    column: NDArray[np.uint16],
    counts: NDArray[np.int64],
) -> int:
    """Fill points, ring, column and counts from the hits, column by column; returns the number of returns."""
    columns, rings = distance.shape
    n = 0
    for c in range(columns):
        azimuth = azimuth_start + c * 2 * math.pi / columns
        cos_azimuth = math.cos(azimuth)
        sin_azimuth = math.sin(azimuth)
        for r in range(rings):
            body = hit[c, r]
            if body == NOTHING:
                continue
            cosine = min(max(incidence[c, r], 0.0), 1.0)
            ideal = distance[c, r]
            grazing = (1 - cosine) * (1 - cosine)
            grazing *= grazing
            share = ideal / max_range
            lost = dropout + dropout_far * share * share + dropout_grazing * grazing * grazing
            if survival[c, r] < lost:
                continue
            material = _GROUND_REFLECTIVITY if body < 0 else reflectivity[body]
            measured = ideal + range_noise[c, r] * (ground_spread if body < 0 else spread[body])
            if measured < min_range or measured > max_range:
                continue
            strength = material * (0.2 + 0.8 * cosine) / (1 + ideal * ideal / _FALLOFF_RANGE**2)
            points[n, 0] = measured * cos_elevation[r] * cos_azimuth
            points[n, 1] = measured * cos_elevation[r] * sin_azimuth
            points[n, 2] = measured * sin_elevation[r]
            points[n, 3] = min(max(strength + intensity_noise[c, r] * intensity_spread, 0.0), 1.0)
            ring[n] = r
            column[n] = c
            n += 1
            if body >= 0 and owner[body] >= 0:
                counts[owner[body]] += 1
    return n
