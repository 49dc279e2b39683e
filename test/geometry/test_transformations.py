# SPDX-License-Identifier: Apache-2.0
"""Poses against transforms3d and, where ROS has it, tf_transformations, which wraps it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from diffkd_ros.geometry.poses import (
    euler_from_pose,
    pose_from_euler,
    pose_from_quaternion,
    quaternion_from_pose,
)


def rotations():
    rng = np.random.default_rng(8)
    return [(*rng.uniform(-1.5, 1.5, 2), rng.uniform(-np.pi, np.pi)) for _ in range(50)]


@pytest.mark.parametrize('library', ['transforms3d', 'tf_transformations'])
def test_rotations_agree(library):
    if library == 'tf_transformations':
        tf = pytest.importorskip(library, reason='tf_transformations is not installed')
        matrix_of, angles_of = tf.euler_matrix, tf.euler_from_matrix
        quaternion_of, matrix_of_quaternion = tf.quaternion_from_matrix, tf.quaternion_matrix
    else:
        euler, quaternions = (
            importlib.import_module(f'transforms3d.{part}') for part in ('euler', 'quaternions')
        )
        matrix_of, angles_of = euler.euler2mat, euler.mat2euler

        def quaternion_of(matrix):
            return np.roll(quaternions.mat2quat(matrix[:3, :3]), -1)

        def matrix_of_quaternion(xyzw):
            return quaternions.quat2mat(np.roll(xyzw, 1))

    for angles in rotations():
        pose = pose_from_euler((1.0, 2.0, 3.0), *angles)
        np.testing.assert_allclose(pose[:3, :3], np.asarray(matrix_of(*angles))[:3, :3], atol=1e-12)
        np.testing.assert_allclose(euler_from_pose(pose), angles_of(pose), atol=1e-9)
        ours, theirs = quaternion_from_pose(pose), np.asarray(quaternion_of(pose))
        # Both signs are the same rotation.
        np.testing.assert_allclose(ours, theirs * np.sign(theirs[3]), atol=1e-9)
        again = pose_from_quaternion((0, 0, 0), ours)[:3, :3]
        np.testing.assert_allclose(again, np.asarray(matrix_of_quaternion(ours))[:3, :3], atol=1e-9)
