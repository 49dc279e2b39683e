# SPDX-License-Identifier: Apache-2.0
"""Interpolated and extrapolated poses, against hand-made cases and SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from diffkd_ros.geometry.motion import between, moved, rotation_vector, twist_between
from diffkd_ros.geometry.poses import pose_from_euler, yaw_of


def random_poses(count, seed=3):
    rng = np.random.default_rng(seed)
    return [
        pose_from_euler(rng.normal(0, 300, 3), *rng.uniform(-1.4, 1.4, 2), rng.uniform(-np.pi, np.pi))
        for _ in range(count)
    ]


def test_straight_on():
    pose = pose_from_euler((10.0, 5.0, 1.0), yaw=np.pi / 2)
    later = moved(pose, (8.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.5)
    np.testing.assert_allclose(later[:3, 3], (10.0, 9.0, 1.0), atol=1e-12)
    np.testing.assert_allclose(later[:3, :3], pose[:3, :3])


def test_a_quarter_circle_to_the_left():
    # 10 m/s at 1 rad/s turns on a radius of 10 m: a quarter of it ends 10 m ahead and 10 m to the left.
    later = moved(np.eye(4), (10.0, 0.0, 0.0), (0.0, 0.0, 1.0), np.pi / 2)
    np.testing.assert_allclose(later[:3, 3], (10.0, 10.0, 0.0), atol=1e-9)
    assert yaw_of(later) == pytest.approx(np.pi / 2)


def test_back_again():
    for pose in random_poses(20):
        there = moved(pose, (3.0, -1.0, 0.2), (0.1, -0.2, 0.7), 0.3)
        np.testing.assert_allclose(moved(there, (3.0, -1.0, 0.2), (0.1, -0.2, 0.7), -0.3), pose, atol=1e-9)


def test_the_twist_between_two_poses_leads_from_one_to_the_other():
    poses = random_poses(20)
    for angular in ((0.1, -0.2, 0.7), (0.0, 0.0, 0.0), (0.0, 0.0, 1e-6), (2.0, -1.0, 4.0)):
        for pose in poses:
            for seconds in (0.5, -0.1):
                found = twist_between(pose, moved(pose, (3.0, -1.0, 0.2), angular, seconds), seconds)
                np.testing.assert_allclose(found, ((3.0, -1.0, 0.2), angular), atol=1e-6)


def test_between_agrees_with_scipy():
    rotation = pytest.importorskip('scipy.spatial.transform')
    poses = random_poses(40)
    for first, second in zip(poses[::2], poses[1::2], strict=True):
        pair = rotation.Rotation.from_matrix([first[:3, :3], second[:3, :3]])
        np.testing.assert_allclose(rotation_vector(first), pair[0].as_rotvec(), atol=1e-7)
        for share in (0.0, 0.25, 0.9, 1.0):
            pose = between(first, second, share)
            expected = rotation.Slerp([0.0, 1.0], pair)(share).as_matrix()
            np.testing.assert_allclose(pose[:3, :3], expected, atol=1e-7)
            np.testing.assert_allclose(pose[:3, 3], first[:3, 3] + share * (second - first)[:3, 3], atol=1e-9)


def test_velocity_and_exponential_agree_with_scipy():
    linalg = pytest.importorskip('scipy.linalg')
    for linear, angular in (
        ((5, 1, 0.3), (0.2, -0.4, 1.1)),
        ((5, 1, 0.3), (0, 0, 0)),
        ((1, 2, 3), (0, 0, 1e-8)),
    ):
        twist = np.zeros((4, 4))
        x, y, z = angular
        twist[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
        twist[:3, 3] = linear
        np.testing.assert_allclose(
            moved(np.eye(4), linear, angular, 0.4), linalg.expm(0.4 * twist), atol=1e-9
        )
