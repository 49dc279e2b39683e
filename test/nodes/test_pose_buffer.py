# SPDX-License-Identifier: Apache-2.0
"""Poses brought to a sweep's stamp, and messages of localisation turned into poses of the LiDAR."""

from __future__ import annotations

import threading
import types

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.serialization import serialize_message
from rclpy.time import Time

from diffkd_ros.bags.writer import BagWriter
from diffkd_ros.geometry.motion import moved
from diffkd_ros.geometry.poses import pose_from_euler, quaternion_from_pose, yaw_of
from diffkd_ros.messages.cloud_message import cloud_message
from diffkd_ros.messages.conversions import header_message, odometry_message, pose_message
from diffkd_ros.messages.lidar_pose import (
    LidarPose,
    covariance_of,
    mounted,
    pose_of_odometry,
    pose_of_stamped,
)
from diffkd_ros.nodes.base.entry import SetupError
from diffkd_ros.nodes.input import poses as pose_sources
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError, PoseBuffer
from diffkd_ros.nodes.input.pose_parameters import PoseParameters
from diffkd_ros.sources.rosbag import BagError, RosbagDataset

S = 1_000_000_000


def arc(stamp):
    """A vehicle in a curve: 10 m/s, half a turn in 10 s."""
    return moved(pose_from_euler((100.0, -50.0, 2.0), yaw=0.3), (10.0, 0, 0), (0, 0, np.pi / 10), stamp / S)


def odometry(stamp, *, twist=True):
    pose = arc(stamp)
    velocity = pose[:3, :3] @ (10.0, 0.0, 0.0) if twist else None
    message = odometry_message(header_message(stamp, 'map'), 'lidar', pose, velocity)
    message.twist.twist.angular.z = np.pi / 10
    return message


def stamped(stamp):
    message = PoseWithCovarianceStamped(header=header_message(stamp, 'map'))
    message.pose.pose = pose_message(arc(stamp))
    return message


@pytest.fixture
def buffer():
    return PoseBuffer(0.1, pose_of_odometry)


def test_a_pose_of_the_very_stamp_is_taken_as_it_is(buffer):
    for stamp in (0, S // 10, S // 5):
        buffer.add(odometry(stamp))
    assert (buffer.pose_at(S // 10).pose == pose_of_odometry(odometry(S // 10)).pose).all()


def test_between_two_poses_it_is_interpolated(buffer):
    buffer.add(odometry(0, twist=False))
    buffer.add(odometry(S // 10, twist=False))
    found = buffer.pose_at(S // 25).pose
    # On a chord of 1 m of this curve, at most 4 mm beside it; the nearest pose lies 0.4 m away.
    assert np.linalg.norm(found[:3, 3] - arc(S // 25)[:3, 3]) < 0.005
    assert yaw_of(found) == pytest.approx(yaw_of(arc(S // 25)), abs=1e-9)


def test_after_the_newest_it_is_moved_on_by_its_twist(buffer):
    buffer.add(odometry(0))
    np.testing.assert_allclose(buffer.pose_at(S // 12).pose, arc(S // 12), atol=1e-9)


@pytest.mark.parametrize('at', [S // 5 + S // 12, -S // 12])
def test_without_a_twist_it_is_moved_on_as_before(at):
    buffer = PoseBuffer(0.1, pose_of_stamped)
    for stamp in (0, S // 10, S // 5):
        buffer.add(stamped(stamp))
    np.testing.assert_allclose(buffer.pose_at(at).pose, arc(at), atol=1e-6)


def test_what_is_too_far_off_is_refused(buffer):
    with pytest.raises(MissingPoseError, match='no odometry received yet'):
        buffer.pose_at(0)
    buffer.add(odometry(0))
    with pytest.raises(MissingPoseError, match=r'0\.200 s from the sweep, pose_tolerance is 0\.100 s'):
        buffer.pose_at(S // 5)


@pytest.mark.parametrize('off', [30_000_000, -30_000_000, 50_000_000, 50_000_001])
def test_a_recording_has_the_poses_that_a_node_had(tmp_path, off):
    message = odometry(S + off)
    buffer = PoseBuffer(PoseParameters().pose_tolerance, pose_of_odometry)
    buffer.add(message)
    cloud = cloud_message(header_message(S, 'lidar'), np.ones((5, 4), np.float32))
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write('/cav_1/odometry', 'nav_msgs/msg/Odometry', S, serialize_message(message))
        bag.write('/cav_1/points', 'sensor_msgs/msg/PointCloud2', S, serialize_message(cloud))
    try:
        expected = buffer.pose_at(S).pose
    except MissingPoseError:
        with pytest.raises(BagError, match='has no frame: no cloud of cav_1 has odometry'):
            RosbagDataset(tmp_path / 'bag')
        return
    (frame,) = RosbagDataset(tmp_path / 'bag')
    np.testing.assert_allclose(frame.agents[1].pose, expected, atol=1e-9)


def test_a_run_that_starts_anew_voids_the_one_before(buffer):
    buffer.add(odometry(100 * S))
    buffer.add(odometry(0))
    with pytest.raises(MissingPoseError):
        buffer.pose_at(100 * S)
    buffer.add(odometry(S))
    buffer.forget_after(S // 2)
    with pytest.raises(MissingPoseError):
        buffer.pose_at(S)
    assert (buffer.pose_at(0).pose == pose_of_odometry(odometry(0)).pose).all()


def test_it_waits_for_a_pose_that_is_on_its_way(buffer):
    timer = threading.Timer(0.2, lambda: buffer.add(odometry(S)))
    timer.start()
    buffer.wait_for(S, timeout=20.0)
    assert (buffer.pose_at(S).pose == pose_of_odometry(odometry(S)).pose).all()
    timer.join()
    buffer.close()
    buffer.wait_for(2 * S, timeout=1e6)  # over at once


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


def test_a_covariance_that_is_none_counts_as_unknown():
    good = np.diag([1.0, 2, 3, 4, 5, 6])
    good[0, 1] = good[1, 0] = 0.5
    np.testing.assert_array_equal(covariance_of(good.ravel()), good)
    for spoil in ((0, 0, np.nan), (0, 1, 5.0), (2, 2, -1.0)):
        bad = good.copy()
        bad[spoil[:2]] = spoil[2]
        assert not covariance_of(bad.ravel()).any()


def test_a_twist_marked_unknown_is_not_used():
    message = odometry(0)
    assert pose_of_odometry(message).linear is not None
    message.twist.covariance[0] = -1.0
    assert pose_of_odometry(message).linear is None
    assert not pose_of_odometry(message).angular.any()


class StandInTf:
    """The part of tf2_ros that is used, answering late."""

    TransformException = type('TransformException', (Exception,), {})

    def __init__(self, answers_after):
        self.asked, self.answers_after = [], answers_after
        self.Buffer = lambda: self
        self.TransformListener = lambda *_, **__: types.SimpleNamespace(unregister=lambda: None)

    def clear(self):
        self.asked.clear()

    def lookup_transform(self, target, source, time):
        self.asked.append((target, source, time))
        if len(self.asked) <= self.answers_after:
            raise self.TransformException('extrapolation into the future')
        pose = arc(time.nanoseconds)
        message = types.SimpleNamespace
        t = message(**dict(zip('xyz', pose[:3, 3], strict=True)))
        q = message(**dict(zip('xyzw', quaternion_from_pose(pose), strict=True)))
        return message(transform=message(translation=t, rotation=q))


def test_tf_is_asked_again_until_it_knows(monkeypatch):
    tf = StandInTf(answers_after=3)
    monkeypatch.setattr(pose_sources, 'tf2_ros', tf)
    poses = pose_sources.TfPoses(None, 'map', wait=20.0)
    poses.subscribe()
    found = poses.pose_at(S, 'lidar')
    np.testing.assert_allclose(found.pose, arc(S), atol=1e-9)
    assert (found.map_frame, found.linear) == ('map', None)
    assert tf.asked == [('map', 'lidar', Time(nanoseconds=S))] * 4


def test_tf_of_a_time_that_has_jumped_back_is_forgotten(monkeypatch):
    tf = StandInTf(answers_after=0)
    monkeypatch.setattr(pose_sources, 'tf2_ros', tf)
    poses = pose_sources.TfPoses(None, 'map', wait=0.0)
    poses.subscribe()
    poses.pose_at(50 * S, 'lidar')
    poses.forget_after(S)
    assert tf.asked == []  # its buffer was cleared


def test_tf_that_knows_nothing_is_named(monkeypatch):
    monkeypatch.setattr(pose_sources, 'tf2_ros', StandInTf(answers_after=1000))
    poses = pose_sources.TfPoses(None, 'map', wait=0.02)
    poses.subscribe()
    with pytest.raises(MissingPoseError, match='no transform: extrapolation into the future'):
        poses.pose_at(S, 'lidar')


def test_without_tf2_it_says_what_to_use_instead(monkeypatch):
    monkeypatch.setattr(pose_sources, 'tf2_ros', None)
    with pytest.raises(SetupError, match='tf2_ros, which is not installed; the other sources are odometry'):
        pose_sources.TfPoses(None, 'map', wait=0.0)
