# SPDX-License-Identifier: Apache-2.0
"""The LiDARs of a scenario's agents: configured (world `basic`) or drawn from the catalogue (`varied`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from diffkd_ros.geometry.poses import Matrix, pose_from_euler
from diffkd_ros.sources.simulator.config import LidarConfig
from diffkd_ros.sources.simulator.intensity import LAWS, draw_law
from diffkd_ros.sources.simulator.lidar import Distortion, Lidar
from diffkd_ros.sources.simulator.sensors import DRAWN, SENSORS

_LOWEST, _HIGHEST = 1.5, 2.6  # metres above the ground, of a vehicle's sensor
_SEES_BODY = 0.3
_DISTORTIONS: tuple[Distortion, ...] = ('none', 'compensated', 'raw')
_DISTORTION_BOUNDS = (0.3, 0.6)  # 30 %, 30 % and 40 % of the sensors
_MOUNT_TILT = 1.0  # degrees
_POST = (4.0, 7.0)  # metres above the ground, of a road-side sensor
_POST_PITCH = 25.0  # degrees downwards at most
_LEVELLED_HEIGHT = 2.0


def configured_lidar(
    config: LidarConfig, tilt: tuple[float, float], sensor: str | None, law: str | None
) -> Lidar:
    """The LiDAR of an agent in the world `basic`.

    Args:
        config: of the LiDAR.
        tilt: roll and pitch of its mounting, radians.
        sensor: sensor of the catalogue whose rings, columns, ranges and noise are used; None for `config`'s.
        law: intensity law; None for `physical`.
    """
    rings = np.radians(np.linspace(config.elevation_min, config.elevation_max, config.beams))
    columns, nearest, farthest, noise = config.columns, config.min_range, config.max_range, config.range_noise
    if sensor is not None:
        model = SENSORS[sensor]
        rings, columns, noise = np.radians(model.elevations), model.columns[0], model.range_noise
        nearest, farthest = model.min_range, model.max_range[1]
    return Lidar(
        elevations=rings,
        columns=columns,
        min_range=nearest,
        max_range=farthest,
        range_noise=noise,
        dropout=config.dropout,
        dropout_far=config.dropout_far,
        dropout_grazing=config.dropout_grazing,
        intensity_noise=config.intensity_noise,
        law=LAWS[law or 'physical'],
        clearance=config.roof_clearance,
        tilt=tilt,
        phase=0.0,
        distortion='none',
        sees_body=False,
        coarse_noise=False,
    )


def draw_lidar(rng: np.random.Generator, roof: float, sensor: str | None, law: str | None) -> Lidar:
    """Draw the LiDAR of an agent in the world `varied`.

    The number of draws does not depend on `sensor` and `law`.

    Args:
        rng: draws everything.
        roof: height of the vehicle's roof above the ground, metres.
        sensor: name in the catalogue; None to draw one.
        law: intensity law; None to draw one.
    """
    shares = np.array(list(DRAWN.values()))
    drawn = SENSORS[str(rng.choice(list(DRAWN), p=shares / shares.sum()))]
    model = drawn if sensor is None else SENSORS[sensor]
    drawn_law = draw_law(rng)
    mode, limit, noise, dropout, far, grazing, height, body, columns = rng.random(9).tolist()
    roll, pitch = np.radians(rng.normal(0.0, _MOUNT_TILT, 2)).tolist()
    sees_body = body < _SEES_BODY
    # A sensor that sees the roof stands so high above it that the roof does not hide the road.
    lowest = max(_LOWEST, roof + (0.35 if sees_body else 0.05))
    near, distant = model.max_range
    return Lidar(
        elevations=np.radians(model.elevations),
        # Coarse modes are drawn more often: they are faster to simulate.
        columns=model.columns[int(columns**4 * len(model.columns))],
        min_range=model.min_range,
        max_range=near + limit * (distant - near),
        range_noise=model.range_noise * (0.5 + noise),
        dropout=model.dropout * dropout,
        dropout_far=0.6 * far,
        dropout_grazing=0.6 * grazing,
        intensity_noise=0.02,
        law=drawn_law if law is None else LAWS[law],
        clearance=lowest + height**2 * max(_HIGHEST - lowest, 0.0) - roof,
        tilt=(roll, pitch),
        phase=0.5,
        distortion=_DISTORTIONS[int(np.searchsorted(_DISTORTION_BOUNDS, mode))],
        sees_body=sees_body,
        coarse_noise=True,
    )


@dataclass(frozen=True, slots=True)
class Post:
    """The mounting of a road-side LiDAR.

    Attributes:
        pose: (4, 4) map <- LiDAR.
        levelled: (4, 4) map <- frame in which its points are given: upright and at about the height of a
            vehicle's LiDAR, as the virtual LiDAR of DAIR-V2X, with the LiDAR's x, y and heading.
    """

    pose: Matrix
    levelled: Matrix


def draw_post(rng: np.random.Generator, x: float, y: float, yaw: float, ground_z: float) -> Post:
    """Draw the mounting of a road-side LiDAR: 4 to 7 m high, tilted down by up to 25 degrees.

    Args:
        rng: draws height and tilt.
        x: of the post in the map, metres.
        y: of the post in the map, metres.
        yaw: heading that the sensor faces, radians.
        ground_z: height of the ground there, metres.
    """
    height, roll = rng.uniform(*_POST), math.radians(rng.normal(0.0, _MOUNT_TILT))
    pitch = math.radians(rng.uniform(0.0, _POST_PITCH))
    return Post(
        pose_from_euler([x, y, ground_z + height], roll, pitch, yaw),
        pose_from_euler([x, y, ground_z + _LEVELLED_HEIGHT], 0.0, 0.0, yaw),
    )
