# SPDX-License-Identifier: Apache-2.0
"""Fog, wet ground and snow. Published anchors: fog thresholds and responses, wet transmission of asphalt."""

import math
from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.corruptions import CorruptionError, corrupt_frame
from diffkd_ros.corruptions.fog import fog, soft_response, threshold_range
from diffkd_ros.corruptions.ground import find_ground
from diffkd_ros.corruptions.snow import Snowfall, snow
from diffkd_ros.corruptions.wet_ground import wet_ground, wet_transmission
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler, transform_points

LAB_FILM = {'film': 0.0015, 'floor': 0.25, 'floor_noise': 0.0, 'least_lost': 0.01}


def ranges(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, :3].astype(np.float64), axis=1)


def lone(sweep: AgentSweep) -> CoopFrame:
    return CoopFrame({1: sweep}, 1, 0)


def ray(reaches: np.ndarray, intensity: float = 0.3) -> AgentSweep:
    """Returns along one slanting ray, numbered by their times."""
    direction = np.array([0.8, 0.599, -0.04])
    points = np.outer(reaches, direction / np.linalg.norm(direction))
    return AgentSweep(
        np.column_stack([points, np.full(len(reaches), intensity)]), np.eye(4), time=np.arange(len(reaches))
    )


@pytest.mark.parametrize(
    ('alpha', 'response', 'thin', 'thick'),
    [
        (0.005, 4.568e-9, 66.8, 33.0),
        (0.01, 4.493e-9, 54.5, 29.3),
        (0.02, 4.347e-9, 41.6, 24.5),
        (0.03, 4.206e-9, 34.5, 21.4),
        (0.06, 3.817e-9, 24.1, 16.2),
    ],
)
def test_fog_has_the_published_response_and_thresholds(alpha, response, thin, thick):
    found, peak = soft_response(alpha)
    assert found == pytest.approx(response, rel=2e-4)
    assert peak == pytest.approx(4.70, abs=0.07)
    assert threshold_range(alpha, 0.008) == pytest.approx(thin, abs=0.05)
    assert threshold_range(alpha, 0.046) == pytest.approx(thick, abs=0.05)


@pytest.mark.parametrize('severity', [1, 2, 3])
def test_fog_moves_no_return_nearer_than_its_threshold(frame, severity):
    threshold = threshold_range(0.02, [0.008, 0.05, 0.2][severity - 1])
    for agent, after in corrupt_frame(frame, 'fog', severity, 0).agents.items():
        before = frame.agents[agent].points
        near, still = ranges(before) < threshold - 1e-3, (before[:, :3] == after.points[:, :3]).all(axis=1)
        assert near.sum() > 1000
        assert still[near].all()
        attenuated = before[near, 3] * np.exp(-2 * 0.02 * ranges(before[near]))
        np.testing.assert_allclose(after.points[near, 3], attenuated, rtol=1e-5, atol=1e-7)
        far = ranges(before) > threshold + 1e-3
        assert far.sum() > 50
        # Where the jitter would put the fog's return behind its target, it stays at the target.
        assert still[far].mean() < 0.03


def test_hidden_returns_move_to_the_fogs_peak_on_the_same_ray():
    reaches = np.linspace(42.0, 120.0, 5000)
    after = fog(ray(reaches), np.random.default_rng(0), alpha=0.02, beta=0.008)
    seen = ranges(after.points)
    np.testing.assert_allclose(
        after.points[:, :3] / seen[:, None], ray(reaches).points[:, :3] / reaches[:, None], atol=1e-6
    )
    peak = soft_response(0.02)[1]
    ratio = peak * reaches / seen - reaches
    assert np.abs(ratio).max() < 10.001
    assert ratio.std() == pytest.approx(20 / math.sqrt(12), rel=0.05)
    expected = np.minimum(0.3 * reaches**2 * 0.008 / (1e-6 / math.pi) * 4.347e-9, 1.0)
    np.testing.assert_allclose(after.points[:, 3], expected, rtol=1e-3)


def test_the_fogs_return_is_never_behind_the_target():
    reaches = np.linspace(9.0, 30.0, 4000)
    after = fog(ray(reaches), np.random.default_rng(0), alpha=0.06, beta=0.3)
    assert (ranges(after.points) <= reaches * (1 + 1e-5)).all()


def test_fog_too_dense_for_a_threshold_is_refused():
    with pytest.raises(CorruptionError, match='hides all beyond'):
        threshold_range(0.06, 10.0)
    with pytest.raises(CorruptionError, match='alpha'):
        threshold_range(-0.1, 0.008)


@pytest.mark.parametrize(('degrees', 'transmission'), [(57.25, 0.0665), (79.08, 0.0424), (84.49, 0.0202)])
def test_wet_asphalt_transmits_as_published(degrees, transmission):
    cos_theta = np.cos(np.radians([degrees]))
    assert wet_transmission(cos_theta, np.array([1 / 15]))[0] == pytest.approx(transmission, abs=6e-5)


def test_returns_of_a_wet_road_are_attenuated_and_lost_beyond_17_metres(road):
    after = wet_ground(road, np.random.default_rng(0), **LAB_FILM)
    left = after.time.astype(int)
    away = np.hypot(road.points[:, 0], road.points[:, 1])
    assert away[left].max() == pytest.approx(17.0, abs=1.0)
    lost = np.delete(np.arange(len(away)), left)
    assert away[lost].min() >= away[left].max() - 0.5
    order = np.argsort(away[left])
    ratio = (after.points[:, 3] / road.points[left, 3])[order]
    published = [1.00, 0.77, 0.46, 0.30]
    np.testing.assert_allclose(
        np.interp([3.0, 5.0, 10.0, 15.0], away[left][order], ratio), published, atol=0.01
    )


def test_wet_ground_does_not_change_the_upper_part_of_cars(frame):
    for agent, after in corrupt_frame(frame, 'wet_ground', 1, 0, profile='lab').agents.items():
        before = frame.agents[agent]
        above = find_ground(before.points).heights(before.points) > 0.5
        upper = set(map(tuple, before.points[above]))
        assert len(upper) > 1000
        assert upper <= set(map(tuple, after.points))
        assert len(after.points) < len(before.points)


def test_deeper_water_leaves_less_of_the_road(frame):
    kept = [len(corrupt_frame(frame, 'wet_ground', severity, 0).agents[1].points) for severity in (1, 2, 3)]
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.parametrize(
    ('roll', 'pitch', 'height'), [(0.0, 0.0, 1.9), (0.08, -0.1, 1.5), (-0.05, 0.15, 5.0)]
)
def test_the_ground_is_found_under_clutter_and_a_tilted_sensor(roll, pitch, height):
    rng = np.random.default_rng(1)
    road = np.column_stack([rng.uniform(-40, 40, (6000, 2)), rng.normal(0, 0.02, 6000)])
    walls = np.column_stack(
        [rng.choice([-15.0, 15.0], 4000), rng.uniform(-40, 40, 4000), rng.uniform(0, 8, 4000)]
    )
    cars = np.column_stack([rng.uniform(-12, 12, (3000, 2)), rng.uniform(0.2, 1.6, 3000)])
    pose = pose_from_euler([0, 0, height], roll, pitch)
    local = transform_points(np.linalg.inv(pose), np.vstack([road, walls, cars]))
    cloud = np.column_stack([local, np.full(len(local), 0.3)]).astype(np.float32)
    plane = find_ground(cloud)
    np.testing.assert_allclose(plane.normal, pose[2, :3], atol=0.004)
    assert plane.height == pytest.approx(height, abs=0.05)
    again = find_ground(cloud[rng.permutation(len(cloud))])
    np.testing.assert_allclose(again.normal, plane.normal, atol=1e-9)
    assert again.height == pytest.approx(plane.height, abs=1e-9)


def no_ground(kind: str, road: AgentSweep) -> AgentSweep:
    rng = np.random.default_rng(0)
    if kind == 'above the sensor only':
        points = np.column_stack(
            [rng.uniform(-30, 30, (5000, 2)), rng.uniform(0, 8, 5000), np.full(5000, 0.3)]
        )
    elif kind == 'a cloud of spray':
        points = np.column_stack(
            [rng.uniform(-40, 40, (20000, 2)), rng.uniform(-9, 9, 20000), np.full(20000, 0.3)]
        )
    elif kind == 'walls':
        points = np.column_stack(
            [
                rng.uniform(-40, 40, 9000),
                rng.choice([-6.0, 6.0], 9000),
                rng.uniform(-9, 9, 9000),
                np.full(9000, 0.3),
            ]
        )
    else:
        points = road.points[::60]
    return AgentSweep(points, np.eye(4))  # fmt: skip


@pytest.mark.parametrize('kind', ['above the sensor only', 'a cloud of spray', 'walls', 'few returns'])
def test_wet_ground_without_ground_is_an_error(road, kind):
    with pytest.raises(CorruptionError, match='no ground found'):
        corrupt_frame(lone(no_ground(kind, road)), 'wet_ground', 1, 0, profile='lab')


def test_wet_ground_without_intensity_or_effect_is_an_error(road):
    dark = replace(road, points=road.points * np.array([1, 1, 1, 0]))
    with pytest.raises(CorruptionError, match='needs intensities'):
        corrupt_frame(lone(dark), 'wet_ground', 1, 0)
    near = road[np.hypot(road.points[:, 0], road.points[:, 1]) < 6.0]
    with pytest.raises(CorruptionError, match='wet_ground lost 0 of'):
        corrupt_frame(lone(near), 'wet_ground', 1, 0, profile='lab')
    corrupt_frame(lone(near), 'wet_ground', 1, 0, profile='lab', least_lost=0.0)


def test_snow_has_its_rate_of_water():
    flakes = Snowfall.of(rate=1.0, speed=1.6)
    diameter = np.linspace(0, 0.05, 400001)
    count = flakes.density * flakes.slope * np.exp(-flakes.slope * diameter)
    mass = 100.0 * math.pi / 6 * diameter**3  # flakes of 100 kg/m^3
    step = diameter[1]
    falling = (count * mass).sum() * step * 1.6
    assert falling * 3600 == pytest.approx(1.0, rel=1e-3)  # 1 kg/m^2 is 1 mm of water
    assert flakes.density == pytest.approx((count[0] / 2 + count[1:].sum()) * step, rel=1e-3)


def test_snow_hides_as_many_targets_as_flakes_drawn_one_by_one_do():
    # An independent simulation: every flake in the beam, and the strongest of all returns decides.
    rate, speed, reach, intensity, beams = 2.5, 1.6, 30.0, 0.2, 3000
    rng = np.random.default_rng(0)
    flakes = Snowfall.of(rate, speed)
    end_width = 0.01 + 0.002 * reach
    volume = math.pi / 4 * end_width**2 * reach
    hidden = 0
    for count in rng.poisson(flakes.density * volume, beams):
        along = rng.uniform(0, reach, count)
        aside = end_width / 2 * np.sqrt(rng.random(count))
        width = 0.01 + 0.002 * along
        inside = (aside < width / 2) & (along > 1.0)
        share = np.minimum(rng.exponential(1 / flakes.slope, count) / width, 1.0) ** 2
        strength = np.where(inside, 0.9 * share / along**2, 0.0)
        target = intensity * math.exp(-2 * flakes.extinction * reach) / reach**2
        hidden += bool((strength > target).any())
    after = snow(ray(np.full(20000, reach), intensity), rng, rate=rate, speed=speed)
    found = (ranges(after.points) < reach - 1e-3).mean()
    assert found == pytest.approx(hidden / beams, abs=4 * math.sqrt(0.25 / beams))


def test_snow_increases_with_severity_and_hides_far_targets_first(frame):
    before = frame.agents[1].points
    reach, shares = ranges(before), []
    for severity in (1, 2, 3):
        after = corrupt_frame(frame, 'snow', severity, 0).agents[1].points
        moved = ranges(after) < reach - 1e-3
        shares.append(moved.mean())
        assert moved[reach > 40].mean() > 2 * moved[reach < 15].mean()
        assert (ranges(after) <= reach * (1 + 1e-5)).all()
        assert ranges(after)[moved].min() >= 0.99
    assert shares[0] < shares[1] < shares[2] < 0.5


def test_a_return_on_the_ground_that_no_sensor_could_measure_is_an_error(road):
    stretched = road.points.copy()
    stretched[-1, 0] = 1e30
    with pytest.raises(CorruptionError, match='1 of 57600 returns are not finite or beyond 100000 m'):
        corrupt_frame(lone(replace(road, points=stretched)), 'wet_ground', 1, 0)
