# SPDX-License-Identifier: Apache-2.0
"""A car whose clouds are best effort and whose localisation gives the poses of its body, late."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from patience import PATIENCE, scaled, until
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import PointCloud2

from diffkd_ros.geometry.poses import inverse, pose_from_euler
from diffkd_ros.launching import graph
from diffkd_ros.messages.building import cloud_message, header_message, odometry_message, pose_message
from diffkd_ros.messages.poses import pose_of
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError
from diffkd_ros.nodes.input.poses import TopicPoses

SECOND = 1_000_000_000
MOUNT = (0.6, 0.1, 1.7, 0.0, 0.02, 0.3)


@pytest.fixture(scope='module')
def car(group, partner, scene, model):
    (spec,) = (s for s in graph.vehicle_specs([1, 2], 1, {'model': str(model)}) if 'vehicle' in s.executable)
    own = {'pose_source': 'pose', 'base_to_lidar': list(MOUNT), 'pose_wait': 1.0}
    process = group.start(replace(spec, parameters={**spec.parameters, **own}))
    group.wait_ready(PATIENCE)
    return process


@pytest.fixture(scope='module')
def publish(car, partner):
    """Publishes a sweep: the cloud at once, the pose later."""
    best_effort = qos.link('best_effort', 1, 0.0)
    clouds = partner.node.create_publisher(PointCloud2, '/cav_2/points', best_effort)
    poses = partner.node.create_publisher(PoseWithCovarianceStamped, '/cav_2/pose', best_effort)

    def publish(stamp, sweep, points):
        clouds.publish(cloud_message(header_message(stamp, 'lidar_top'), points))
        time.sleep(0.2)
        message = PoseWithCovarianceStamped(header=header_message(stamp, 'map'))
        message.pose.pose = pose_message(sweep.pose @ inverse(pose_from_euler(MOUNT[:3], *MOUNT[3:])))
        message.pose.covariance = np.diag([0.04, 0.04, 0.09, 1e-5, 1e-5, 1e-4]).ravel()
        poses.publish(message)

    return publish


def test_best_effort_late_poses_of_the_body_and_bytes_for_intensities(publish, car, partner, scene, stamp):
    sweep = scene.agents[2]
    points = sweep.points[::4].copy()
    points[:, 3] *= 255.0
    at = partner.until_answered('/v2x/features', lambda at: publish(at, sweep, points), start=stamp)
    message = partner.message_at('/v2x/features', at)
    np.testing.assert_allclose(pose_of(message.pose.pose), sweep.pose, atol=1e-9)
    covariance = np.reshape(message.pose.covariance, (6, 6))
    # The uncertain yaw moves the LiDAR by the lever of its mount.
    assert np.linalg.eigvalsh(covariance)[0] > 0
    assert covariance[0, 0] > 0.04
    assert message.twist.covariance[0] == -1.0
    assert 'offers best effort only: subscribing best effort' in car.tail()
    values = {v.key: v.value for v in partner.diagnosis('input', 'points in the last sweep').values}
    assert values['intensity divided by'] == '255'
    assert int(values['points']) == len(points)


def is_known(poses, stamp):
    try:
        return poses.pose_at(stamp, 'lidar') is not None
    except MissingPoseError:
        return False


def test_poses_that_wait_are_taken_in_one_turn_of_the_executor(domain):
    """However long a turn takes, as while the link is flooded, the newest pose is known."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node('poses', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    poses = TopicPoses(node, 'odometry', 0.001, 0.0, 'reliable', (0.0,) * 6)
    poses.subscribe()
    publisher = node.create_publisher(Odometry, 'odometry', qos.ODOMETRY)
    try:
        until(publisher.get_subscription_count, 'the subscription')
        stamps = [SECOND + k * SECOND // 100 for k in range(40)]
        for stamp in stamps:
            publisher.publish(odometry_message(header_message(stamp, 'map'), 'lidar', np.eye(4), None))
        time.sleep(scaled(0.2))
        turns = 0
        while not is_known(poses, stamps[-1]):
            executor.spin_once(timeout_sec=PATIENCE)
            turns += 1
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
    # One, unless this machine is so busy that some arrive later.
    assert turns < 20


def test_a_misplaced_lidar_is_reported(publish, partner, scene, stamp):
    sweep = scene.agents[2]
    points = sweep.points[::4].copy()
    points[:, 3] *= 255.0
    points[:, 2] -= 6.0
    partner.until_answered('/v2x/features', lambda at: publish(at, sweep, points), start=stamp)
    item = partner.diagnosis('input', "of the points lie in the model's grid")
    assert item.level == b'\x01'
    assert 'below z = -3 m' in item.message
