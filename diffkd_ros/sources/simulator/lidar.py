# SPDX-License-Identifier: Apache-2.0
"""Turns ideal ray hits into LiDAR returns: losses, range noise and intensity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import AgentSweep
from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.ground_rays import VERGE
from diffkd_ros.sources.simulator.intensity import IntensityLaw, intensity
from diffkd_ros.sources.simulator.raycast import NOTHING, Motion, Solids, cast

Distortion = Literal['none', 'raw', 'compensated']
_GROUND_ROUGHNESS = 0.01
# Middles of 4,096 equally likely intervals of the standard normal distribution.
_NORMAL = np.array([NormalDist().inv_cdf((k + 0.5) / 4096) for k in range(4096)], np.float32)


@dataclass(frozen=True, slots=True)
class Lidar:
    """The LiDAR of one agent.

    Attributes:
        elevations: (rings,) float64 ascending, radians.
        columns: firings per revolution.
        min_range: returns from nearer are lost, metres.
        max_range: returns from farther away are lost, metres.
        range_noise: standard deviation along the ray, metres, on a smooth surface.
        dropout: probability that a near return at normal incidence is lost.
        dropout_far: additional probability at `max_range`, proportional to the square of the range.
        dropout_grazing: additional probability as the ray becomes parallel to the surface.
        intensity_noise: standard deviation of the intensity.
        law: of the intensity.
        clearance: height above the roof of its vehicle, metres.
        tilt: roll and pitch relative to its vehicle, radians.
        phase: share of the revolution before the stamp.
        distortion: `none`: all columns see the scene at the stamp; `raw`: each sees it when it fires, and the
            point is given in the sensor's frame of that instant; `compensated`: the point is moved to the
            frame at the stamp by the sensor's own motion.
        sees_body: whether it sees the vehicle that carries it.
        coarse_noise: draw noise with 12 bits instead of 32, which takes a fifth of the time.
    """

    elevations: NDArray[np.float64]
    columns: int
    min_range: float
    max_range: float
    range_noise: float
    dropout: float
    dropout_far: float
    dropout_grazing: float
    intensity_noise: float
    law: IntensityLaw
    clearance: float
    tilt: tuple[float, float]
    phase: float
    distortion: Distortion
    sees_body: bool
    coarse_noise: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """What a sensor sees at one instant.

    Attributes:
        solids: `owner` is the index of a mobile object or -1.
        ground: the ground.
        velocity: (objects, 3) float64 of the mobile objects in the map, metres per second.
    """

    solids: Solids
    ground: HeightField
    velocity: NDArray[np.float64]


def scan(
    rng: np.random.Generator,
    lidar: Lidar,
    rate: float,
    pose: NDArray[np.float64],
    velocity: NDArray[np.float64],
    yaw_rate: float,
    scene: Scene,
    carrier: int,
) -> tuple[AgentSweep, NDArray[np.int64]]:
    """One revolution of an agent's sensor.

    Args:
        rng: draws noise and losses; the number of draws does not depend on what is hit.
        lidar: the sensor.
        rate: revolutions per second.
        pose: (4, 4) map <- LiDAR at the stamp.
        velocity: (3,) of the sensor in the map, metres per second.
        yaw_rate: of the sensor, radians per second.
        scene: at the stamp.
        carrier: owner of the vehicle that carries the sensor, or -2.

    Returns:
        The sweep, and (objects,) int64 returns on each object.
    """
    columns, rings = lidar.columns, len(lidar.elevations)
    solids = scene.solids
    # Column 0 points backwards, up to a random fraction of a column, as a real encoder is not in phase.
    azimuth_start = -np.pi + rng.random() * 2 * np.pi / columns
    range_noise, intensity_noise, survival = _draw_noise(rng, columns, rings, lidar.coarse_noise)
    motion, times = None, np.zeros(columns)
    if lidar.distortion != 'none':
        times = (np.arange(columns) / columns - lidar.phase) / rate
        bodies = np.zeros((len(solids.owner), 3))
        mobile = solids.owner >= 0
        bodies[mobile] = scene.velocity[solids.owner[mobile]]
        motion = Motion(times, velocity, yaw_rate, bodies)
    distance, hit, incidence = cast(
        pose, azimuth_start, columns, lidar.elevations, lidar.max_range, solids, scene.ground,
        -2 if lidar.sees_body else carrier, motion,
    )  # fmt: skip
    azimuths = azimuth_start + np.arange(columns) * 2 * math.pi / columns
    shifts = np.zeros((columns, 3))
    if lidar.distortion == 'compensated':
        azimuths += yaw_rate * times
        shifts = times[:, None] * (velocity @ pose[:3, :3])
    points = np.empty((columns * rings, 4), np.float32)
    ring = np.empty(len(points), np.uint16)
    column = np.empty(len(points), np.uint16)
    counts = np.zeros(len(scene.velocity), np.int64)
    law = lidar.law
    returned = _returns(
        distance, hit, incidence, range_noise, intensity_noise, survival,
        np.cos(lidar.elevations), np.sin(lidar.elevations), azimuths, shifts,
        solids.owner, solids.reflectivity, np.hypot(lidar.range_noise, solids.roughness),
        scene.ground.reflectivity,
        float(np.hypot(lidar.range_noise, _GROUND_ROUGHNESS)),
        lidar.min_range, lidar.max_range, lidar.dropout, lidar.dropout_far, lidar.dropout_grazing,
        lidar.intensity_noise, law.kind, law.gain, law.gamma, law.steps,
        points, ring, column, counts,
    )  # fmt: skip
    time = column[:returned].astype(np.float32) / np.float32(rate * columns) - np.float32(lidar.phase / rate)
    return AgentSweep(points[:returned].copy(), pose, ring[:returned].copy(), time, velocity), counts


def _draw_noise(
    rng: np.random.Generator, columns: int, rings: int, coarse: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Two standard normal deviates and one in [0, 1) of each ray: (columns, rings) each."""
    if coarse:
        return _split(rng.integers(0, 1 << 64, (columns, rings), np.uint64), _NORMAL)
    return (
        rng.standard_normal((columns, rings), np.float32),
        rng.standard_normal((columns, rings), np.float32),
        rng.random((columns, rings), np.float32),
    )


@kernel
def _split(
    bits: NDArray[np.uint64], normal: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """`_draw_noise` from the bits of one number of each ray and the quantiles of the normal distribution."""
    first = np.empty(bits.shape, np.float32)
    second = np.empty(bits.shape, np.float32)
    uniform = np.empty(bits.shape, np.float32)
    for c in range(bits.shape[0]):
        for r in range(bits.shape[1]):
            word = bits[c, r]
            first[c, r] = normal[word & np.uint64(0xFFF)]
            second[c, r] = normal[(word >> np.uint64(12)) & np.uint64(0xFFF)]
            uniform[c, r] = np.float32(word >> np.uint64(40)) * np.float32(2.0**-24)
    return first, second, uniform


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
    azimuths: NDArray[np.float64],
    shifts: NDArray[np.float64],
    owner: NDArray[np.int64],
    reflectivity: NDArray[np.float32],
    spread: NDArray[np.float32],
    ground_reflectivity: tuple[float, float],
    ground_spread: float,
    min_range: float,
    max_range: float,
    dropout: float,
    dropout_far: float,
    dropout_grazing: float,
    intensity_spread: float,
    law: int,
    gain: float,
    gamma: float,
    steps: int,
    points: NDArray[np.float32],
    ring: NDArray[np.uint16],
    column: NDArray[np.uint16],
    counts: NDArray[np.int64],
) -> int:
    """Fill points, ring, column and counts from the hits, column by column; returns the number of returns."""
    columns, rings = distance.shape
    n = 0
    for c in range(columns):
        cos_azimuth = math.cos(azimuths[c])
        sin_azimuth = math.sin(azimuths[c])
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
            material = reflectivity[body] if body >= 0 else ground_reflectivity[1 if body == VERGE else 0]
            measured = ideal + range_noise[c, r] * (ground_spread if body < 0 else spread[body])
            if measured < min_range or measured > max_range:
                continue
            noise = intensity_noise[c, r] * intensity_spread
            points[n, 0] = measured * cos_elevation[r] * cos_azimuth + shifts[c, 0]
            points[n, 1] = measured * cos_elevation[r] * sin_azimuth + shifts[c, 1]
            points[n, 2] = measured * sin_elevation[r] + shifts[c, 2]
            points[n, 3] = intensity(law, gain, gamma, steps, material, cosine, ideal, noise)
            ring[n] = r
            column[n] = c
            n += 1
            if body >= 0 and owner[body] >= 0:
                counts[owner[body]] += 1
    return n
