# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.corruptions import CorruptionError, corrupt_frame
from diffkd_ros.corruptions.lidar import (
    beam_missing,
    cross_sensor,
    electromagnetic_interference,
    incomplete_echo,
)
from diffkd_ros.corruptions.sweeps import elevations, rings_of
from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame

SHARE = {1: 0.25, 2: 0.5, 3: 0.75}


def shuffled(sweep: AgentSweep) -> AgentSweep:
    order = np.random.default_rng(5).permutation(len(sweep.points))
    ring = None if sweep.ring is None else sweep.ring[order]
    return replace(sweep, points=sweep.points[order], ring=ring, time=sweep.time[order])


def without_ring(sweep: AgentSweep) -> AgentSweep:
    return replace(sweep, ring=None)


def numbered(sweep: AgentSweep) -> AgentSweep:
    """The times number the returns."""
    return replace(sweep, time=np.arange(len(sweep.points)))


@pytest.mark.parametrize('severity', [1, 2, 3])
def test_beam_missing_takes_whole_rings(frame, severity):
    before = frame.agents[1].ring
    after = corrupt_frame(frame, 'beam_missing', severity, 0).agents[1].ring
    rings = len(np.unique(before))
    assert len(np.unique(after)) == rings - round(SHARE[severity] * rings)
    assert all((after == ring).sum() == (before == ring).sum() for ring in np.unique(after))


@pytest.mark.parametrize('corrupt', [beam_missing, electromagnetic_interference])
@pytest.mark.parametrize('with_ring', [True, False])
def test_the_order_of_the_points_does_not_matter(sweep, corrupt, with_ring):
    sweep = numbered(sweep if with_ring else without_ring(sweep))
    ordered = corrupt(sweep, np.random.default_rng(0), share=0.5)
    unordered = corrupt(shuffled(sweep), np.random.default_rng(0), share=0.5)
    assert set(ordered.time) == set(unordered.time)


def test_rings_found_by_elevation_are_those_of_the_sensor(sweep):
    known, guessed = rings_of(sweep), rings_of(without_ring(sweep))
    assert known.count == guessed.count == 32
    np.testing.assert_array_equal(known.index, guessed.index)


def test_a_ring_column_of_one_value_is_ignored(sweep):
    blank = replace(sweep, ring=np.zeros(len(sweep.points)))
    np.testing.assert_array_equal(rings_of(blank).index, rings_of(without_ring(sweep)).index)


def test_a_cloud_without_bands_is_cut_into_quantiles_of_the_elevation():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.normal(size=(20000, 3)), np.full(20000, 0.5)]).astype(np.float32)
    rings = rings_of(AgentSweep(points, np.eye(4)))
    sizes = np.bincount(rings.index)
    assert rings.count == len(sizes) == 64
    assert sizes.min() > 290
    assert sizes.max() < 330
    order = np.argsort(elevations(points))
    assert (np.diff(rings.index[order]) >= 0).all()


def test_interference_keeps_evenly_spaced_rings_and_every_second_return(road):
    after = electromagnetic_interference(road, np.random.default_rng(3), share=0.5)
    rings, counts = np.unique(after.ring, return_counts=True)
    assert len(rings) == 32
    assert (np.diff(rings) == 2).all()
    assert (counts == 450).all()
    for ring in rings:
        columns = after.time[after.ring == ring].astype(int) % 900
        assert (np.diff(np.sort(columns)) == 2).all()


def test_crosstalk_touches_one_per_cent(frame):
    before, after = (
        frame.agents[1].points,
        corrupt_frame(frame, 'crosstalk', 1, 0, profile='lab').agents[1].points,
    )
    touched = (before != after).any(axis=1)
    assert touched.sum() == round(0.01 * len(before))
    shift = (after - before)[touched, :3]
    # The mean of n squared standard normals has a standard deviation of sqrt(2 / n).
    assert (shift**2).mean() / 3.0**2 == pytest.approx(1.0, abs=4 * np.sqrt(2 / shift.size))


def test_the_lab_profiles_blur_has_its_sigma_in_every_column(road):
    frame = CoopFrame({1: road}, 1, 0)
    after = corrupt_frame(frame, 'motion_blur', 1, 0, profile='lab').agents[1].points
    shift = after - road.points
    np.testing.assert_allclose(shift[:, :3].std(axis=0), 0.2, rtol=0.02)
    np.testing.assert_allclose(shift[:, :3].mean(axis=0), 0.0, atol=0.005)
    safe = road.points[:, 3] > 0  # cut to [0, 1], so look where the cut is symmetric
    middle = np.abs(shift[safe, 3])[np.abs(road.points[safe, 3] - 0.25) < 0.05]
    assert np.median(middle) == pytest.approx(0.6745 * 0.2, rel=0.05)


@pytest.mark.parametrize(('severity', 'sigma'), [(1, 0.2), (2, 0.25), (3, 0.3)])
def test_the_graded_blur_shifts_the_sweep_and_a_tenth_of_that_each_return(road, severity, sigma):
    road = road[np.arange(len(road.points)) % 10 == 0]
    shifts = [
        corrupt_frame(CoopFrame({1: road}, 1, 0), 'motion_blur', severity, seed).agents[1].points
        - road.points
        for seed in range(150)
    ]
    common = np.array([shift.mean(axis=0) for shift in shifts])
    assert common[:, :2].std() == pytest.approx(sigma, rel=0.15)
    np.testing.assert_allclose(
        shifts[0][:, :3].std(axis=0), [0.1 * sigma, 0.1 * sigma, 0.05 * sigma], rtol=0.05
    )
    assert np.abs(common[:, 2]).max() < 0.002
    np.testing.assert_array_equal(shifts[0][:, 3], 0.0)


def test_the_lab_profiles_echo_drops_nine_tenths_of_the_returns_above_the_sensor(frame):
    for agent, after in corrupt_frame(frame, 'incomplete_echo', 1, 0, profile='lab').agents.items():
        before = frame.agents[agent].points[:, 2]
        above = (before > 0.001).sum()
        assert above > 100
        assert (after.points[:, 2] > 0.001).sum() == above - round(0.9 * above)
        assert (after.points[:, 2] <= 0.001).sum() == (before <= 0.001).sum()


@pytest.mark.parametrize(('severity', 'share'), [(1, 0.75), (2, 0.85), (3, 0.95)])
def test_the_graded_echo_drops_its_share_of_returns_on_objects(severity, share):
    rng = np.random.default_rng(0)
    # A cube of returns around each of two cars, turned and seen from a sensor turned itself, and a wall.
    on_car = np.column_stack([rng.uniform(-1, 1, (400, 3)) * [2.0, 0.9, 0.7], np.full(400, 0.5)])
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    second = on_car.copy()
    second[:, :3] = on_car[:, :3] @ turn.T + [3.0, 20.0, 0.0]
    on_car[:, :3] += [10.0, 0.0, 0.0]
    wall = np.column_stack(
        [rng.uniform(-30, 30, 500), np.full(500, -9.0), rng.uniform(-1, 3, 500), np.full(500, 0.5)]
    )
    seen = np.concatenate([on_car, second, wall])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, [100.0, 50.0, 2.0]
    boxes = np.array([[10.0, 0, 0, 4, 1.8, 1.4, 0.0], [3.0, 20.0, 0, 4, 1.8, 1.4, np.pi / 2]])
    in_map = boxes.copy()
    in_map[:, :3] = boxes[:, :3] @ turn.T + pose[:3, 3]
    in_map[:, 6] += np.pi / 2
    # The agent's own box holds nothing and must not matter, though it lies over the wall.
    own = [pose[0, 3] + 9.0, pose[1, 3], pose[2, 3], 60.0, 60.0, 9.0, 0.0]
    truth = Boxes3D(np.vstack([in_map, own]), track_ids=[5, 6, 1])
    frame = CoopFrame({1: AgentSweep(seen, pose, time=np.arange(1300))}, 1, 0, truth)
    left = corrupt_frame(frame, 'incomplete_echo', severity, 0).agents[1].time
    assert (left < 800).sum() == 800 - round(share * 800)
    assert (left >= 800).sum() == 500


def test_the_echos_margin_includes_returns_just_outside_but_none_below():
    box = np.array([[0.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.0]])
    places = [[2.05, 0, 0], [2.15, 0, 0], [0, -1.05, 0], [0, 0, 1.05], [0, 0, 1.15], [0, 0, -1.02]]
    points = np.column_stack([places, np.full(6, 0.5)])
    sweep = AgentSweep(points, np.eye(4), time=np.arange(6))
    after = incomplete_echo(sweep, np.random.default_rng(0), box, share=1.0, reading='inside_objects')
    assert after.time.tolist() == [1, 4, 5]


def test_echo_on_objects_needs_ground_truth_and_says_so(frame):
    unlabelled = replace(frame, ground_truth=None)
    with pytest.raises(CorruptionError, match=r"needs ground truth.*reading='above_sensor'"):
        corrupt_frame(unlabelled, 'incomplete_echo', 1, 0)
    corrupt_frame(unlabelled, 'incomplete_echo', 1, 0, reading='above_sensor')
    with pytest.raises(CorruptionError, match="got 'under'"):
        corrupt_frame(frame, 'incomplete_echo', 1, 0, reading='under')


def test_cross_sensor_has_the_other_sensors_rings_columns_and_range(road):
    after = cross_sensor(
        road, np.random.default_rng(0), beams=8, lowest=-30.0, highest=-2.0, azimuth_step=1.0, max_range=20.0
    )
    at = np.unique(np.round(np.degrees(elevations(after.points)), 2))
    wanted = np.linspace(-30.0, -2.0, 8)
    wanted = wanted[1.93 / np.sin(np.radians(-wanted)) < 20.0]
    assert len(at) == len(wanted)
    assert np.abs(at - wanted).max() <= 38.5 / 63 / 2 + 0.01  # half a spacing of the sensor at hand
    assert np.linalg.norm(after.points[:, :3], axis=1).max() <= 20.0
    for ring in np.unique(after.ring):
        azimuth = np.sort(np.degrees(np.arctan2(*after.points[after.ring == ring, 1::-1].T)))
        assert 358 <= len(azimuth) <= 361
        assert np.median(np.diff(azimuth)) == pytest.approx(1.0, abs=0.21)


def test_cross_sensor_removes_nothing_from_a_coarser_sensor(road):
    same = cross_sensor(
        road,
        np.random.default_rng(0),
        beams=500,
        lowest=-45.0,
        highest=5.0,
        azimuth_step=0.05,
        max_range=200.0,
    )
    assert len(same.points) == len(road.points)


def test_cross_sensor_does_not_depend_on_the_order_of_the_points(sweep):
    layout = {'beams': 16, 'lowest': -15.0, 'highest': 15.0, 'azimuth_step': 0.7, 'max_range': 60.0}
    ordered = cross_sensor(numbered(sweep), np.random.default_rng(0), **layout)
    unordered = cross_sensor(shuffled(numbered(sweep)), np.random.default_rng(0), **layout)
    assert set(ordered.time) == set(unordered.time)
