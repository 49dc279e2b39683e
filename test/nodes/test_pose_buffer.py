# SPDX-License-Identifier: Apache-2.0
"""Poses at a sweep's stamp, in a node and in a recording, and poses read from messages and from TF."""

from __future__ import annotations

import threading
import types

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from patience import PATIENCE
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time

from diffkd_ros.bags.writer import BagWriter
from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.motion import moved
from diffkd_ros.geometry.poses import pose_from_euler, yaw_of
from diffkd_ros.messages.building import (
    cloud_message,
    header_message,
    odometry_message,
    pose_message,
    transform_message,
)
from diffkd_ros.messages.poses import covariance_of, pose_of_odometry, pose_of_stamped
from diffkd_ros.nodes.input import poses as pose_sources
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError, PoseBuffer
from diffkd_ros.nodes.input.pose_parameters import PoseParameters
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.rosbag import RosbagDataset

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


def test_a_pose_with_the_stamp_is_unchanged(buffer):
    for stamp in (0, S // 10, S // 5):
        buffer.add(odometry(stamp))
    assert (buffer.pose_at(S // 10).pose == pose_of_odometry(odometry(S // 10)).pose).all()


def test_between_two_poses_it_is_interpolated(buffer):
    buffer.add(odometry(0, twist=False))
    buffer.add(odometry(S // 10, twist=False))
    found = buffer.pose_at(S // 25).pose
    # The chord of this arc of 1 m is at most 4 mm off; the nearest pose is 0.4 m away.
    assert np.linalg.norm(found[:3, 3] - arc(S // 25)[:3, 3]) < 0.005
    assert yaw_of(found) == pytest.approx(yaw_of(arc(S // 25)), abs=1e-9)


def test_after_the_newest_it_is_extrapolated_by_its_twist(buffer):
    buffer.add(odometry(0))
    np.testing.assert_allclose(buffer.pose_at(S // 12).pose, arc(S // 12), atol=1e-9)


@pytest.mark.parametrize('at', [S // 5 + S // 12, -S // 12])
def test_without_a_twist_it_is_extrapolated_by_the_two_nearest(at):
    buffer = PoseBuffer(0.1, pose_of_stamped)
    for stamp in (0, S // 10, S // 5):
        buffer.add(stamped(stamp))
    np.testing.assert_allclose(buffer.pose_at(at).pose, arc(at), atol=1e-6)


def test_poses_outside_the_tolerance_are_refused(buffer):
    with pytest.raises(MissingPoseError, match='no odometry received yet'):
        buffer.pose_at(0)
    buffer.add(odometry(0))
    with pytest.raises(MissingPoseError, match=r'0\.200 s from the sweep, pose_tolerance is 0\.100 s'):
        buffer.pose_at(S // 5)


def straight(stamp, *, twist=False):
    """20 m/s along x, from the origin at 1 s."""
    pose = pose_from_euler((20.0 * (stamp / S - 1.0), 0.0, 0.0))
    velocity = np.array([20.0, 0.0, 0.0]) if twist else None
    return odometry_message(header_message(stamp, 'map'), 'lidar', pose, velocity)


def invalid(stamp):
    message = straight(stamp)
    message.pose.pose.orientation.w = 0.0
    return message


MS = S // 1000


@pytest.mark.parametrize(
    ('messages', 'x'),
    [
        ([straight(S), straight(S + 100 * MS)], 2.8),
        ([straight(S + 180 * MS), straight(S + 280 * MS)], 2.8),
        ([straight(S + 120 * MS), straight(S + 160 * MS)], 2.8),
        ([straight(S + 140 * MS), straight(S + 141 * MS)], 2.8),
        # Nothing gives a velocity.
        ([straight(S + 100 * MS)], 2.0),
        ([straight(S - 1000 * MS), straight(S + 100 * MS)], 2.0),
        # A pose that is not needed may be invalid.
        ([invalid(S), straight(S + 100 * MS, twist=True)], 2.8),
        ([invalid(S), straight(S + 100 * MS)], None),
        ([straight(S + 100 * MS), invalid(S + 160 * MS)], None),
    ],
)
def test_a_pose_at_a_stamp_is_the_same_in_a_node_and_in_a_recording(tmp_path, messages, x):
    stamp = S + 140 * MS
    buffer = PoseBuffer(PoseParameters().pose_tolerance, pose_of_odometry)
    for message in messages:
        buffer.add(message)
    write_recording(tmp_path / 'bag', messages, stamp)
    dataset = RosbagDataset(tmp_path / 'bag')
    if x is None:
        with pytest.raises(MissingPoseError, match='not a rigid transform'):
            buffer.pose_at(stamp)
        with pytest.raises(DatasetError, match='not a rigid transform'):
            dataset[0]
        return
    assert buffer.pose_at(stamp).pose[0, 3] == pytest.approx(x, abs=1e-9)
    assert dataset[0].agents[1].pose[0, 3] == pytest.approx(x, abs=1e-9)
    # A node to which the recording is replayed has the messages it needs.
    replayed = PoseBuffer(PoseParameters().pose_tolerance, pose_of_odometry)
    for data in dataset.recorded(0).odometry[1]:
        replayed.add(deserialize_message(data, Odometry))
    assert (replayed.pose_at(stamp).pose == buffer.pose_at(stamp).pose).all()


def write_recording(path, messages, stamp):
    cloud = cloud_message(header_message(stamp, 'lidar'), np.ones((5, 4), np.float32))
    with BagWriter(path) as bag:
        for message in messages:
            bag.write('/cav_1/odometry', 'nav_msgs/msg/Odometry', stamp, serialize_message(message))
        bag.write('/cav_1/points', 'sensor_msgs/msg/PointCloud2', stamp, serialize_message(cloud))


@pytest.mark.parametrize('off', [30_000_000, -30_000_000, 50_000_000, 50_000_001])
def test_a_recording_has_the_poses_that_a_node_had(tmp_path, off):
    message = odometry(S + off)
    buffer = PoseBuffer(PoseParameters().pose_tolerance, pose_of_odometry)
    buffer.add(message)
    write_recording(tmp_path / 'bag', [message], S)
    try:
        expected = buffer.pose_at(S).pose
    except MissingPoseError:
        with pytest.raises(DatasetError, match='has no frame: no cloud of cav_1 has odometry'):
            RosbagDataset(tmp_path / 'bag')
        return
    (frame,) = RosbagDataset(tmp_path / 'bag')
    np.testing.assert_allclose(frame.agents[1].pose, expected, atol=1e-9)


def test_a_new_run_discards_the_poses_of_the_one_before(buffer):
    buffer.add(odometry(100 * S))
    buffer.add(odometry(0))
    with pytest.raises(MissingPoseError):
        buffer.pose_at(100 * S)
    buffer.add(odometry(S))
    buffer.forget_after(S // 2)
    with pytest.raises(MissingPoseError):
        buffer.pose_at(S)
    assert (buffer.pose_at(0).pose == pose_of_odometry(odometry(0)).pose).all()


def test_it_waits_for_a_pose(buffer):
    timer = threading.Timer(0.2, lambda: buffer.add(odometry(S)))
    timer.start()
    buffer.wait_for(S, timeout=PATIENCE)
    assert (buffer.pose_at(S).pose == pose_of_odometry(odometry(S)).pose).all()
    timer.join()
    buffer.close()
    buffer.wait_for(2 * S, timeout=1e6)  # over at once


def test_an_invalid_covariance_is_unknown():
    good = np.diag([1.0, 2, 3, 4, 5, 6])
    good[0, 1] = good[1, 0] = 0.5
    np.testing.assert_array_equal(covariance_of(good.ravel()), good)
    for spoil in ((0, 0, np.nan), (0, 1, 5.0), (2, 2, -1.0), (2, 2, 1e300)):
        bad = good.copy()
        bad[spoil[:2]] = spoil[2]
        assert not covariance_of(bad.ravel()).any()


def test_a_pose_that_cannot_be_computed_with_is_refused(buffer):
    message = odometry(0)
    message.pose.pose.position.x = 1e300
    buffer.add(message)
    with pytest.raises(MissingPoseError, match='not a rigid transform'):
        buffer.pose_at(0)


@pytest.mark.parametrize('part', ['linear', 'angular'])
def test_a_twist_that_cannot_be_computed_with_is_unknown(buffer, part):
    message = odometry(0)
    getattr(message.twist.twist, part).z = 1e155
    buffer.add(message)
    assert (buffer.pose_at(S // 20).pose == pose_of_odometry(odometry(0)).pose).all()


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
        return transform_message(header_message(time.nanoseconds, target), source, pose)


def test_tf_is_looked_up_again_until_it_answers(monkeypatch):
    tf = StandInTf(answers_after=3)
    monkeypatch.setattr(pose_sources, 'tf2_ros', tf)
    poses = pose_sources.TfPoses(None, 'map', wait=20.0)
    poses.subscribe()
    found = poses.pose_at(S, 'lidar')
    np.testing.assert_allclose(found.pose, arc(S), atol=1e-9)
    assert (found.map_frame, found.linear) == ('map', None)
    assert tf.asked == [('map', 'lidar', Time(nanoseconds=S))] * 4


def test_tf_is_cleared_when_time_jumps_back(monkeypatch):
    tf = StandInTf(answers_after=0)
    monkeypatch.setattr(pose_sources, 'tf2_ros', tf)
    poses = pose_sources.TfPoses(None, 'map', wait=0.0)
    poses.subscribe()
    poses.pose_at(50 * S, 'lidar')
    poses.forget_after(S)
    assert tf.asked == []  # its buffer was cleared


def test_a_missing_transform_is_an_error(monkeypatch):
    monkeypatch.setattr(pose_sources, 'tf2_ros', StandInTf(answers_after=1000))
    poses = pose_sources.TfPoses(None, 'map', wait=0.02)
    poses.subscribe()
    with pytest.raises(MissingPoseError, match='no transform: extrapolation into the future'):
        poses.pose_at(S, 'lidar')


def test_without_tf2_the_error_names_the_other_sources(monkeypatch):
    monkeypatch.setattr(pose_sources, 'tf2_ros', None)
    with pytest.raises(DiffkdError, match='tf2_ros, which is not installed; the other sources are odometry'):
        pose_sources.TfPoses(None, 'map', wait=0.0)
