# SPDX-License-Identifier: Apache-2.0
"""Faults of a vehicle's own LiDAR and pose in simulated drives."""

from __future__ import annotations

import numpy as np
import pytest

from diffkd_ros.geometry.poses import pose_from_euler, transform_points
from diffkd_ros.runtime.sensor.faults import Fault
from diffkd_ros.runtime.sensor.monitor import SensorMonitor
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

BEGINS = 20
PERIOD = 100_000_000


@pytest.fixture(scope='module')
def simulator():
    return Simulator(SimulatorConfig(agents=1), seed=301)


def sweeps_of(scenario, count, first=20):
    frames = (scenario.frame(k) for k in range(first, first + count))
    return [(frame.agents[1].points, frame.agents[1].pose) for frame in frames]


@pytest.fixture(scope='module')
def moving(simulator):
    """A drive at 7 m/s, straight on."""
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


def moved(pose, ahead, left=0.0):
    pose = pose.copy()
    pose[:2, 3] += ahead, left
    return pose


def heading(pose, degrees):
    """The pose with another heading."""
    changed = pose.copy()
    changed[:3, :3] = pose_from_euler([0, 0, 0], yaw=np.radians(degrees))[:3, :3] @ pose[:3, :3]
    return changed


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
    if fault is Fault.TURNED and drive == 'standing':
        # It may be the pose.
        fault = Fault.UNCLEAR
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
    # The first frozen sweep is a new one; one that drives must have moved by a metre.
    first = found.index({Fault.FROZEN})
    assert first == BEGINS + 5 if drive == 'standing' else BEGINS + 5 < first < BEGINS + 10
    assert not any(found[:first])
    assert not any(rest_of(found, ends))


def test_a_frozen_cloud_in_another_order_is_reported(moving):
    shuffled = np.random.default_rng(0)
    frozen = [(shuffled.permutation(moving[BEGINS][0]), pose) for _, pose in moving[BEGINS : BEGINS + 10]]
    assert watch([*moving[:BEGINS], *frozen])[-1] == {Fault.FROZEN}


def test_a_sensor_without_noise_may_repeat_itself_while_the_vehicle_stands(standing):
    points, pose = standing[0]
    monitor = SensorMonitor()
    assert not any(watch([(points, pose)] * 30, monitor))
    assert watch([(points, moved(pose, 0.2 * k)) for k in range(20)], monitor, 30)[-1] == {Fault.FROZEN}


def crept(sweep, metres):
    """What a sensor without noise sees after its vehicle has moved: other bits."""
    points, pose = sweep
    return (points - np.array([metres, 0, 0, 0])).astype(np.float32), moved(pose, metres)


def test_a_sensor_without_noise_may_stop_and_go(standing):
    """At each stop the vehicle creeps by less than a centimetre, once."""
    sweeps = []
    for stop in range(15):
        sweeps += [crept(standing[0], 0.02 * stop)] + [crept(standing[0], 0.02 * stop + 0.008)] * 8
    assert not any(watch(sweeps))


def test_a_vehicle_may_settle_on_its_springs(standing):
    """A bounce of 4 mm ends in 5 s, until the bits stay the same."""
    bounce = 0.004 * np.exp(-np.arange(60) / 5) * np.cos(np.arange(60))
    sweeps = [crept(standing[0], metres) for metres in bounce] + [standing[0]] * 40
    assert not any(watch(sweeps))


@pytest.mark.parametrize('deviation', [0.05, 0.1, 0.2])
def test_poses_with_noise_do_not_move_a_vehicle(standing, deviation):
    rng = np.random.default_rng(0)
    points, pose = standing[0]
    assert not any(watch([(points, moved(pose, *rng.normal(0, deviation, 2))) for _ in range(300)]))


def test_a_lidar_that_was_always_turned_is_reported_when_the_vehicle_moves(moving):
    monitor = SensorMonitor()
    found = watch([(turned(points, 5), pose) for points, pose in moving], monitor)
    first = found.index({Fault.TURNED})
    driven = np.linalg.norm(moving[first][1][:2, 3] - moving[0][1][:2, 3])
    assert driven < 25
    assert all(each == {Fault.TURNED} for each in found[first:])
    # The points are turned to the left, so the LiDAR to the right.
    assert monitor.described() == ['turned: by about -5 degrees']


@pytest.mark.parametrize('backwards', [False, True])
def test_a_heading_that_differs_from_the_course_is_no_turn_of_the_lidar(moving, backwards):
    """The cloud disagrees with the pose as if the LiDAR were turned."""
    drive = moving[::-1] if backwards else moving
    monitor = SensorMonitor()
    found = watch([(points, heading(pose, 4)) for points, pose in drive], monitor)
    assert set.union(*found) == {Fault.HEADING}
    assert found[-1]
    assert monitor.described() == ['heading and course disagree: by about -4 degrees']
    assert not monitor.misleading


def test_a_turned_lidar_is_found_in_reverse(moving):
    found = watch([(turned(points, 5), pose) for points, pose in moving[::-1]])
    assert found[-1] == {Fault.TURNED}


def test_a_turned_lidar_stays_reported_while_the_vehicle_stands_and_its_pose_is_corrected(moving):
    monitor, (points, pose) = SensorMonitor(), moving[-1]
    watch([(turned(points, 5), pose) for points, pose in moving], monitor)
    rng = np.random.default_rng(0)
    noisy = [
        (turned(points, 5) + rng.normal(0, 0.01, points.shape), moved(pose, 0.0, 1.0)) for _ in range(50)
    ]
    assert all(each == {Fault.TURNED} for each in watch(noisy, monitor, len(moving)))


CORRECTIONS = {
    'position': lambda pose: moved(pose, 0.7, 0.7),
    'heading': lambda pose: heading(pose, 3),
}


@pytest.mark.parametrize('drive', ['moving', 'standing'])
@pytest.mark.parametrize('ahead', [False, True], ids=['all around', 'ahead only'])
@pytest.mark.parametrize('corrected', CORRECTIONS)
def test_a_correction_of_the_pose_is_no_turn_of_the_lidar(drive, ahead, corrected, request):
    sweeps = request.getfixturevalue(drive)
    if ahead:
        sweeps = [(points[points[:, 0] > 0.6 * np.abs(points[:, 1])], pose) for points, pose in sweeps]
    wrong = [(points, CORRECTIONS[corrected](pose)) for points, pose in sweeps]
    for before, after in ((sweeps, wrong), (wrong, sweeps)):
        found = watch([*before[:BEGINS], *after[BEGINS:]])
        assert not {Fault.TURNED, Fault.UNCLEAR} & set.union(*found)


def test_a_pose_that_is_late_in_a_curve_is_no_turn(simulator):
    """By 0.2 s, at up to 25 degrees per second."""
    sweeps = sweeps_of(simulator.scenario(1), 60, 0)
    assert not any(watch([(points, sweeps[max(0, k - 2)][1]) for k, (points, _) in enumerate(sweeps)]))


@pytest.mark.parametrize('deviation', [1.0, 2.0])
@pytest.mark.parametrize('drive', ['moving', 'standing'])
def test_a_heading_with_noise_is_no_turn(drive, deviation, request):
    noise = np.random.default_rng(0).normal(0, deviation, 100)
    sweeps = request.getfixturevalue(drive)
    assert not any(watch([(p, heading(pose, noise[k])) for k, (p, pose) in enumerate(sweeps)]))


def test_a_heading_that_swings_while_the_vehicle_drives_is_no_turn(moving):
    """By 2 degrees to each side, in 4 s."""
    swing = 2 * np.sin(np.arange(len(moving)) * np.pi / 20)
    assert not any(watch([(p, heading(pose, swing[k])) for k, (p, pose) in enumerate(moving)]))


def test_jumping_poses_are_no_turn(moving):
    """As from a receiver of satellite signals among houses: 0.3 m, other errors in each sweep."""
    rng = np.random.default_rng(0)
    sweeps = [
        (points, pose + np.pad(rng.normal(0, 0.3, (2, 1)), ((0, 2), (3, 0)))) for points, pose in moving
    ]
    assert not any(watch(sweeps))


def test_what_stands_may_disappear(standing):
    """As when a tunnel ends: nothing but the ground remains, of which this LiDAR sees enough."""
    ground = np.percentile(standing[0][0][:, 2], 5) + 0.6
    assert not any(
        watch([*standing[:BEGINS], *((p[p[:, 2] < ground], pose) for p, pose in standing[BEGINS:])])
    )


@pytest.mark.parametrize(('fault', 'minutes'), [(Fault.SPARSE, 1.5), (Fault.MISSING, 4.0)])
def test_what_lasts_for_minutes_becomes_usual(standing, fault, minutes):
    """As open ground after a street, which looks the same to a LiDAR with few rays on the ground."""
    changed = [(FAULTS[fault](points), pose) for points, pose in standing]
    lasting = [changed[k % len(changed)] for k in range(round(minutes * 600))]
    found = watch([*standing[:BEGINS], *lasting, *standing])
    first, last = found.index({fault}), len(found) - 1 - found[::-1].index({fault})
    assert first < BEGINS + 10
    # Not soon: it may be a fault.
    assert 300 < last < BEGINS + len(lasting)


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
