# SPDX-License-Identifier: Apache-2.0
"""A vehicle node in its own process."""

from __future__ import annotations

import numpy as np
import pytest
from patience import PATIENCE
from sensor_msgs.msg import PointField

from diffkd_ros.launching import graph
from diffkd_ros.messages.building import cloud_message, header_message
from diffkd_ros.nodes.link.feature_message import encoded_of
from diffkd_ros.runtime import codec

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def vehicle(group, partner, scene, model):
    _, spec = graph.vehicle_specs([1, 2], 1, {'model': str(model), 'threads': 1})
    process = group.start(spec)
    group.wait_ready(PATIENCE)
    partner.until_answered('/v2x/features', lambda at: partner.sweep('cav_2', at, scene.agents[2]))
    return process


def test_the_feature_is_that_of_the_sweep(vehicle, partner, scene, encoder, card, stamp):
    sweep = scene.agents[2]
    partner.sweep('cav_2', stamp, sweep)
    message = partner.message_at('/v2x/features', stamp)
    assert (message.agent_id, message.model_id, message.map_frame) == ('cav_2', card.model_id, 'map')
    assert message.header.frame_id == 'cav_2/lidar'
    assert tuple(message.grid_range) == pytest.approx(card.grid.range)
    assert len(message.data) <= 400_000
    position = message.pose.pose.position
    np.testing.assert_allclose((position.x, position.y, position.z), sweep.pose[:3, 3])
    speed = message.twist.twist.linear
    # The twist is given in the LiDAR frame, the velocity in the map frame.
    np.testing.assert_allclose((speed.x, speed.y, speed.z), sweep.pose[:3, :3].T @ sweep.velocity, atol=1e-9)
    expected = encoder.encode(sweep.points)
    decoded = codec.decode(encoded_of(message), card.channels, card.grid.height, card.grid.width)
    step = np.abs(expected.feature).max(axis=(1, 2), keepdims=True) / 127
    assert (np.abs(decoded.feature - expected.feature) <= 0.51 * step + 1e-6).all()


def nan_cloud(cloud):
    values = np.frombuffer(cloud.data, np.uint8).copy()
    values.view(np.float32)[:] = np.nan
    cloud.data[:] = type(cloud.data)('B', values.tobytes())
    return 'NaN'


def empty_cloud(cloud):
    cloud.width = cloud.row_step = 0
    del cloud.data[:]
    return 'empty'


def no_intensity(cloud):
    cloud.fields = [f for f in cloud.fields if f.name != 'intensity']
    return 'no field intensity: found x float32@0, y float32@4, z float32@8; accepted:'


def other_name(cloud):
    cloud.fields[3].name = 'remission'
    return 'remission float32@12'


def truncated(cloud):
    del cloud.data[1000:]
    return '1000 bytes of data'


def integer_coordinates(cloud):
    cloud.fields[0].datatype = PointField.INT32
    return 'x is not a floating-point field'


def far_away(cloud):
    values = np.frombuffer(cloud.data, np.uint8).copy()
    values.view(np.float32).reshape(-1, 4)[:, 0] += 1000.0
    cloud.data[:] = type(cloud.data)('B', values.tobytes())
    return 'no usable point'


@pytest.mark.parametrize(
    'spoil', [nan_cloud, empty_cloud, no_intensity, other_name, truncated, integer_coordinates, far_away]
)
def test_an_invalid_cloud_is_refused_and_reported_and_the_next_one_is_sent(
    vehicle, partner, scene, stamp, spoil
):
    sweep = scene.agents[2]
    partner.sweep('cav_2', stamp, sweep)
    before = partner.message_at('/v2x/features', stamp)
    cloud = cloud_message(header_message(stamp + SECOND, 'cav_2/lidar'), sweep.points)
    reason = spoil(cloud)
    partner.publish('/cav_2/points', cloud)
    item = partner.diagnosis('input', reason)
    assert item.level == b'\x02'
    assert int({v.key: v.value for v in item.values}['sweeps refused (cloud)']) >= 1
    partner.sweep('cav_2', stamp + 2 * SECOND, sweep)
    after = partner.message_at('/v2x/features', stamp + 2 * SECOND)
    assert after.sequence == before.sequence + 1
    assert after.data == before.data
    assert partner.diagnosis('input', 'points in the last sweep').level == b'\x00'


def test_a_lidar_that_stops_after_an_invalid_cloud_is_reported_as_silent(vehicle, partner, scene, stamp):
    cloud = cloud_message(header_message(stamp, 'cav_2/lidar'), scene.agents[2].points)
    reason = truncated(cloud)
    partner.publish('/cav_2/points', cloud)
    item = partner.diagnosis('input', 'the last one was refused')
    assert item.level == b'\x03'
    assert item.message.startswith('no cloud on /cav_2/points for')
    assert reason in item.message


@pytest.mark.parametrize('problem', ['missing', 'other frame', 'not finite'])
def test_a_sweep_without_a_valid_pose_is_refused_and_reported(vehicle, partner, scene, stamp, problem):
    from diffkd_ros.messages.building import odometry_message

    sweep = scene.agents[2]
    partner.sweep('cav_2', stamp, sweep)
    partner.message_at('/v2x/features', stamp)
    pose = sweep.pose.copy()
    frame_id, at, reason = 'cav_2/lidar', stamp + SECOND, 'odometry is not a rigid transform'
    if problem == 'missing':
        at, reason = stamp, 'the nearest odometry is 1.000 s from the sweep'
    elif problem == 'other frame':
        frame_id, reason = 'base_link', "odometry gives the pose of 'base_link'"
    odometry = odometry_message(header_message(at, 'map'), frame_id, pose, None)
    if problem == 'not finite':
        odometry.pose.pose.position.z = float('nan')
    partner.publish('/cav_2/odometry', odometry)
    cloud = cloud_message(header_message(stamp + SECOND, 'cav_2/lidar'), sweep.points)
    partner.publish('/cav_2/points', cloud)
    item = partner.diagnosis('input', reason)
    assert int({v.key: v.value for v in item.values}['sweeps refused (pose)']) >= 1
    partner.sweep('cav_2', stamp + 2 * SECOND, sweep)
    partner.message_at('/v2x/features', stamp + 2 * SECOND)
