# SPDX-License-Identifier: Apache-2.0
"""The pose and motion of a LiDAR on a vehicle, and the poses from which one at another stamp is computed."""

from __future__ import annotations

import numpy as np
import pytest

from diffkd_ros.geometry.lidar_pose import LidarPose, mounted, supporting_stamps
from diffkd_ros.geometry.motion import moved
from diffkd_ros.geometry.poses import pose_from_euler


@pytest.mark.parametrize(
    ('stamp', 'chosen'),
    [
        (20, [20]),
        (24, [20, 30]),
        (26, [30, 20]),
        (25, [20, 30]),
        (33, [30, 20]),
        (7, [10, 20]),
        (36, []),
        (4, []),
    ],
)
def test_poses_around_a_stamp_are_chosen(stamp, chosen):
    assert supporting_stamps([10, 20, 30], stamp, tolerance=5) == chosen


def test_one_pose_or_none():
    assert supporting_stamps([10], 12, tolerance=5) == [10]
    assert supporting_stamps([], 12, tolerance=5) == []


def test_a_mounted_lidar_moves_with_its_vehicle():
    """Against differences: the vehicle's motion over a millisecond, seen at the LiDAR."""
    mount = pose_from_euler((1.5, 0.2, 1.9), 0.05, -0.1, 0.4)
    base = pose_from_euler((10.0, 20.0, 0.5), 0.02, 0.03, 1.0)
    linear, angular = np.array([9.0, 0.5, 0.1]), np.array([0.1, -0.2, 0.6])
    lidar = mounted(LidarPose(base, 'map', linear=linear, angular=angular), mount)
    np.testing.assert_allclose(lidar.pose, base @ mount)
    later = moved(base, linear, angular, 1e-3) @ mount
    step = np.linalg.inv(lidar.pose) @ later
    np.testing.assert_allclose(lidar.linear, step[:3, 3] / 1e-3, atol=0.01)
    np.testing.assert_allclose(lidar.angular[2], step[1, 0] / 1e-3, atol=0.01)


def test_a_mounted_lidar_s_covariance_is_that_of_samples():
    rng = np.random.default_rng(0)
    mount = pose_from_euler((4.0, 0.0, 2.0), yaw=0.3)
    base = pose_from_euler((0.0, 0.0, 0.0), yaw=0.7)
    deviations = np.array([0.1, 0.2, 0.05, 0.002, 0.003, 0.02])
    covariance = mounted(LidarPose(base, 'map', np.diag(deviations**2)), mount).covariance
    moves = []
    for x, y, z, roll, pitch, yaw in rng.normal(0, deviations, (4000, 6)):
        # Small rotations about the map's axes, then the shift.
        moved_base = pose_from_euler((0, 0, 0), roll, pitch, yaw) @ base
        moved_base[:3, 3] += (x, y, z)
        moves.append((moved_base @ mount - base @ mount)[:3, 3])
    np.testing.assert_allclose(np.cov(np.transpose(moves)), covariance[:3, :3], atol=0.004)
