# SPDX-License-Identifier: Apache-2.0
"""Poses at other instants: between two known ones, and a little after one by its velocity."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.geometry.poses import Matrix, inverse, quaternion_from_pose


def _cross_matrix(v: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_vector(pose: Matrix) -> NDArray[np.float64]:
    """A pose's rotation as axis times angle, (3,) radians, angle in [0, pi]."""
    q = quaternion_from_pose(pose)
    length = float(np.linalg.norm(q[:3]))
    if length < 1e-12:
        return np.zeros(3)
    return q[:3] * (2.0 * np.arctan2(length, q[3]) / length)


def moved(pose: Matrix, linear: ArrayLike, angular: ArrayLike, seconds: float) -> Matrix:
    """A pose some time later, its body moving with constant velocity and turn rate: along an arc.

    The exponential map of SE(3).

    Args:
        pose: (4, 4) world <- body.
        linear: (3,) metres per second in the body frame.
        angular: (3,) radians per second in the body frame.
        seconds: may be negative.
    """
    translation = np.asarray(linear, np.float64) * seconds
    turn = np.asarray(angular, np.float64) * seconds
    angle = float(np.linalg.norm(turn))
    cross = _cross_matrix(turn)
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
    """The constant velocity and turn rate that lead from one pose to another: the inverse of `moved`.

    The logarithm of SE(3).

    Args:
        first: (4, 4) world <- body.
        second: the same body, turned by less than half a turn, `seconds` later.
        seconds: not zero; may be negative.

    Returns:
        Linear (metres per second) and angular (radians per second) velocity in the body frame.
    """
    way = inverse(first) @ second
    turn = rotation_vector(way)
    angle = float(np.linalg.norm(turn))
    cross = _cross_matrix(turn)
    if angle < 1e-4:
        c = 1.0 / 12.0
    else:
        c = 1.0 / angle**2 - (1.0 + np.cos(angle)) / (2.0 * angle * np.sin(angle))
    linear = (np.eye(3) - 0.5 * cross + c * cross @ cross) @ way[:3, 3]
    return linear / seconds, turn / seconds


def between(first: Matrix, second: Matrix, share: float) -> Matrix:
    """The pose on the way from one to another: straight, turning about one axis at a constant rate.

    Args:
        first: (4, 4), given at share 0.
        second: (4, 4), given at share 1.
        share: of the way, in [0, 1].
    """
    turn = rotation_vector(inverse(first) @ second)
    result = moved(first, np.zeros(3), turn, share)
    result[:3, 3] = (1.0 - share) * first[:3, 3] + share * second[:3, 3]
    return result
