# SPDX-License-Identifier: Apache-2.0
"""A catalogue of spinning LiDARs: elevations, columns, ranges and where they are published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sensor:
    """A model of LiDAR.

    Attributes:
        title: usual name.
        elevations: of the rings, ascending, degrees.
        columns: firings per revolution, one number for each mode or speed of rotation.
        min_range: returns from nearer are lost, metres.
        max_range: lowest and highest range limit that an instance has, metres.
        range_noise: standard deviation along the ray, metres.
        dropout: highest share of returns that an instance loses at random.
        source: where elevations and ranges are published.
    """

    title: str
    elevations: tuple[float, ...]
    columns: tuple[int, ...]
    min_range: float
    max_range: tuple[float, float]
    range_noise: float
    source: str
    dropout: float = 0.3


def _even(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(np.linspace(low, high, count).tolist())


def _hesai(step: float) -> tuple[float, ...]:
    """Fine steps between -6 and 2 degrees, coarse ones outside."""
    fine = _even(-6.0, 2.0, round(8.0 / step) + 1)
    return (-25.0, -19.0, *_even(-14.0, -7.0, 8), *fine, 3.0, 5.0, 8.0, 11.0, 15.0)


_VLP_32C = (
    -25.0, -15.639, -11.31, -8.843, -7.254, -6.148, -5.333, -4.667, -4.0, -3.667, -3.333, -3.0, -2.667,
    -2.333, -2.0, -1.667, -1.333, -1.0, -0.667, -0.333, 0.0, 0.333, 0.667, 1.0, 1.333, 1.667, 2.333, 3.333,
    4.667, 7.0, 10.333, 15.0,
)  # fmt: skip

SENSORS = {
    'basic32': Sensor(
        'the 32 rings of the world `basic`', _even(-25.0, 10.0, 32), (1024,), 1.0, (100.0, 100.0), 0.02,
        'this package, version 0.1',
    ),
    'vlp16': Sensor(
        'Velodyne VLP-16', _even(-15.0, 15.0, 16), (900, 1800), 0.5, (80.0, 100.0), 0.03,
        'Velodyne, VLP-16 User Manual, 63-9243 Rev. D',
    ),
    'vlp32c': Sensor(
        'Velodyne VLP-32C', _VLP_32C, (900, 1800), 1.0, (120.0, 200.0), 0.03,
        'Velodyne, VLP-32C User Manual',
    ),
    'hdl32e': Sensor(
        'Velodyne HDL-32E', _even(-92 / 3, 32 / 3, 32), (1084, 2048), 1.0, (80.0, 100.0), 0.02,
        "Velodyne, HDL-32E User's Manual (laser firing sequence)",
    ),
    'hdl64e': Sensor(
        'Velodyne HDL-64E', (*_even(-73 / 3, -53 / 6, 32), *_even(-25 / 3, 2.0, 32)), (1042, 2048), 0.9,
        (100.0, 120.0), 0.02, "Velodyne, HDL-64E S3 User's Manual",
    ),
    'pandar40': Sensor(
        'Hesai Pandar40P', _hesai(1 / 3), (900, 1800), 0.3, (130.0, 200.0), 0.02,
        "Hesai, Pandar40P User's Manual, appendix I (channel distribution)",
    ),
    'pandar64': Sensor(
        'Hesai Pandar64', _hesai(1 / 6), (900, 1800), 0.3, (130.0, 200.0), 0.02,
        "Hesai, Pandar64 User's Manual, appendix I (channel distribution)",
    ),
    'os1_128': Sensor(
        'Ouster OS1-128', _even(-22.5, 22.5, 128), (512, 1024, 2048), 0.5, (90.0, 170.0), 0.02,
        'Ouster, OS1 datasheet (45 degrees, uniform beam spacing)',
    ),
    'carla': Sensor(
        "CARLA's default", _even(-30.0, 10.0, 32), (512, 1024), 0.2, (50.0, 100.0), 0.01,
        'CARLA 0.9, sensor.lidar.ray_cast (channels, upper_fov, lower_fov, dropoff_general_rate); '
        'columns and range as users set them', dropout=0.45,
    ),
    'opv2v': Sensor(
        'OPV2V, 64 rings', _even(-25.0, 2.0, 64), (1015,), 0.2, (120.0, 120.0), 0.02,
        'OpenCDA, opv2v_data_protocol_2021_08_18_19_48_05.yaml: 1.3 million points a second at 20 turns',
    ),
}  # fmt: skip
"""The catalogue by name."""

DRAWN = {
    'vlp16': 4.0,
    'carla': 4.0,
    'basic32': 2.0,
    'vlp32c': 2.0,
    'hdl64e': 1.0,
    'pandar64': 1.0,
    'os1_128': 1.0,
    'opv2v': 1.0,
}
"""Relative frequencies of the sensors that the world `varied` draws; the others are held out of training."""
