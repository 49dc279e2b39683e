# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms as (4, 4) float64 matrices, REP-103.

A name ``a_from_b`` maps coordinates in b to coordinates in a.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.errors import DiffkdError

Matrix = NDArray[np.float64]


class PoseError(DiffkdError):
    """A pose is not a finite rigid transform."""


def pose_from_euler(xyz: ArrayLike, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> Matrix:
    """A transform from a translation (metres) and a rotation Rz(yaw) Ry(pitch) Rx(roll) (radians).

    Raises:
        PoseError: if the translation is not three values or a value is not finite.
    """
    t = np.asarray(xyz, np.float64)
    if t.shape != (3,) or not np.isfinite([*t, roll, pitch, yaw]).all():
        raise PoseError(
            f'not a rigid transform: translation {t.tolist()}, roll {roll}, pitch {pitch}, yaw {yaw}'
        )
    pose = np.eye(4)
    pose[:3, :3] = _rotation(roll, pitch, yaw)
    pose[:3, 3] = t
    return pose


def rotations_from_euler(
    roll: NDArray[np.float64], pitch: NDArray[np.float64], yaw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The rotations (n, 3, 3) of `pose_from_euler` for (n,) angles, radians."""
    return np.moveaxis(np.array(_rotation(roll, pitch, yaw)), 2, 0)


def _rotation(roll: Any, pitch: Any, yaw: Any) -> list[list[Any]]:
    """Rows of Rz(yaw) Ry(pitch) Rx(roll), of numbers or arrays."""
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (np.cos, np.sin))
    return [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]


def euler_from_pose(pose: Matrix) -> tuple[float, float, float]:
    """Roll, pitch, yaw in radians, pitch in [-pi/2, pi/2]: the inverse of `pose_from_euler`.

    At |pitch| = pi/2, where roll and yaw are not unique, roll is 0.
    """
    r = pose[:3, :3]
    if np.hypot(r[0, 0], r[1, 0]) < 1e-9:
        return 0.0, float(-np.copysign(np.pi / 2, r[2, 0])), float(np.arctan2(-r[0, 1], r[1, 1]))
    return (
        float(np.arctan2(r[2, 1], r[2, 2])),
        float(np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))),
        float(np.arctan2(r[1, 0], r[0, 0])),
    )


def inverse(pose: Matrix) -> Matrix:
    """Inverse of a rigid transform."""
    rotation = pose[:3, :3].T
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = -rotation @ pose[:3, 3]
    return result


def transform_points(pose: Matrix, points: NDArray) -> NDArray:
    """Transform the first three columns of (n, >=3) points; other columns and the dtype are kept."""
    result = points.copy()
    x, y, z = points[:, :3].T
    # Written out because a matrix product would start all of BLAS's threads, in every worker process.
    for axis, (to_x, to_y, to_z, offset) in enumerate(pose[:3].astype(points.dtype)):
        result[:, axis] = to_x * x + to_y * y + to_z * z + offset
    return result


def yaw_of(pose: Matrix) -> float:
    """Heading of the x axis in the target's xy plane, radians."""
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


def rigid(matrix: Matrix) -> Matrix:
    """A recorded finite (4, 4) transform with its rotation made orthonormal, since files hold few digits.

    Raises:
        PoseError: if it is not a rigid transform.
    """
    rotation = matrix[:3, :3]
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-3:
        raise PoseError(f'not a rigid transform: {matrix.tolist()}')
    if np.linalg.det(rotation) < 0 or np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.01:
        raise PoseError(f'not a rotation: {rotation.tolist()}')
    left, _, right = np.linalg.svd(rotation)
    result = np.eye(4)
    result[:3, :3] = left @ right
    result[:3, 3] = matrix[:3, 3]
    return result
