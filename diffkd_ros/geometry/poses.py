# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms as (4, 4) float64 matrices, REP-103.

A name ``a_from_b`` maps coordinates in b to coordinates in a.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.errors import DiffkdError

Matrix = NDArray[np.float64]


class PoseError(DiffkdError):
    """A pose that is not a finite rigid transform."""


def pose_from_euler(xyz: ArrayLike, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> Matrix:
    """Build Rz(yaw) Ry(pitch) Rx(roll) with a translation; metres and radians.

    Raises:
        PoseError: if the translation is not three values or a value is not finite.
    """
    t = np.asarray(xyz, np.float64)
    if t.shape != (3,) or not np.isfinite([*t, roll, pitch, yaw]).all():
        raise PoseError(
            f'not a rigid transform: translation {t.tolist()}, roll {roll}, pitch {pitch}, yaw {yaw}'
        )
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (np.cos, np.sin))
    pose = np.eye(4)
    pose[:3, :3] = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    pose[:3, 3] = t
    return pose


def euler_from_pose(pose: Matrix) -> tuple[float, float, float]:
    """Roll, pitch, yaw in radians, pitch in [-pi/2, pi/2], from which `pose_from_euler` rebuilds the pose.

    At |pitch| = pi/2 only roll and yaw together are determined; roll is then given as 0.
    """
    r = pose[:3, :3]
    if np.hypot(r[0, 0], r[1, 0]) < 1e-9:
        return 0.0, float(-np.copysign(np.pi / 2, r[2, 0])), float(np.arctan2(-r[0, 1], r[1, 1]))
    return (
        float(np.arctan2(r[2, 1], r[2, 2])),
        float(np.arctan2(-r[2, 0], np.hypot(r[0, 0], r[1, 0]))),
        float(np.arctan2(r[1, 0], r[0, 0])),
    )


def pose_from_quaternion(xyz: ArrayLike, xyzw: ArrayLike) -> Matrix:
    """Build a transform from a translation and a quaternion in ROS order (x, y, z, w).

    Raises:
        PoseError: if any value is not finite or the quaternion is not of unit length to within 1 %.
    """
    t, q = np.asarray(xyz, np.float64), np.asarray(xyzw, np.float64)
    if t.shape != (3,) or q.shape != (4,):
        raise PoseError(f'translation and quaternion must be (3,) and (4,), got {t.shape} and {q.shape}')
    norm = float(np.linalg.norm(q))
    if not (np.isfinite(t).all() and np.isfinite(q).all()) or abs(norm - 1.0) > 0.01:
        raise PoseError(
            f'not a rigid transform: translation {t.tolist()}, quaternion {q.tolist()} of length {norm:.3g}'
        )
    x, y, z, w = q / norm
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = t
    return pose


def quaternion_from_pose(pose: Matrix) -> NDArray[np.float64]:
    """Unit quaternion (x, y, z, w) with w >= 0 (Bar-Itzhack: the eigenvector of the largest eigenvalue)."""
    r = pose[:3, :3]
    k = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
        [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
        [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    q = np.linalg.eigh(k / 3.0)[1][:, -1]
    return -q if q[3] < 0 else q


def inverse(pose: Matrix) -> Matrix:
    """Inverse of a rigid transform."""
    rotation = pose[:3, :3].T
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = -rotation @ pose[:3, 3]
    return result


def transform_points(pose: Matrix, points: NDArray) -> NDArray:
    """Transform the first three columns of (n, >=3) points; further columns and the dtype are kept."""
    result = points.copy()
    x, y, z = points[:, :3].T
    # Written out: a product with so small a matrix wakes all of BLAS's threads, in every worker process.
    for axis, (to_x, to_y, to_z, offset) in enumerate(pose[:3].astype(points.dtype)):
        result[:, axis] = to_x * x + to_y * y + to_z * z + offset
    return result


def yaw_of(pose: Matrix) -> float:
    """Heading of the x axis in the target's xy plane, radians."""
    return float(np.arctan2(pose[1, 0], pose[0, 0]))
