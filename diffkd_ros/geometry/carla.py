# SPDX-License-Identifier: Apache-2.0
"""Conversion between CARLA's left-handed frames, which OPV2V uses too, and REP-103.

CARLA: x forward, y **right**, z up, angles in degrees, pose lists in the order x, y, z, roll, yaw, pitch.
REP-103: x forward, y **left**, z up, angles in radians.

The two differ by the reflection S = diag(1, -1, 1): a point p becomes S p and a rotation R becomes S R S. For
CARLA's matrix (third row sin(pitch), -cos(pitch) sin(roll), cos(pitch) cos(roll)) the result is the REP-103
matrix Rz(-yaw) Ry(-pitch) Rx(roll): yaw and pitch change sign, roll does not (derived here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.frame import FrameError, checked_boxes
from diffkd_ros.geometry.boxes import wrapped
from diffkd_ros.geometry.poses import Matrix, euler_from_pose, pose_from_euler


class VehicleEntry(TypedDict):
    """One entry of `vehicles` in an OPV2V frame file; CARLA map frame, metres and degrees.

    Attributes:
        location: x, y, z of the vehicle's origin.
        center: offset of the box's centre from the origin, along the map's axes.
        angle: roll, yaw, pitch.
        extent: half the length, width and height.
    """

    location: list[float]
    center: list[float]
    angle: list[float]
    extent: list[float]


def pose_from_carla(x: float, y: float, z: float, roll: float, yaw: float, pitch: float) -> Matrix:
    """Convert a CARLA pose (metres, degrees), in the order of OPV2V's `lidar_pose`, to a REP-103 transform.

    Returns:
        (4, 4) map <- sensor, both right-handed.

    Raises:
        PoseError: if a value is not finite.
    """
    return pose_from_euler((x, -y, z), np.radians(roll), -np.radians(pitch), -np.radians(yaw))


def pose_to_carla(pose: Matrix) -> list[float]:
    """Convert a (4, 4) REP-103 transform to x, y, z (metres), roll, yaw, pitch (degrees) in CARLA's map."""
    roll, pitch, yaw = np.degrees(euler_from_pose(pose))
    x, y, z = pose[:3, 3]
    return [float(value) for value in (x, -y, z, roll, -yaw, -pitch)]


def flip_points(points: NDArray) -> NDArray:
    """Convert points (n, 2 or more) between the two conventions: a copy with y negated.

    Raises:
        FrameError: if the shape is wrong.
    """
    if points.ndim != 2 or points.shape[1] < 2:
        raise FrameError(f'points must be (n, 2 or more), got {points.shape}')
    result = points.copy()
    result[:, 1] = -result[:, 1]
    return result


def _triple(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise FrameError(f'{name} must be three finite numbers, got {values!r}')
    return array


def box_from_carla(
    location: Sequence[float], center: Sequence[float], angle: Sequence[float], extent: Sequence[float]
) -> NDArray[np.float64]:
    """Convert the fields of an OPV2V `vehicles` entry (see `VehicleEntry`) to an upright box.

    The box's centre is location + center without rotating the offset, as in the data set's own tools; the
    vehicle's roll and pitch are ignored.

    Returns:
        (7,) box in the REP-103 map frame, yaw in [-pi, pi).

    Raises:
        FrameError: if a field is not three finite numbers; the message names it.
    """
    centre = _triple('location', location) + _triple('center', center)
    size = 2.0 * _triple('extent', extent)
    yaw = wrapped(-np.radians(_triple('angle', angle)[1:2]))
    return np.concatenate([centre * (1.0, -1.0, 1.0), size, yaw])


def box_to_carla(box: ArrayLike) -> VehicleEntry:
    """Convert a (7,) box in the REP-103 map frame to the fields of an OPV2V `vehicles` entry.

    The vehicle's origin is on the ground below the box's centre, as in CARLA.

    Raises:
        FrameError: if the box is not seven finite numbers.
    """
    x, y, z, length, width, height, yaw = (float(v) for v in checked_boxes(np.atleast_2d(box), 'box')[0])
    return {
        'location': [x, -y, z - 0.5 * height],
        'center': [0.0, 0.0, 0.5 * height],
        'angle': [0.0, -float(np.degrees(yaw)), 0.0],
        'extent': [0.5 * length, 0.5 * width, 0.5 * height],
    }
