# SPDX-License-Identifier: Apache-2.0
"""Quaternions and Euler angles, with either library, against turns about axes and Hamilton's product."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from diffkd_ros import messages
from diffkd_ros.geometry.poses import PoseError, euler_from_pose, pose_from_euler, transform_points, yaw_of
from diffkd_ros.messages.building import make_from, pose_message
from diffkd_ros.messages.poses import pose_of, pose_of_transform

RNG = np.random.default_rng(8)
ANGLES = [*RNG.uniform(-np.pi, np.pi, (50, 3)), (0.0, 0.0, 0.0), (np.pi, 0.0, 0.0), (0.0, np.pi, np.pi)]
SIMPLE = make_from({f'geometry_msgs/msg/{name}': SimpleNamespace for name in ('Pose', 'Point', 'Quaternion')})


@pytest.fixture(params=['tf_transformations', 'transforms3d'])
def rotations(request, monkeypatch):
    """The module as it is where tf_transformations is installed, and where it is not."""
    if request.param == 'tf_transformations':
        pytest.importorskip('tf_transformations', reason='tf_transformations is not installed')
    else:
        monkeypatch.setitem(sys.modules, 'tf_transformations', None)
    return SimpleNamespace(**runpy.run_path(messages.rotations.__file__))


def turn(axis, angle):
    """(3, 3) right-handed rotation about one axis."""
    a, b = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[b, a], matrix[a, b] = np.sin(angle), -np.sin(angle)
    return matrix


def hamilton(p, q):
    """Product of two quaternions in the order x, y, z, w."""
    vector = p[3] * q[:3] + q[3] * p[:3] + np.cross(p[:3], q[:3])
    return np.append(vector, p[3] * q[3] - p[:3] @ q[:3])


def about(axis, angle):
    """Quaternion of a rotation about one axis."""
    quaternion = np.zeros(4)
    quaternion[axis], quaternion[3] = np.sin(angle / 2), np.cos(angle / 2)
    return quaternion


def test_both_libraries_give_the_same_rotations(rotations):
    for roll, pitch, yaw in ANGLES:
        expected = np.eye(4)
        expected[:3, :3] = turn(2, yaw) @ turn(1, pitch) @ turn(0, roll)
        composed = hamilton(hamilton(about(2, yaw), about(1, pitch)), about(0, roll))
        np.testing.assert_allclose(rotations.quaternion_matrix(composed), expected, atol=1e-12)
        quaternion = np.array(rotations.quaternion_from_matrix(expected))
        assert quaternion[3] >= 0.0
        # A rotation has two quaternions, of opposite signs.
        assert abs(quaternion @ composed) == pytest.approx(1.0, abs=1e-12)


def test_the_angles_of_training_and_of_messages_are_the_same(rotations):
    """`geometry` needs no ROS and has its own."""
    for roll, pitch, yaw in RNG.uniform(-1.5, 1.5, (50, 3)):
        composed = hamilton(hamilton(about(2, yaw), about(1, pitch)), about(0, roll))
        matrix = rotations.quaternion_matrix(composed)
        np.testing.assert_allclose(pose_from_euler((0, 0, 0), roll, pitch, yaw), matrix, atol=1e-12)
        np.testing.assert_allclose(euler_from_pose(matrix), (roll, pitch, yaw), atol=1e-9)


def message(xyz, xyzw):
    point, quaternion = (SimpleNamespace(**dict(zip('xyzw', v, strict=False))) for v in (xyz, xyzw))
    return SimpleNamespace(position=point, orientation=quaternion, translation=point, rotation=quaternion)


@pytest.mark.parametrize('read', [pose_of, pose_of_transform])
def test_a_quarter_turn_left_in_ros_order(read):
    pose = read(message((5.0, 0.0, 1.0), (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))))
    ahead = transform_points(pose, np.array([[2.0, 0.0, 0.0]]))
    np.testing.assert_allclose(ahead, [[5.0, 2.0, 1.0]], atol=1e-12)
    assert yaw_of(pose) == pytest.approx(np.pi / 2)


def test_a_pose_survives_as_a_message():
    for angles in ANGLES:
        pose = pose_from_euler(RNG.normal(0, 500, 3), *angles)
        np.testing.assert_allclose(pose_of(pose_message(pose, SIMPLE)), pose, atol=1e-12)


@pytest.mark.parametrize(
    ('xyz', 'xyzw'),
    [
        ((0, 0, 0), (0, 0, 0, 0)),
        ((0, 0, 0), (0, 0, 0, 1.2)),
        ((0, np.nan, 0), (0, 0, 0, 1)),
        ((0, 0, 0), (0, 0, np.inf, 1)),
    ],
)
def test_an_invalid_pose_is_refused(xyz, xyzw):
    for read in (pose_of, pose_of_transform):
        with pytest.raises(PoseError, match='translation'):
            read(message(xyz, xyzw))


def test_a_quaternion_that_is_nearly_of_unit_length_is_normalised():
    pose = pose_of(message((0, 0, 0), (0.0, 0.0, 0.0, 1.005)))
    np.testing.assert_array_equal(pose, np.eye(4))
