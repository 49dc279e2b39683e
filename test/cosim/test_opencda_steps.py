# SPDX-License-Identifier: Apache-2.0
"""Messages of OpenCDA's adapter become frames, and detections its answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from step_message import step_of

from diffkd_ros.cosim.bodies import Body
from diffkd_ros.cosim.opencda.steps import StepError, read_step, rows_in_carla
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.carla import flip_points, pose_to_carla
from diffkd_ros.geometry.poses import pose_from_euler


def test_a_step_is_read_into_a_right_handed_frame():
    frame = read_step(*step_of(np.array([[1, 2, 3, 0.5]], np.float32)), [1, 2], 1).frame
    assert (frame.stamp, frame.index) == (250_000_000, 5)
    np.testing.assert_allclose(frame.agents[1].points, [[1, -2, 3, 0.5]])
    # In CARLA y and yaw point to the right, in REP-103 to the left.
    np.testing.assert_allclose(frame.agents[1].pose, pose_from_euler((1, -2, 3), yaw=-np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(frame.agents[1].velocity, (1, -2, 0))


@pytest.mark.parametrize(
    'changed',
    [
        {'points': 7},
        {'points': -1},
        {'points': 'many'},
        {'lidar': [0.0] * 5},
        {'lidar': [float('nan')] * 6},
        {'velocity': [1.0]},
        {'body': {'vehicle': [0.0] * 6, 'box': [0.0] * 6, 'extent': [1.0]}},
        {'body': {'vehicle': [0.0] * 6}},
        {'localised': [1.0, 2.0]},
        {'localised': [[1.0, 2.0, 0.0], [1.0, float('inf'), 0.0]]},
        {'rotation': [10.0]},
        {'rotation': [0.0, 0.05]},
        {'rotation': [10.0, float('nan')]},
        {'velocity': [1.0, float('inf'), 0.0]},
        {'reach': float('nan')},
        {'lidar': [1e300, 0.0, 0.0, 0.0, 0.0, 0.0]},
        {'body': {'vehicle': [0.0] * 6, 'box': [0.0] * 6, 'extent': [float('nan'), 1.0, 1.0]}},
        {'reach': 'far'},
        {'agent': 2},
    ],
)
def test_a_damaged_step_is_one_error(changed):
    with pytest.raises(StepError):
        read_step(*step_of(np.zeros((2, 4), np.float32), **changed), [1, 2], 1)


@pytest.mark.parametrize('stamp', [-1.0, 2.0**31, 1e20, float('nan'), float('inf')])
def test_a_stamp_that_no_message_can_carry_is_refused(stamp):
    head, data = step_of(np.zeros((2, 4), np.float32))
    with pytest.raises(StepError):
        read_step(head | {'stamp': stamp}, data, [1, 2], 1)


def test_returns_that_are_not_finite_are_left_out():
    sweep = np.array([[1, 2, 3, 0.5], [np.nan, 0, 0, 0.5], [1, 0, np.inf, 0.5]], np.float32)
    frame = read_step(*step_of(sweep), [1], 1).frame
    np.testing.assert_allclose(frame.agents[1].points, [[1, -2, 3, 0.5]])


def test_detections_go_back_into_carlas_map():
    boxes = Boxes3D(
        np.array([[10.0, 2.0, -1.0, 4.0, 2.0, 1.5, np.pi / 6]]), scores=np.array([0.8], np.float32)
    )
    # The LiDAR stands at (3, 4, 2), heading left.
    (row,) = rows_in_carla(boxes, pose_from_euler((3.0, 4.0, 2.0), yaw=np.pi / 2))
    np.testing.assert_allclose(row, (1.0, -14.0, 1.0, 4.0, 2.0, 1.5, -120.0, 0.8), atol=1e-5)
    assert rows_in_carla(Boxes3D.empty(), np.eye(4)).shape == (0, 8)


def agents_of(**changed):
    """Agents 1 to 3, each with one return, 0, 30 and 60 m along x; `changed`: by agent, like `_2`."""
    agents = [
        {'agent': number, 'points': 1, 'lidar': [30.0 * number - 30.0, 0.0, 2.0, 0.0, 0.0, 0.0]}
        | changed.get(f'_{number}', {})
        for number in (1, 2, 3)
    ]
    head = {'protocol': 2, 'frame': 5, 'stamp': 0.25, 'agents': agents}
    return json.loads(json.dumps(head)), np.full((3, 4), 5.0, np.float32).tobytes()


@pytest.mark.parametrize(
    ('changed', 'heard'),
    [
        ({}, {1, 2, 3}),
        ({'_1': {'reach': 35.0}}, {1, 2}),
        # The neighbours' own range does not matter, but their V2X has to be enabled.
        ({'_1': {'reach': 100.0}, '_2': {'reach': 1.0}, '_3': {'reach': 0.0}}, {1, 2}),
        ({'_1': {'reach': 0.0}}, {1}),
    ],
)
def test_opencdas_communication_range_decides_who_is_heard(changed, heard):
    assert read_step(*agents_of(**changed), [1, 2, 3], 1).frame.agents.keys() == heard


def test_a_lidar_that_does_not_turn_once_per_step_is_refused():
    read_step(*step_of(np.zeros((1, 4), np.float32), rotation=[10.0, 0.1]), [1], 1)
    with pytest.raises(StepError, match=r'180 degrees instead of 360: set rotation_frequency to 20'):
        read_step(*step_of(np.zeros((1, 4), np.float32), rotation=[10.0, 0.05]), [1], 1)


# A vehicle at (10, 20) in CARLA's map, turned 90 degrees to the right, with a LiDAR on its roof.
BODY = {
    'vehicle': [10.0, 20.0, 0.1, 0.0, 90.0, 0.0],
    'box': [0.1, 0.0, 0.75, 0.0, 0.0, 0.0],
    'extent': [2.4, 1.0, 0.75],
}
ON_ROOF = [10.0, 19.5, 2.0, 0.0, 90.0, 0.0]


def test_returns_on_the_own_body_are_removed():
    sweep = np.array(
        [
            [1.0, 0.0, -0.4, 0.5],  # roof
            [2.9, 0.9, -1.0, 0.5],  # bonnet
            [3.2, 0.0, -1.0, 0.5],  # in front of it
            [0.0, 1.2, -1.0, 0.5],  # to the right
            [0.0, 0.0, 0.5, 0.5],  # above
        ],
        np.float32,
    )
    step = read_step(*step_of(sweep, lidar=ON_ROOF, body=BODY), [1], 1)
    np.testing.assert_allclose(step.frame.agents[1].points, flip_points(sweep[2:]))


def test_detections_of_the_own_body_are_left_out():
    step = read_step(*step_of(np.zeros((0, 4), np.float32), lidar=ON_ROOF, body=BODY), [1], 1)
    pose = step.frame.agents[1].pose
    local = np.array(
        [
            [0.6, 0.0, -1.2, 4.5, 1.9, 1.5, 0.1],  # the vehicle itself
            [2.2, 0.7, -1.2, 4.5, 1.9, 1.5, 0.0],  # itself, badly placed
            [0.6, 0.0, -1.2, 12.0, 2.5, 3.0, 0.0],  # itself, taken for a bus
            [5.6, 0.0, -1.2, 4.8, 1.9, 1.5, 0.0],  # bumper to bumper ahead
            [-4.4, 0.0, -1.2, 4.8, 1.9, 1.5, 0.0],  # the same behind
            [0.6, 2.1, -1.2, 4.8, 1.9, 1.5, 0.0],  # at its side
        ]
    )
    boxes = Boxes3D(local, scores=np.linspace(0.9, 0.4, 6).astype(np.float32))
    assert rows_in_carla(boxes, pose, step.ego_body)[:, 7] == pytest.approx([0.6, 0.5, 0.4])
    assert len(rows_in_carla(boxes, pose)) == 6


def test_poses_are_those_of_opencdas_localisation():
    """It is wrong by 1 m and 2 degrees; height and tilt are the server's."""
    estimated, actual = [11.0, 20.0, 92.0], [10.0, 20.0, 90.0]
    tilted = [10.0, 19.5, 2.0, 1.0, 90.0, 3.0]
    step = read_step(
        *step_of(np.zeros((0, 4), np.float32), lidar=tilted, body=BODY, localised=[estimated, actual]), [1], 1
    )
    x, y, z, roll, yaw, pitch = pose_to_carla(step.frame.agents[1].pose)
    # The LiDAR is 0.5 m behind the vehicle's origin along the estimated heading.
    heading = np.radians(92.0)
    assert (x, y) == pytest.approx((11.0 - 0.5 * np.cos(heading), 20.0 - 0.5 * np.sin(heading)))
    assert (z, roll, yaw, pitch) == pytest.approx((2.0, 1.0, 92.0, 3.0))
    x, y, *_ = pose_to_carla(step.ego_body.pose)
    assert (x, y) == pytest.approx((11.0 + 0.1 * np.cos(heading), 20.0 + 0.1 * np.sin(heading)))


def test_the_body_is_tilted_like_the_vehicle():
    body = Body(pose_from_euler((5.0, 0.0, 1.0), pitch=0.2), np.array([4.8, 2.0, 1.5]))
    # On the bonnet, in the frame of the body; the second one is where a level body would have it.
    points = np.array([[2.0, 0.0, 0.7, 0.5]], np.float32)
    assert len(body.outside(points, body.pose)) == 0
    assert len(body.outside(points + np.float32([5.0, 0.0, 1.0, 0.0]), np.eye(4))) == 1
