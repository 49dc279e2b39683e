# SPDX-License-Identifier: Apache-2.0
"""Poses against turns about single axes."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffkd_ros.geometry.poses import (
    PoseError,
    euler_from_pose,
    inverse,
    pose_from_euler,
    transform_points,
)

angles = st.floats(-np.pi, np.pi)
pitches = st.floats(-np.pi / 2, np.pi / 2)
metres = st.floats(-1e4, 1e4)

IN_PLANE_OF = ((1, 2), (2, 0), (0, 1))


def turn(axis: int, angle: float) -> np.ndarray:
    """(3, 3) right-handed rotation about one axis."""
    a, b = IN_PLANE_OF[axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[b, a] = np.sin(angle)
    matrix[a, b] = -np.sin(angle)
    return matrix


@given(angles, angles, angles)
def test_euler_angles_turn_about_the_fixed_x_then_y_then_z(roll: float, pitch: float, yaw: float) -> None:
    pose = pose_from_euler((1.0, 2.0, 3.0), roll, pitch, yaw)
    np.testing.assert_allclose(pose[:3, :3], turn(2, yaw) @ turn(1, pitch) @ turn(0, roll), atol=1e-12)
    assert pose[:, 3].tolist() == [1.0, 2.0, 3.0, 1.0]
    assert pose[3].tolist() == [0.0, 0.0, 0.0, 1.0]


@given(angles, pitches, angles)
@example(0.3, np.pi / 2, -1.2)
@example(-0.4, -np.pi / 2, 2.2)
def test_euler_angles_rebuild_the_pose(roll: float, pitch: float, yaw: float) -> None:
    pose = pose_from_euler((0.0, 0.0, 0.0), roll, pitch, yaw)
    again = pose_from_euler((0.0, 0.0, 0.0), *euler_from_pose(pose))
    np.testing.assert_allclose(again, pose, atol=1e-8)


@given(metres, metres, metres, angles, angles, angles)
def test_inverse_undoes(x: float, y: float, z: float, roll: float, pitch: float, yaw: float) -> None:
    pose = pose_from_euler((x, y, z), roll, pitch, yaw)
    np.testing.assert_allclose(inverse(pose) @ pose, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(inverse(pose), np.linalg.inv(pose), atol=1e-8)


def test_transform_keeps_dtype_and_further_columns() -> None:
    points = np.array([[1.0, 0.0, 0.0, 0.7]], np.float32)
    moved = transform_points(pose_from_euler((0.0, 0.0, 2.0), yaw=np.pi), points)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, [[-1.0, 0.0, 2.0, 0.7]], atol=1e-6)
    assert points[0, 0] == 1.0


@pytest.mark.parametrize('values', [((0, 0, np.nan), 0, 0, 0), ((0, 0, 0), np.inf, 0, 0), ((0, 0), 0, 0, 0)])
def test_euler_angles_that_are_no_pose_are_refused(values: tuple) -> None:
    with pytest.raises(PoseError, match='not a rigid transform'):
        pose_from_euler(*values)
