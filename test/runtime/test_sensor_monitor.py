# SPDX-License-Identifier: Apache-2.0
"""Faults of a vehicle's own LiDAR in simulated drives."""

from __future__ import annotations

import numpy as np
import pytest

from diffkd_ros.geometry.poses import pose_from_euler, transform_points
from diffkd_ros.runtime.sensor.monitor import Fault, SensorMonitor
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

BEGINS = 20
PERIOD = 100_000_000


@pytest.fixture(scope='module')
def simulator():
    return Simulator(SimulatorConfig(agents=1), seed=301)


def sweeps_of(scenario, count):
    frames = (scenario.frame(k) for k in range(count))
    return [(frame.agents[1].points, frame.agents[1].pose) for frame in frames]


@pytest.fixture(scope='module')
def moving(simulator):
    """A drive at 5 to 8 m/s."""
    sweeps = sweeps_of(simulator.scenario(1), 70)
    assert np.linalg.norm(sweeps[-1][1][:2, 3] - sweeps[0][1][:2, 3]) > 30
    return sweeps


@pytest.fixture(scope='module')
def standing(simulator):
    sweeps = sweeps_of(simulator.scenario(2), 60)
    assert np.linalg.norm(sweeps[-1][1][:2, 3] - sweeps[0][1][:2, 3]) < 0.5
    return sweeps


def watch(sweeps, monitor=None, start=0):
    """The faults after each sweep."""
    monitor = monitor or SensorMonitor()
    found = []
    for k, (points, pose) in enumerate(sweeps, start):
        monitor.examine(points, pose, 'map', k * PERIOD)
        found.append(set(monitor.faults))
    return found


def rest_of(found, ends):
    """The faults from two seconds after one has ended."""
    rest = found[ends + 19 :]
    assert rest
    return rest


def turned(points, degrees):
    return transform_points(pose_from_euler([0, 0, 0], yaw=np.radians(degrees)), points)


def thinned(points):
    return points[np.random.default_rng(len(points)).random(len(points)) < 0.1]


def scattered(points):
    noise = np.random.default_rng(len(points)).normal(0, 0.15, points.shape)
    return (points + noise * [1, 1, 1, 0]).astype(np.float32)


FAULTS = {
    Fault.TURNED: lambda points: turned(points, 5),
    Fault.MISSING: lambda points: points[points[:, 1] > 0],
    Fault.SPARSE: thinned,
    Fault.SCATTERED: scattered,
}


@pytest.mark.parametrize('drive', ['moving', 'standing'])
def test_a_drive_in_order_has_no_fault(drive, request):
    assert not any(watch(request.getfixturevalue(drive)))


@pytest.mark.parametrize('drive', ['moving', 'standing'])
@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_reported_within_two_seconds_and_ends_by_itself(fault, drive, request):
    sweeps = request.getfixturevalue(drive)
    ends = BEGINS + 10
    broken = [(FAULTS[fault](points), pose) for points, pose in sweeps[BEGINS:ends]]
    found = watch([*sweeps[:BEGINS], *broken, *sweeps[ends:]])
    first = found.index({fault})
    assert BEGINS < first < BEGINS + 10
    assert all(each == {fault} for each in found[first:ends])
    assert not any(rest_of(found, ends))


@pytest.mark.parametrize('drive', ['moving', 'standing'])
def test_a_frozen_cloud_is_reported_and_ends(drive, request):
    sweeps = request.getfixturevalue(drive)
    ends = BEGINS + 10
    frozen = [(sweeps[BEGINS][0], pose) for _, pose in sweeps[BEGINS:ends]]
    found = watch([*sweeps[:BEGINS], *frozen, *sweeps[ends:]])
    # The first frozen sweep is a new one.
    assert found[BEGINS + 5] == {Fault.FROZEN}
    assert not any(found[: BEGINS + 5])
    assert not any(rest_of(found, ends))


def test_a_frozen_cloud_in_another_order_is_reported(moving):
    shuffled = np.random.default_rng(0)
    frozen = [(shuffled.permutation(moving[BEGINS][0]), pose) for _, pose in moving[BEGINS : BEGINS + 10]]
    assert watch([*moving[:BEGINS], *frozen])[-1] == {Fault.FROZEN}


def test_a_sensor_without_noise_may_repeat_itself_while_the_vehicle_stands(standing):
    points, pose = standing[0]
    monitor = SensorMonitor()
    assert not any(watch([(points, pose)] * 30, monitor))
    ahead = pose.copy()
    ahead[0, 3] += 1.0
    assert watch([(points, ahead)] * 5, monitor, 30)[-1] == {Fault.FROZEN}


def test_a_lidar_that_was_always_turned_is_reported_when_the_vehicle_moves(moving):
    monitor = SensorMonitor()
    found = watch([(turned(points, 5), pose) for points, pose in moving], monitor)
    first = found.index({Fault.TURNED})
    driven = np.linalg.norm(moving[first][1][:2, 3] - moving[0][1][:2, 3])
    assert driven < 25
    assert all(each == {Fault.TURNED} for each in found[first:])
    # The points are turned to the left, so the LiDAR to the right.
    assert monitor.described() == ['turned: by about -5 degrees']


def test_jumping_poses_are_no_turn(moving):
    """As from a receiver of satellite signals among houses: 0.3 m, other errors in each sweep."""
    rng = np.random.default_rng(0)
    sweeps = [
        (points, pose + np.pad(rng.normal(0, 0.3, (2, 1)), ((0, 2), (3, 0)))) for points, pose in moving
    ]
    assert not any(watch(sweeps))


def test_what_stands_may_disappear(standing):
    """As when a tunnel ends: nothing but the ground remains."""
    ground = np.percentile(standing[0][0][:, 2], 5) + 0.6
    assert not any(
        watch([*standing[:BEGINS], *((p[p[:, 2] < ground], pose) for p, pose in standing[BEGINS:])])
    )


def test_a_roof_that_hides_the_ground_is_no_fault(moving):
    """As in CARLA, with a LiDAR just above the roof: nothing below 7 degrees under the horizon."""
    low = -np.tan(np.radians(7))
    assert not any(watch([(p[p[:, 2] > low * np.hypot(p[:, 0], p[:, 1])], pose) for p, pose in moving]))


def test_returns_from_the_own_vehicle_are_no_fault(moving):
    """They replace half of the others, so that few are on the ground."""
    rng = np.random.default_rng(0)

    def with_body(points):
        body = rng.uniform((-2.3, -0.9, -1.4, 0.0), (2.3, 0.9, -0.1, 1.0), (len(points) // 2, 4))
        return np.concatenate((points[::2], body.astype(np.float32)))

    assert not any(watch([(with_body(points), pose) for points, pose in moving]))


@pytest.mark.parametrize('broken', [1, 4])
def test_single_sweeps_are_no_fault(moving, broken):
    some = [(FAULTS[Fault.MISSING](points), pose) for points, pose in moving[BEGINS : BEGINS + broken]]
    assert not any(watch([*moving[:BEGINS], *some, *moving[BEGINS + broken : 40]]))


def test_after_a_pause_everything_is_learnt_again(moving):
    """Another drive with another LiDAR may follow in a recording."""
    monitor = SensorMonitor()
    watch(moving[:BEGINS], monitor)
    others = [(thinned(points), pose) for points, pose in moving[BEGINS:40]]
    assert not any(watch(others, monitor, BEGINS + 100))


@pytest.mark.parametrize('points', [np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32)])
def test_nearly_empty_clouds_are_no_error(moving, points):
    watch([(points, np.eye(4))] * 20)
    found = watch([*moving[:BEGINS], *[(points, pose) for _, pose in moving[BEGINS : BEGINS + 10]]])
    assert Fault.SPARSE in found[-1]
