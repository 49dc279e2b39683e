# SPDX-License-Identifier: Apache-2.0
"""Drawn sensors, intensity laws and motion during a turn, against cases worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.geometry.poses import pose_from_euler, transform_points
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.ground import HALF_EXTENT, HeightField
from diffkd_ros.sources.simulator.intensity import LAWS
from diffkd_ros.sources.simulator.lidar import Scene, scan
from diffkd_ros.sources.simulator.mounting import configured_lidar, draw_lidar
from diffkd_ros.sources.simulator.raycast import Solids, face_planes, round_bounds
from diffkd_ros.sources.simulator.sensors import DRAWN, SENSORS
from diffkd_ros.sources.simulator.shapes import upright_box

IDEAL = LidarConfig(range_noise=0.0, dropout=0.0, dropout_far=0.0, dropout_grazing=0.0, intensity_noise=0.0)
FLAT = HeightField(np.zeros((2, 2), np.float32))


def boxes(corners, owner, reflectivity=0.5, rounds=()):
    corners = np.array(corners, np.float64).reshape(-1, 8, 3)
    rounds = np.array(rounds, np.float64).reshape(-1, 6)
    count = len(corners) + len(rounds)
    return Solids(
        face_planes(corners),
        rounds,
        np.concatenate([corners, round_bounds(rounds)]),
        np.array(owner, np.int64),
        np.full(count, reflectivity, np.float32),
        np.zeros(count, np.float32),
    )


def sensor(name=None, law=None, **changes):
    lidar = configured_lidar(IDEAL, (0.0, 0.0), name, law)
    return replace(lidar, range_noise=0.0, **changes)


def turn(lidar, solids, pose=None, velocity=(0, 0, 0), yaw_rate=0.0, bodies=((0, 0, 0),), ground=FLAT):
    scene = Scene(solids, ground, np.array(bodies, np.float64))
    pose = pose_from_euler([0, 0, 2.0]) if pose is None else pose
    return scan(
        np.random.default_rng(0), lidar, 10.0, pose, np.array(velocity, np.float64), yaw_rate, scene, -2
    )


NOTHING = boxes([], [])


@pytest.mark.parametrize('name', SENSORS)
def test_rings_of_the_catalogue_meet_flat_ground_where_their_elevation_says(name):
    model = SENSORS[name]
    sweep, _ = turn(sensor(name), NOTHING)
    degrees = np.array(model.elevations)
    assert (np.diff(degrees) > 0).all()
    # 2 m above the ground, a ring at -e degrees meets it at 2 m / sin(e).
    reach = np.divide(
        2.0, np.sin(np.radians(-degrees)), out=np.full(len(degrees), np.inf), where=degrees < -1
    )
    expected = {ring: r for ring, r in enumerate(reach) if model.min_range < r < model.max_range[1]}
    ranges = np.linalg.norm(sweep.points[:, :3].astype(np.float64), axis=1)
    for ring, r in expected.items():
        hit = sweep.ring == ring
        assert hit.sum() == model.columns[0]
        # The road is rough: 1 cm standard deviation along the ray.
        assert ranges[hit].mean() == pytest.approx(r, abs=2e-3)
        assert np.abs(ranges[hit] - r).max() < 0.06
    assert 512 <= min(model.columns) <= max(model.columns) <= 2048
    assert 50 <= model.max_range[0] <= model.max_range[1] <= 200


def test_published_rings():
    """Counts, ends and steps as the manufacturers print them."""
    rings = {name: np.array(model.elevations) for name, model in SENSORS.items()}
    assert {name: len(each) for name, each in rings.items()} == {
        'basic32': 32, 'vlp16': 16, 'vlp32c': 32, 'hdl32e': 32, 'hdl64e': 64, 'pandar40': 40, 'pandar64': 64,
        'os1_128': 128, 'carla': 32, 'opv2v': 64,
    }  # fmt: skip
    np.testing.assert_allclose(rings['vlp16'], np.arange(-15, 16, 2))
    assert rings['hdl32e'][[0, 23, -1]] == pytest.approx([-30.67, 0.0, 10.67], abs=0.005)
    assert rings['hdl64e'][[0, 31, 32, 63]] == pytest.approx([-24.33, -8.83, -8.33, 2.0], abs=0.005)
    assert rings['pandar40'][[0, 1, 10, 34, 39]] == pytest.approx([-25, -19, -6, 2, 15])
    assert np.diff(rings['pandar64'])[10:58] == pytest.approx(np.full(48, 1 / 6))
    assert rings['carla'][[0, -1]] == pytest.approx([-30, 10])


def test_two_sensors_are_never_drawn_and_the_others_all_are():
    drawn = [draw_lidar(np.random.default_rng(k), 1.5, None, None) for k in range(300)]
    seen = {
        name
        for name, model in SENSORS.items()
        if any(
            len(lidar.elevations) == len(model.elevations)
            and np.allclose(np.degrees(lidar.elevations), model.elevations)
            for lidar in drawn
        )
    }
    assert set(SENSORS) - seen == {'hdl32e', 'pandar40'} == set(SENSORS) - set(DRAWN)
    heights = np.array([1.5 + lidar.clearance for lidar in drawn])
    assert 1.5 < heights.min() < 1.6
    assert 2.5 < heights.max() <= 2.6
    assert np.mean([lidar.sees_body for lidar in drawn]) == pytest.approx(0.3, abs=0.1)
    assert {lidar.distortion for lidar in drawn} == {'none', 'raw', 'compensated'}
    asked = [draw_lidar(np.random.default_rng(k), 1.5, 'hdl32e', 'carla') for k in range(20)]
    for lidar, same in zip(asked, drawn, strict=False):
        assert len(lidar.elevations) == 32
        assert lidar.law == LAWS['carla']
        # Asking for a sensor changes nothing else that is drawn.
        assert (lidar.clearance, lidar.tilt, lidar.sees_body) == (same.clearance, same.tilt, same.sees_body)


def intensities(law, reflectivity=0.5, distance=20.0):
    wall = boxes([upright_box((distance + 1, 0), 0.0, 2.0, 40.0, (0, 9))], [-1], reflectivity)
    sweep, _ = turn(sensor(None, law), wall)
    ahead = np.abs(np.arctan2(sweep.points[:, 1], sweep.points[:, 0])) < 0.005
    level = np.abs(sweep.points[:, 2]) < 0.5
    wall_only = sweep.points[:, 0] > distance - 0.01
    return sweep.points[ahead & level & wall_only, 3].mean()


def test_intensity_laws():
    physical = 0.5 / (1 + 20**2 / 80**2)  # head-on; halved at 80 m
    assert intensities('physical') == pytest.approx(physical, rel=2e-3)
    assert intensities('gain_0.3') == pytest.approx(0.3 * physical, rel=2e-3)
    assert intensities('gain_3') == 1.0  # saturated: 3 x 0.47
    assert intensities('gain_3', 0.2) == pytest.approx(3 * 0.4 * physical, rel=2e-3)
    assert intensities('reflectivity', 0.3, 40.0) == pytest.approx(0.3, abs=1e-6)
    assert intensities('carla', 0.1, 50.0) == pytest.approx(np.exp(-0.004 * 50), rel=1e-3)
    assert intensities('constant') == 0.5
    assert intensities('zero') == 0.0


def test_8_bit_steps():
    lidar = replace(sensor(None, '8bit'), intensity_noise=0.02)
    wall = boxes([upright_box((9, 0), 0.3, 2.0, 40.0, (0, 9))], [-1])
    stepped, _ = turn(lidar, wall)
    smooth, _ = turn(replace(lidar, law=LAWS['physical']), wall)
    steps = stepped.points[:, 3] * 255
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert np.abs(stepped.points[:, 3] - smooth.points[:, 3]).max() <= 0.5 / 255 + 1e-6
    assert len(np.unique(steps.round())) > 20


def test_a_forced_law_changes_nothing_but_intensity():
    """Also in the world of 0.1, whose scenes stay comparable."""
    for world in ('basic', 'varied'):
        config = SimulatorConfig(world=world, frames_per_scenario=5)
        free, forced = (
            Simulator(config.model_copy(update={'intensity': law}), 3).scenario(1).frame(2)
            for law in (None, 'carla')
        )
        for agent, sweep in free.agents.items():
            other = forced.agents[agent]
            np.testing.assert_array_equal(sweep.points[:, :3], other.points[:, :3])
            assert other.points[:, 3].min() > 0.4


def wall_ahead(distance):
    return boxes([upright_box((distance + 1, 0), 0.0, 2.0, 30.0, (-9, 19))], [0])


def columns_of(sweep, lidar):
    """Time at which each return was fired, relative to the stamp, by its column."""
    return np.round((sweep.time * 10 + lidar.phase) * lidar.columns) / lidar.columns / 10 - lidar.phase / 10


@pytest.mark.parametrize('sensed', ['moving sensor', 'moving wall'])
def test_raw_turn_towards_a_wall(sensed):
    """At 10 m/s each return is nearer by 10 m/s times the time since the stamp than from a standstill."""
    lidar = sensor(phase=0.5, distortion='raw')
    moving = {'velocity': (10, 0, 0)} if sensed == 'moving sensor' else {'bodies': ((-10, 0, 0),)}
    sweep, counts = turn(lidar, wall_ahead(15.0), **moving)
    on_wall = (sweep.points[:, 0] > 12.0) & (sweep.points[:, 2] > -1.5) & (np.abs(sweep.points[:, 1]) < 12)
    assert on_wall.sum() > 3000
    time = columns_of(sweep, lidar)
    assert time.min() == pytest.approx(-0.05, abs=1e-3)
    assert time.max() == pytest.approx(0.05, abs=1e-3)
    np.testing.assert_allclose(sweep.points[on_wall, 0], 15.0 - 10 * time[on_wall], atol=2e-3)
    # The first columns look backwards, so the sides of the wall are seen at +-0.012 s: 12 cm.
    assert np.ptp(sweep.points[on_wall, 0]) > 0.1
    assert counts[0] > on_wall.sum()


def test_compensated_turn_is_a_still_picture_of_a_standing_world():
    """The sensor moves and turns during its turn: only after compensation the wall is a plane."""
    velocity, rate = (8, 3, 0), 0.6
    wall = wall_ahead(15.0)
    error = {}
    for distortion in ('raw', 'compensated'):
        lidar = sensor(phase=0.5, distortion=distortion)
        sweep, _ = turn(lidar, wall, velocity=velocity, yaw_rate=rate)
        near = (np.abs(sweep.points[:, 1]) < 10) & (sweep.points[:, 0] > 12) & (sweep.points[:, 2] > -1.5)
        error[distortion] = np.abs(sweep.points[near, 0] - 15.0).max()
    assert error['compensated'] < 2e-3
    assert error['raw'] > 0.1


def test_the_sensor_turns_during_its_turn():
    """At 0.5 rad/s to the left, the ray t after the stamp looks 0.5 t further left than its azimuth."""
    pole = boxes([], [-1], rounds=[[0.0, 20.0, 2.0, 0.1, 9.0, 1.0]])
    lidar = sensor(phase=0.5, distortion='raw', columns=4096)
    sweep, _ = turn(lidar, pole, yaw_rate=0.5)
    hit = sweep.points[np.abs(np.hypot(sweep.points[:, 0], sweep.points[:, 1]) - 19.9) < 0.15]
    hit = hit[np.abs(hit[:, 2]) < 1.5]
    # It fires to the left (90 degrees) at a quarter of the turn after the stamp, 0.025 s.
    azimuth = np.arctan2(hit[:, 1], hit[:, 0]).mean()
    assert azimuth == pytest.approx(np.pi / 2 - 0.5 * azimuth_time(np.pi / 2), abs=2e-3)
    assert azimuth < np.pi / 2 - 0.01


def azimuth_time(azimuth):
    """Seconds after the stamp at which a turn of 0.1 s with the stamp in its middle looks there."""
    return 0.1 * azimuth / (2 * np.pi)


@pytest.mark.parametrize('pose', [(0.0, 0.0, 0.3), (0.02, -0.03, 2.0), (0.01, 0.3, -1.0)])
def test_returns_lie_on_hilly_ground(pose):
    """On a slope of 5 % with hills, from level and tilted sensors: every return lies on the surface."""
    axis = np.arange(-HALF_EXTENT, HALF_EXTENT + 1)
    heights = 0.05 * axis[None, :] + 0.6 * np.sin(axis / 20)[:, None] + 0.4 * np.cos(axis / 17)[None, :]
    ground = HeightField(heights.astype(np.float32), np.abs(axis[:, None] + 0 * axis) > 10)
    roll, pitch, yaw = pose
    at = pose_from_euler([3, 2, ground.height(3, 2) + 2.2], roll, pitch, yaw)
    sweep, _ = turn(sensor('os1_128', max_range=80.0), NOTHING, pose=at, ground=ground)
    points = transform_points(at, sweep.points.astype(np.float64))
    above = points[:, 2] - ground.at(points[:, 0], points[:, 1])
    ranges = np.linalg.norm(sweep.points[:, :3], axis=1)
    # The ground is rough: 1 cm standard deviation along the ray.
    assert np.abs(above[ranges < 20]).max() < 0.04
    assert np.quantile(np.abs(above), 0.99) < 0.06
    # Uphill the ground is also met by rays above the horizon.
    assert (points[:, 2] > at[2, 3] + 0.5).sum() > 50
    assert ranges.max() > 70
