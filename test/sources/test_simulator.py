# SPDX-License-Identifier: Apache-2.0
"""What a simulated drive promises: the same bytes again, likely traffic, returns that fit their scene."""

import numpy as np
import pytest
from pydantic import ValidationError

from diffkd_ros.errors import DiffkdError
from diffkd_ros.geometry.boxes import count_points, ground_truth_in, transform_boxes
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import euler_from_pose, transform_points, yaw_of
from diffkd_ros.sources.simulator import (
    TRUTH_RANGE,
    LidarConfig,
    Simulator,
    SimulatorConfig,
)

COARSE = LidarConfig(columns=256)
IDEAL = LidarConfig(
    range_noise=0.0, dropout=0.0, dropout_far=0.0, dropout_grazing=0.0, intensity_noise=0.0, mount_tilt=0.0
)


@pytest.fixture(scope='module')
def scenarios():
    """Drives of every layout."""
    return [
        Simulator(SimulatorConfig(lidar=COARSE, layouts={layout: 1.0}), seed=3).scenario(k)
        for layout in ('four_way', 't_junction', 'bend')
        for k in range(4)
    ]


def as_bytes(frame):
    arrays = [frame.ground_truth.boxes, frame.ground_truth.num_points, frame.ground_truth.track_ids]
    for sweep in frame.agents.values():
        arrays += [sweep.points, sweep.ring, sweep.time, sweep.pose, sweep.velocity]
    return [array.tobytes() for array in arrays]


def test_same_seed_same_bytes_in_any_order():
    config = SimulatorConfig(lidar=COARSE, frames_per_scenario=20)
    first, again = (Simulator(config, 5).scenario(4) for _ in range(2))
    in_order = [as_bytes(first.frame(k)) for k in range(20)]
    for k in (17, 3, 3, 0, 19):
        assert as_bytes(again.frame(k)) == in_order[k]


def test_seed_scenario_frame_and_agent_draw_apart():
    config = SimulatorConfig(lidar=COARSE)
    frames = [
        Simulator(config, seed).scenario(scenario).frame(k)
        for seed, scenario, k in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))
    ]
    assert len({as_bytes(frame)[4] for frame in frames}) == 4
    # Noise itself differs from sweep to sweep, not the scene alone: the azimuths' jitter shows it.
    jitter = {
        round(float(np.arctan2(s.points[0, 1], s.points[0, 0]) % (2 * np.pi / 256)), 6)
        for frame in frames
        for s in frame.agents.values()
    }
    assert len(jitter) == 12


def test_no_two_vehicles_ever_overlap(scenarios):
    for scenario in scenarios:
        sizes = np.array([vehicle.size for vehicle in scenario.vehicles])
        for motion in scenario.motion[::3]:
            boxes = np.column_stack([motion[:, :2], np.zeros(len(sizes)), sizes, motion[:, 2]])
            iou = bev_iou(boxes, boxes)
            np.fill_diagonal(iou, 0)
            assert iou.max() == 0


def test_traffic_moves_as_vehicles_do(scenarios):
    """No jumps, no sideways motion, no hard manoeuvres; somebody drives, somebody waits, somebody turns."""
    step = 0.1
    turned = waited = driven = 0
    for scenario in scenarios:
        xy, yaw = scenario.motion[..., :2], np.unwrap(scenario.motion[..., 2], axis=0)
        moved = np.diff(xy, axis=0)
        middle = (yaw[1:] + yaw[:-1]) / 2
        along = moved[..., 0] * np.cos(middle) + moved[..., 1] * np.sin(middle)
        across = moved[..., 1] * np.cos(middle) - moved[..., 0] * np.sin(middle)
        assert along.min() > -1e-3
        assert along.max() < 15.0 * step
        assert np.abs(across).max() < 0.05
        assert np.abs(along / step - scenario.speed[1:]).max() < 0.7
        assert np.abs(np.diff(scenario.speed, axis=0)).max() / step < 8.0
        assert np.abs(np.diff(yaw, axis=0)).max() / step < 1.0
        standing = scenario.speed.max(axis=0) < 0.1
        turned += (np.abs(yaw[-1] - yaw[0]) > 1.0).sum()
        waited += standing.sum()
        driven += (scenario.speed.min(axis=0) > 3.0).sum()
    assert min(turned, waited, driven) > 5


def test_agents_stay_in_range_and_are_numbered(scenarios):
    for scenario in scenarios:
        assert 20 <= len(scenario.vehicles) <= 60
        for k in range(0, len(scenario), 33):
            frame = scenario.frame(k)
            assert list(frame.agents) == [1, 2, 3]
            assert frame.ego == 1
            assert frame.stamp == k * 100_000_000
            ego = frame.agents[1].pose[:2, 3]
            for agent in frame.neighbours:
                assert np.hypot(*(frame.agents[agent].pose[:2, 3] - ego)) < 70.0


def test_ground_truth_is_every_vehicle_near_an_agent(scenarios):
    scenario = scenarios[0]
    frame = scenario.frame(50)
    truth = frame.ground_truth
    agents = np.array([sweep.pose[:2, 3] for sweep in frame.agents.values()])
    distance = np.hypot(*(scenario.motion[50][:, None, :2] - agents).transpose(2, 0, 1)).min(axis=1)
    clear = (
        np.abs(distance - TRUTH_RANGE) > 0.5
    )  # a sensor leans a little to the side of its vehicle's middle
    expected = np.flatnonzero(clear & (distance < TRUTH_RANGE)) + 1
    assert set(expected) <= set(truth.track_ids)
    assert not set(np.flatnonzero(clear & (distance > TRUTH_RANGE)) + 1) & set(truth.track_ids)
    assert {1, 2, 3} <= set(truth.track_ids)
    assert (truth.labels == 0).all()


def test_counts_are_the_returns_in_the_boxes():
    """Without noise every return on a vehicle lies within its box, and nothing else does."""
    for index in range(3):
        frame = Simulator(SimulatorConfig(lidar=IDEAL), seed=9).scenario(index).frame(40)
        truth = frame.ground_truth
        swollen = truth.boxes + np.array([0, 0, 0, 0.002, 0.002, 0.002, 0])
        counted = np.zeros(len(truth), np.int64)
        for agent, sweep in frame.agents.items():
            points = transform_points(sweep.pose, sweep.points.astype(np.float64))
            inside = count_points(points, swollen)
            assert inside[truth.track_ids == agent] == 0  # nobody sees itself
            counted += inside
        np.testing.assert_array_equal(counted, truth.num_points)
        assert truth.num_points.max() > 100


def test_returns_look_like_a_lidar():
    lidar = LidarConfig(beams=64, columns=512)
    frame = Simulator(SimulatorConfig(lidar=lidar), seed=4).scenario(0).frame(10)
    for sweep in frame.agents.values():
        distance = np.linalg.norm(sweep.points[:, :3], axis=1)
        assert 1.0 <= distance.min() < 6.0
        assert 80.0 < distance.max() <= 100.01
        assert 0.0 <= sweep.points[:, 3].min() < sweep.points[:, 3].max() <= 1.0
        assert set(np.unique(sweep.ring)) == set(range(64))
        elevation = np.degrees(np.arcsin(sweep.points[:, 2] / distance))
        np.testing.assert_allclose(elevation, -25 + sweep.ring * 35 / 63, atol=1e-3)
        assert (np.diff(sweep.time) >= 0).all()
        assert 0.0 <= sweep.time[0] < sweep.time[-1] < 0.1
        azimuth = np.degrees(np.arctan2(sweep.points[:, 1], sweep.points[:, 0])) % 360
        column = np.round(sweep.time / 0.1 * 512)
        np.testing.assert_allclose(
            np.unwrap(azimuth - azimuth[0] - (column - column[0]) * 360 / 512, period=360), 0, atol=1e-2
        )


def test_noise_and_dropout_have_the_configured_size():
    """Against the ideal sweep of the same scene: fewer returns, ranges spread as asked for."""

    def ranges(lidar):
        sweep = Simulator(SimulatorConfig(lidar=lidar, agents=1), seed=2).scenario(0).frame(0).agents[1]
        key = sweep.ring.astype(np.int64) * 1024 + np.round(sweep.time / 0.1 * 1024).astype(np.int64)
        return dict(zip(key, np.linalg.norm(sweep.points[:, :3], axis=1), strict=True))

    ideal = ranges(IDEAL)
    noisy = ranges(IDEAL.model_copy(update={'range_noise': 1.0}))
    error = np.array([noisy[k] - ideal[k] for k in ideal.keys() & noisy.keys()])
    # The surfaces' own roughness is small beside that, and the median does not mind the trees.
    assert np.median(np.abs(error)) / 0.6745 == pytest.approx(1.0, rel=0.05)
    thinned = ranges(IDEAL.model_copy(update={'dropout': 0.3}))
    assert len(thinned) / len(ideal) == pytest.approx(0.7, abs=0.02)
    assert set(thinned) <= set(ideal)
    assert not ranges(IDEAL.model_copy(update={'dropout': 1.0}))


def test_sensor_stands_on_its_vehicle(scenarios):
    """Above the middle of the vehicle's roof, looking where it heads; velocity is how the sensor moves."""
    for scenario in scenarios[::4]:
        before, frame, after = (scenario.frame(k) for k in (49, 50, 51))
        for agent, sweep in frame.agents.items():
            box = frame.ground_truth.boxes[frame.ground_truth.track_ids == agent]
            clearance = sweep.pose[2, 3] - (box[0, 2] + box[0, 5] / 2)
            assert clearance == pytest.approx(0.12, abs=0.01)
            assert np.hypot(*(sweep.pose[:2, 3] - box[0, :2])) < 0.1
            assert np.cos(yaw_of(sweep.pose) - box[0, 6]) > 1 - 1e-5
            roll, pitch, _ = euler_from_pose(sweep.pose)
            assert max(abs(roll), abs(pitch)) < np.radians(5)
            moved = (after.agents[agent].pose[:2, 3] - before.agents[agent].pose[:2, 3]) / 0.2
            np.testing.assert_allclose(sweep.velocity[:2], moved, atol=0.5)


def test_cooperation_sees_more():
    """Buildings and traffic hide from the ego alone a good part of what all agents together see."""
    simulator = Simulator(SimulatorConfig(), seed=21)
    together = alone = 0
    for index in range(12):
        frame = simulator.scenario(index).frame(50)
        boxes = transform_boxes(frame.agents[1].pose, ground_truth_in(frame, 1).boxes)
        boxes[:, 3:6] += 0.2
        ego = frame.agents[1]
        seen = count_points(transform_points(ego.pose, ego.points), boxes) >= 5
        known = ground_truth_in(frame, 1).num_points >= 5
        together += known.sum()
        alone += (known & seen).sum()
    assert together > 12 * 15
    assert alone < 0.8 * together


@pytest.mark.parametrize('agents', [1, 2, 5])
def test_number_of_agents(agents):
    frame = Simulator(SimulatorConfig(agents=agents, lidar=COARSE), seed=1).scenario(0).frame(99)
    assert len(frame.agents) == agents


def test_long_and_short_drives():
    short = Simulator(SimulatorConfig(frames_per_scenario=1, lidar=COARSE), seed=1).scenario(0)
    assert len(short) == 1
    long = Simulator(SimulatorConfig(frames_per_scenario=300, lidar=COARSE, rate=5.0), seed=1).scenario(0)
    assert long.frame(299).stamp == 59_800_000_000


def test_refusals():
    with pytest.raises(ValidationError, match='extra'):
        SimulatorConfig(agent=3)
    with pytest.raises(ValidationError, match='minimum'):
        SimulatorConfig(vehicles=(50, 40))
    with pytest.raises(ValidationError, match='less than or equal to 5'):
        SimulatorConfig(agents=6)
    with pytest.raises(ValidationError, match='weights'):
        SimulatorConfig(layouts={'bend': 0.0})
    with pytest.raises(ValidationError, match='32'):
        LidarConfig(beams=48)
    with pytest.raises(ValueError, match='-1'):
        Simulator(seed=-1)
    with pytest.raises(ValueError, match='-2'):
        Simulator().scenario(-2)
    scenario = Simulator(SimulatorConfig(frames_per_scenario=5)).scenario(0)
    with pytest.raises(IndexError, match='0 to 4, got 5'):
        scenario.frame(5)
    crowded = SimulatorConfig(
        agents=5, communication_range=20.0, frames_per_scenario=300, rate=2.0, layouts={'bend': 1.0}
    )
    with pytest.raises(DiffkdError, match='5 connected vehicles within 20'):
        Simulator(crowded).scenario(0)
