# SPDX-License-Identifier: Apache-2.0
"""Conversion between CARLA and REP-103, against CARLA's own matrix written out here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkd_ros.frame import FrameError
from diffkd_ros.geometry.boxes import corners, transform_boxes
from diffkd_ros.geometry.carla import (
    box_from_carla,
    box_to_carla,
    flip_points,
    pose_from_carla,
    pose_to_carla,
)
from diffkd_ros.geometry.poses import PoseError, inverse

degrees = st.floats(-180, 180)
pitches = st.floats(-89.9, 89.9)
metres = st.floats(-5e3, 5e3)


def carla_matrix(x: float, y: float, z: float, roll: float, yaw: float, pitch: float) -> np.ndarray:
    """Map <- sensor in CARLA's left-handed axes, element by element."""
    cy, sy = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    cr, sr = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    cp, sp = np.cos(np.radians(pitch)), np.sin(np.radians(pitch))
    return np.array([
        [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr, x],
        [sy * cp, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr, y],
        [sp, -cp * sr, cp * cr, z],
        [0, 0, 0, 1],
    ])  # fmt: skip


@given(st.tuples(metres, metres, metres, degrees, degrees, degrees))
def test_a_pose_is_the_mirrored_carla_matrix(pose: tuple[float, ...]) -> None:
    mirror = np.diag([1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(pose_from_carla(*pose), mirror @ carla_matrix(*pose) @ mirror, atol=1e-9)


@pytest.mark.parametrize('yaw', [0.0, 30.0, 90.0, -135.0, 180.0])
def test_a_car_on_the_right_has_a_negative_y(yaw: float) -> None:
    """A car 10 m ahead and 3 m to the right of the sensor is at y = -3 in the REP-103 LiDAR frame."""
    lidar = (120.0, -40.0, 1.9, 0.0, yaw, 0.0)
    car = carla_matrix(*lidar) @ [10.0, 3.0, -1.0, 1.0]
    # The car faces 20 degrees to the right of the sensor's heading; CARLA counts clockwise.
    box = box_from_carla(car[:3], (0.0, 0.0, 0.0), (0.0, yaw + 20.0, 0.0), (2.25, 1.0, 0.75))
    seen = transform_boxes(inverse(pose_from_carla(*lidar)), box[None])[0]
    np.testing.assert_allclose(seen, [10.0, -3.0, -1.0, 4.5, 2.0, 1.5, np.radians(-20.0)], atol=1e-9)


@pytest.mark.parametrize('yaw', [0.0, 77.0, -160.0])
def test_points_and_poses_are_mirrored_alike(yaw: float) -> None:
    """Flipping a cloud and then moving it equals moving it in CARLA's axes and then flipping it."""
    lidar = (12.0, 34.0, 2.0, 1.5, yaw, -2.5)
    cloud = np.random.default_rng(0).normal(scale=20.0, size=(50, 4))
    in_carla_map = cloud.copy()
    in_carla_map[:, :3] = cloud[:, :3] @ carla_matrix(*lidar)[:3, :3].T + carla_matrix(*lidar)[:3, 3]
    pose = pose_from_carla(*lidar)
    np.testing.assert_allclose(
        flip_points(cloud)[:, :3] @ pose[:3, :3].T + pose[:3, 3], flip_points(in_carla_map)[:, :3], atol=1e-9
    )


def test_flipping_twice_is_the_identity_and_does_not_change_the_input() -> None:
    cloud = np.array([[1.0, 2.0, 3.0, 0.5]], np.float32)
    once = flip_points(cloud)
    assert once.tolist() == [[1.0, -2.0, 3.0, 0.5]]
    assert once.dtype == np.float32
    assert cloud[0, 1] == 2.0
    assert np.array_equal(flip_points(once), cloud)


@given(st.tuples(metres, metres, metres, degrees, degrees, pitches))
def test_poses_survive_a_round_trip(pose: tuple[float, ...]) -> None:
    back = pose_to_carla(pose_from_carla(*pose))
    np.testing.assert_allclose(carla_matrix(*back), carla_matrix(*pose), atol=1e-8)
    np.testing.assert_allclose(back[:3], pose[:3], atol=1e-9)
    turn = (np.array(back[3:]) - pose[3:] + 180.0) % 360.0 - 180.0
    np.testing.assert_allclose(turn, 0.0, atol=1e-6)


sizes = st.floats(0.1, 20.0)


@given(st.tuples(metres, metres, metres, sizes, sizes, sizes, st.floats(-np.pi, np.pi)))
def test_boxes_survive_a_round_trip(box: tuple[float, ...]) -> None:
    entry = box_to_carla(np.array(box))
    np.testing.assert_allclose(corners([box_from_carla(**entry)]), corners([box]), atol=1e-8)


def test_an_opv2v_entry_by_hand() -> None:
    entry = {'location': [10.0, 4.0, 0.1], 'center': [0.2, -0.1, 0.7], 'angle': [1.0, 90.0, 2.0]}
    box = box_from_carla(**entry, extent=[2.4, 1.0, 0.8])
    np.testing.assert_allclose(box, [10.2, -3.9, 0.8, 4.8, 2.0, 1.6, -np.pi / 2], atol=1e-12)


def test_a_written_entry_stands_on_the_ground() -> None:
    entry = box_to_carla([10.0, -4.0, 0.85, 4.8, 2.0, 1.5, np.pi / 2])
    assert entry['location'] == pytest.approx([10.0, 4.0, 0.1])
    assert entry['center'] == pytest.approx([0.0, 0.0, 0.75])
    assert entry['angle'] == pytest.approx([0.0, -90.0, 0.0])
    assert entry['extent'] == pytest.approx([2.4, 1.0, 0.75])


def test_bad_fields_are_named() -> None:
    good = [0.0, 0.0, 0.0]
    with pytest.raises(FrameError, match='angle must be three finite numbers'):
        box_from_carla(good, good, [0.0, np.nan, 0.0], good)
    with pytest.raises(FrameError, match='extent must be three finite numbers'):
        box_from_carla(good, good, good, [1.0, 2.0])
    with pytest.raises(PoseError, match='yaw nan'):
        pose_from_carla(0.0, 0.0, 0.0, 0.0, float('nan'), 0.0)
    with pytest.raises(FrameError, match='points must be'):
        flip_points(np.zeros(4))
