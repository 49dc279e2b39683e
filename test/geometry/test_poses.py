# SPDX-License-Identifier: Apache-2.0
"""Poses against turns about single axes, and quaternions against Hamilton's product."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffkd_ros.geometry.poses import (
    PoseError,
    euler_from_pose,
    inverse,
    pose_from_euler,
    pose_from_quaternion,
    quaternion_from_pose,
    transform_points,
    yaw_of,
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


def hamilton(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Product of two quaternions in the order x, y, z, w."""
    vector = p[3] * q[:3] + q[3] * p[:3] + np.cross(p[:3], q[:3])
    return np.append(vector, p[3] * q[3] - p[:3] @ q[:3])


def half_turn(axis: int, angle: float) -> np.ndarray:
    """Quaternion of a rotation about one axis."""
    quaternion = np.zeros(4)
    quaternion[axis], quaternion[3] = np.sin(angle / 2), np.cos(angle / 2)
    return quaternion


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


@given(angles, angles, angles)
@example(np.pi, 0.0, 0.0)
@example(0.0, np.pi, np.pi)
def test_quaternions_compose_like_poses(roll: float, pitch: float, yaw: float) -> None:
    pose = pose_from_euler((1.0, 2.0, 3.0), roll, pitch, yaw)
    composed = hamilton(hamilton(half_turn(2, yaw), half_turn(1, pitch)), half_turn(0, roll))
    np.testing.assert_allclose(pose_from_quaternion((1.0, 2.0, 3.0), composed), pose, atol=1e-12)
    quaternion = quaternion_from_pose(pose)
    assert quaternion[3] >= 0.0
    # A rotation has two quaternions, of opposite signs.
    assert abs(quaternion @ composed) == pytest.approx(1.0, abs=1e-12)


def test_a_quarter_turn_left_in_ros_order() -> None:
    pose = pose_from_quaternion((5.0, 0.0, 1.0), (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)))
    ahead = transform_points(pose, np.array([[2.0, 0.0, 0.0]]))
    np.testing.assert_allclose(ahead, [[5.0, 2.0, 1.0]], atol=1e-12)
    assert yaw_of(pose) == pytest.approx(np.pi / 2)


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


@pytest.mark.parametrize(
    ('xyz', 'xyzw'),
    [
        ((0, 0, 0), (0, 0, 0, 0)),
        ((0, 0, 0), (0, 0, 0, 1.2)),
        ((0, np.nan, 0), (0, 0, 0, 1)),
        ((0, 0, 0), (0, 0, np.inf, 1)),
        ((0, 0), (0, 0, 0, 1)),
        ((0, 0, 0), (0, 0, 1)),
    ],
)
def test_what_is_no_pose_is_refused(xyz: tuple, xyzw: tuple) -> None:
    with pytest.raises(PoseError, match='translation'):
        pose_from_quaternion(xyz, xyzw)


@pytest.mark.parametrize('values', [((0, 0, np.nan), 0, 0, 0), ((0, 0, 0), np.inf, 0, 0), ((0, 0), 0, 0, 0)])
def test_euler_angles_that_are_no_pose_are_refused(values: tuple) -> None:
    with pytest.raises(PoseError, match='not a rigid transform'):
        pose_from_euler(*values)
