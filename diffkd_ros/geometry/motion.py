# SPDX-License-Identifier: Apache-2.0
"""Rigid motion: interpolation between two poses, and extrapolation by a velocity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.geometry.poses import Matrix, inverse


def cross_matrix(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (3, 3) matrix whose product with a vector is the cross product of v and it."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_vector(pose: Matrix) -> NDArray[np.float64]:
    """A pose's rotation as axis times angle, (3,) radians, angle in [0, pi].

    By the quaternion of Bar-Itzhack (2000): the eigenvector of the largest eigenvalue of a matrix of the
    rotation's elements, which is accurate at every angle.
    """
    r = pose[:3, :3]
    k = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
        [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
        [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    q = np.linalg.eigh(k / 3.0)[1][:, -1]
    q = -q if q[3] < 0 else q
    length = float(np.linalg.norm(q[:3]))
    if length < 1e-12:
        return np.zeros(3)
    return q[:3] * (2.0 * np.arctan2(length, q[3]) / length)


def moved(pose: Matrix, linear: ArrayLike, angular: ArrayLike, seconds: float) -> Matrix:
    """The pose of a body that has moved with constant linear and angular velocity (exponential map of SE(3)).

    Args:
        pose: (4, 4) world <- body.
        linear: (3,) metres per second in the body frame.
        angular: (3,) radians per second in the body frame.
        seconds: may be negative.
    """
    translation = np.asarray(linear, np.float64) * seconds
    turn = np.asarray(angular, np.float64) * seconds
    angle = float(np.linalg.norm(turn))
    cross = cross_matrix(turn)
    if angle < 1e-9:
        a, b, c = 1.0, 0.5, 1.0 / 6.0
    else:
        a = np.sin(angle) / angle
        b = (1.0 - np.cos(angle)) / angle**2
        c = (angle - np.sin(angle)) / angle**3
    square = cross @ cross
    step = np.eye(4)
    step[:3, :3] += a * cross + b * square
    step[:3, 3] = (np.eye(3) + b * cross + c * square) @ translation
    return pose @ step


def twist_between(
    first: Matrix, second: Matrix, seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The constant velocity that leads from one pose to another: the inverse of `moved` (logarithm of SE(3)).

    Args:
        first: (4, 4) world <- body.
        second: the same body, turned by less than half a turn, `seconds` later.
        seconds: not zero; may be negative.

    Returns:
        Linear (metres per second) and angular (radians per second) velocity in the body frame.
    """
    motion = inverse(first) @ second
    turn = rotation_vector(motion)
    angle = float(np.linalg.norm(turn))
    cross = cross_matrix(turn)
    if angle < 1e-4:
        c = 1.0 / 12.0
    else:
        c = 1.0 / angle**2 - (1.0 + np.cos(angle)) / (2.0 * angle * np.sin(angle))
    linear = (np.eye(3) - 0.5 * cross + c * cross @ cross) @ motion[:3, 3]
    return linear / seconds, turn / seconds


def between(first: Matrix, second: Matrix, share: float) -> Matrix:
    """Interpolate: the position linearly, the rotation about one axis at a constant rate (slerp).

    The result is `first` at a share of 0 and `second` at 1.
    """
    turn = rotation_vector(inverse(first) @ second)
    result = moved(first, np.zeros(3), turn, share)
    result[:3, 3] = (1.0 - share) * first[:3, 3] + share * second[:3, 3]
    return result
