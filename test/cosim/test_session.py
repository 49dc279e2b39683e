# SPDX-License-Identifier: Apache-2.0
"""Frames from a CARLA world through the real client; the expected sweeps follow from the vehicles' poses."""

from __future__ import annotations

import collections
import gc
import math
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from patience import PATIENCE, scaled, until

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')

import carla

from diffkd_ros.cosim import errors
from diffkd_ros.cosim.session import CarlaSession
from diffkd_ros.cosim.settings import LidarSettings, SessionSettings
from diffkd_ros.cosim.testing.process import StandInProcess
from diffkd_ros.geometry.boxes import ground_truth_in, points_in_boxes

ROLES = {1: 'cav_1', 2: 'cav_2', 3: 'cav_3'}


def settings(server, roles=None, **changed):
    roles = {1: 'cav_1'} if roles is None else roles
    patient = {'timeout': PATIENCE, 'sweep_timeout': PATIENCE}
    return SessionSettings(roles, min(roles), port=server.port, **patient | changed)


class World:
    """A second client, which sets the scene and ticks."""

    def __init__(self, server):
        self.client = carla.Client('127.0.0.1', server.port)
        self.client.set_timeout(PATIENCE)
        self.world = self.client.get_world()

    def vehicle(self, role, x, y, yaw=0.0, velocity=(0.0, 0.0, 0.0)):
        blueprint = self.world.get_blueprint_library().find('vehicle.tesla.model3')
        blueprint.set_attribute('role_name', role)
        actor = self.world.spawn_actor(
            blueprint, carla.Transform(carla.Location(x, y, 0.0), carla.Rotation(yaw=yaw))
        )
        actor.set_target_velocity(carla.Vector3D(*velocity))
        return actor

    def synchronous(self, step):
        changed = self.world.get_settings()
        changed.synchronous_mode, changed.fixed_delta_seconds = step is not None, step
        self.world.apply_settings(changed)


def raised(sweep):
    """The returns of a sweep above the ground, in the map and in the LiDAR frame."""
    in_map = sweep.points[:, :3] @ sweep.pose[:3, :3].T + sweep.pose[:3, 3]
    above = in_map[:, 2] > -0.01
    return in_map[above], sweep.points[above]


def test_a_hundred_frames_of_three_vehicles_are_whole_and_in_step(empty):
    world = World(empty)
    for number in (1, 2, 3):
        world.vehicle(f'cav_{number}', 8.0 * number, 0.0, velocity=(3.0, 1.0, 0.0))
    with CarlaSession(settings(empty, ROLES, step=0.1)) as session:
        frames = [session.next_frame() for _ in range(100)]
    assert all(sorted(frame.agents) == [1, 2, 3] for frame in frames)
    assert set(np.diff([frame.stamp for frame in frames])) == {100_000_000}
    # Every sweep was measured at the stamp of its frame: the LiDAR is where its vehicle is then.
    for frame in frames:
        truth = dict(zip(frame.ground_truth.track_ids, frame.ground_truth.boxes, strict=True))
        for agent, sweep in frame.agents.items():
            np.testing.assert_allclose(sweep.pose[:2, 3], truth[agent][:2], atol=1e-4)
            # CARLA's y points to the right.
            np.testing.assert_allclose(sweep.velocity, (3.0, -1.0, 0.0), atol=1e-6)
    moved = frames[-1].agents[1].pose[:3, 3] - frames[0].agents[1].pose[:3, 3]
    np.testing.assert_allclose(moved, (3.0 * 9.9, -1.0 * 9.9, 0.0), atol=1e-3)


def test_a_vehicle_on_the_left_in_carla_is_on_the_left_in_ros(empty):
    """The scene is not its own mirror image: the other vehicle is ahead, to the left, turned to the left."""
    world = World(empty)
    world.vehicle('cav_1', 0.0, 0.0)
    world.vehicle('autopilot', 10.0, -4.0, yaw=-30.0)
    with CarlaSession(settings(empty)) as session:
        frame = session.next_frame()
    (box,) = ground_truth_in(frame, 1).boxes
    np.testing.assert_allclose(box[:2], (10.0, 4.0), atol=1e-4)
    np.testing.assert_allclose(box[3:6], (4.8, 1.9, 1.5), atol=1e-4)
    assert box[6] == pytest.approx(math.radians(30.0), abs=1e-5)
    points = raised(frame.agents[1])[1]
    assert points[:, 1].mean() == pytest.approx(4.0, abs=0.3)
    # A wrong sign of the yaw would leave most of them outside.
    slack = np.array([0, 0, 0, 0.01, 0.01, 0.01, 0])
    assert (points_in_boxes(points, (box + slack)[None]) == 0).all()
    assert list(frame.ground_truth.num_points) == [0, len(points)]


def test_the_ego_turned_and_tilted_sees_what_stands_still(empty):
    world = World(empty)
    ego = world.vehicle('cav_1', 0.0, 0.0)
    ego.set_transform(
        carla.Transform(carla.Location(5.0, 2.0, 1.0), carla.Rotation(pitch=8.0, yaw=120.0, roll=-5.0))
    )
    world.vehicle('autopilot', -4.0, 9.0, yaw=40.0)
    with CarlaSession(settings(empty, lidar=LidarSettings(forward=0.5, height=2.0))) as session:
        frame = session.next_frame()
    sweep = frame.agents[1]
    # CARLA's own matrix, independent of our geometry.
    matrix = np.array(ego.get_transform().get_matrix())
    there = (matrix @ (0.5, 0.0, 2.0, 1.0))[:3]
    np.testing.assert_allclose(sweep.pose[:3, 3], there * (1, -1, 1), atol=1e-4)
    mirror = np.diag((1.0, -1.0, 1.0))
    np.testing.assert_allclose(sweep.pose[:3, :3], mirror @ matrix[:3, :3] @ mirror, atol=1e-5)
    np.testing.assert_allclose(raised(sweep)[0].mean(axis=0), (-4.0, -9.0, 0.75), atol=0.3)


def test_sweeps_keep_their_memory(empty):
    """The client reuses the memory of a measurement when the callback returns."""
    world = World(empty)
    world.vehicle('cav_1', 0.0, 0.0)
    world.vehicle('autopilot', 10.0, 0.0, velocity=(5.0, 0.0, 0.0))
    with CarlaSession(settings(empty)) as session:
        kept, copies = [], []
        for _ in range(20):
            points = session.next_frame().agents[1].points
            kept.append(points)
            copies.append(points.copy())
    for points, copy in zip(kept, copies, strict=True):
        assert points.base is None
        np.testing.assert_array_equal(points, copy)


def test_each_vehicle_is_asked_for_its_size_once(empty):
    world = World(empty)
    for number in range(12):
        world.vehicle('cav_1' if not number else 'autopilot', 6.0 * number, 0.0)
    with CarlaSession(settings(empty)) as session:
        for _ in range(30):
            session.next_frame()
        assert empty.report()['calls']['get_actor_bounding_box'] == 12
        world.vehicle('autopilot', 0.0, 8.0)
        for _ in range(5):
            session.next_frame()
    report = empty.report()
    assert report['calls']['get_actor_bounding_box'] == 13
    assert (report['unknown'], report['failed']) == ({}, {})


def test_vehicles_are_found_by_role_or_spawned_and_the_world_is_left_as_it_was(empty):
    world = World(empty)
    own = world.vehicle('cav_2', 40.0, 20.0)
    before = empty.report()
    with CarlaSession(settings(empty, ROLES)) as session:
        assert session.agents == [1, 2, 3]
        assert session.missing == []
        frame = session.next_frame()
        assert empty.report()['synchronous']
    np.testing.assert_allclose(frame.agents[2].pose[:2, 3], (40.0, -20.0), atol=1e-4)
    after = empty.report()
    assert after['actors'] == before['actors']
    assert str(own.id) in {str(number) for number in after['actors']}
    assert after['synchronous'] == before['synchronous'] is False


def measured(world, vehicle):
    """The next sweep (n, 4) of a LiDAR that another client attaches to a vehicle, in CARLA's convention."""
    lidar = world.world.spawn_actor(
        world.world.get_blueprint_library().find('sensor.lidar.ray_cast'),
        carla.Transform(carla.Location(z=1.9)),
        attach_to=vehicle,
    )
    sweeps = []
    lidar.listen(lambda sweep: sweeps.append(np.array(np.frombuffer(sweep.raw_data, '<f4')).reshape(-1, 4)))
    until(lambda: sweeps, 'a sweep')
    lidar.stop()
    lidar.destroy()
    return sweeps[0]


def test_returns_on_the_own_body_are_left_out(empty):
    empty.call('stand_in_sense', True, False)
    world = World(empty)
    ego = world.vehicle('cav_1', 3.0, 5.0, yaw=30.0)
    raw = measured(world, ego)
    # The roof is 0.4 m below the LiDAR and 4.8 m x 1.9 m large.
    roof = np.isclose(raw[:, 2], -0.4, atol=1e-3)
    assert roof.sum() > 20
    assert (np.abs(raw[roof, :2]) <= (2.4 + 1e-3, 0.95 + 1e-3)).all()
    # The other returns are from the ground, beyond the shadow of the roof.
    assert np.isclose(raw[~roof, 2], -1.92, atol=1e-3).all()
    reach = np.abs(raw[~roof, :2]) * 0.4 / 1.92
    assert ((reach[:, 0] > 2.4) | (reach[:, 1] > 0.95)).all()
    with CarlaSession(settings(empty)) as session:
        sweep = session.next_frame().agents[1]
    assert len(raised(sweep)[0]) == 0
    assert len(sweep.points) == (~roof).sum()


def test_the_stand_in_has_the_intensities_of_carla(empty):
    world = World(empty)
    ego = world.vehicle('cav_1', 0.0, 0.0)
    world.vehicle('autopilot', 10.0, 4.0)
    assert (measured(world, ego)[:, 3] == 0.5).all()
    empty.call('stand_in_sense', False, True)
    raw = measured(world, ego)
    expected = np.exp(-0.004 * np.linalg.norm(raw[:, :3], axis=1))
    np.testing.assert_allclose(raw[:, 3], expected, rtol=1e-6)


@pytest.fixture
def ticking(empty):
    """A world with two vehicles that another client ticks."""
    world = World(empty)
    world.vehicle('hero', 0.0, 0.0, velocity=(2.0, 0.0, 0.0))
    world.vehicle('friend', 10.0, 3.0)
    world.synchronous(0.05)
    stop = threading.Event()

    def tick():
        while not stop.wait(0.02):
            world.world.tick(PATIENCE)

    thread = threading.Thread(target=tick)
    thread.start()
    yield world
    stop.set()
    thread.join()


def test_following_another_client_gives_all_its_frames(ticking, empty):
    with CarlaSession(settings(empty, {1: 'hero', 2: 'friend'}, tick='follow', spawn=False)) as session:
        frames = [session.next_frame() for _ in range(20)]
        assert empty.report()['calls']['set_episode_settings'] == 1
    assert set(np.diff([frame.stamp for frame in frames])) == {50_000_000}
    assert all(sorted(frame.agents) == [1, 2] for frame in frames)
    for frame in frames:
        truth = dict(zip(frame.ground_truth.track_ids, frame.ground_truth.boxes, strict=True))
        np.testing.assert_allclose(frame.agents[1].pose[:2, 3], truth[1][:2], atol=1e-4)
    assert empty.report()['synchronous']


def test_a_neighbour_may_come_and_go(empty):
    world = World(empty)
    world.vehicle('cav_1', 0.0, 0.0)
    # A new LiDAR misses its first step, which costs one timeout.
    brief = settings(empty, {1: 'cav_1', 2: 'cav_2'}, spawn=False, sweep_timeout=scaled(1.0))
    with CarlaSession(brief) as session:
        assert session.missing == ['cav_2']
        assert sorted(session.next_frame().agents) == [1]
        late = world.vehicle('cav_2', 10.0, 0.0)
        until(lambda: sorted(session.next_frame().agents) == [1, 2], 'a frame with the new vehicle')
        late.destroy()
        assert sorted([session.next_frame() for _ in range(2)][-1].agents) == [1]


def test_a_silent_neighbour_costs_its_sweep_only(empty):
    world = World(empty)
    world.vehicle('cav_1', 0.0, 0.0)
    world.vehicle('cav_2', 10.0, 0.0)
    with CarlaSession(settings(empty, {1: 'cav_1', 2: 'cav_2'}, sweep_timeout=scaled(1.0))) as session:
        sensors = [int(n) for n, kind in empty.report()['actors'].items() if kind.startswith('sensor')]
        empty.call('stand_in_mute', max(sensors))
        frames = [session.next_frame() for _ in range(5)]
        assert [len(frame.agents) for frame in frames] == [1] * 5
        assert session.late_sweeps == 5


def lidars(server):
    return [int(n) for n, kind in server.report()['actors'].items() if kind.startswith('sensor')]


@pytest.mark.parametrize('agent', [1, 2])
def test_a_destroyed_lidar_is_attached_again(empty, agent):
    world = World(empty)
    for number in (1, 2):
        world.vehicle(f'cav_{number}', 10.0 * number, 0.0)
    # A new LiDAR misses its first step, which costs one timeout.
    with CarlaSession(settings(empty, {1: 'cav_1', 2: 'cav_2'}, sweep_timeout=scaled(1.0))) as session:
        assert sorted(session.next_frame().agents) == [1, 2]
        assert session.replaced == {}
        # LiDARs are attached in the order of the agents.
        empty.call('destroy_actor', sorted(lidars(empty))[agent - 1])
        until(lambda: sorted(session.next_frame().agents) == [1, 2], 'a frame with both vehicles')
        assert session.replaced == {f'cav_{agent}': 1}
        assert len(lidars(empty)) == 2
    assert lidars(empty) == []


# A server hangs during a session, and another session starts once it answers again.
SERVER_HANGS = """
import signal
import sys

from diffkd_ros.cosim.errors import CosimError
from diffkd_ros.cosim.session import CarlaSession
from diffkd_ros.cosim.settings import SessionSettings
from diffkd_ros.cosim.testing.process import StandInProcess

with StandInProcess() as server:
    settings = SessionSettings({1: 'cav_1', 2: 'cav_2'}, 1, port=server.port, timeout=float(sys.argv[1]))
    before = server.report()
    session = CarlaSession(settings)
    session.next_frame()
    server.signal(signal.SIGSTOP)
    try:
        session.next_frame()
    except CosimError as error:
        print(type(error).__name__)
    session.close()
    server.signal(signal.SIGCONT)
    print(len(server.report()['actors']) - len(before['actors']))
    with CarlaSession(settings) as session:
        print(len(session.next_frame().agents), len(server.report()['actors']) - len(before['actors']))
    after = server.report()
    print(after['actors'] == before['actors'], after['synchronous'], after['unknown'], after['failed'])
"""


def test_a_server_that_hung_is_left_as_it_was(tmp_path):
    """In a separate process, like the one below."""
    command = [sys.executable, '-c', SERVER_HANGS, str(scaled(2.0))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    # Two vehicles and two LiDARs, left by the first session and not doubled by the second.
    assert done.stdout.splitlines() == ['ServerLostError', '4', '2 4', 'True False {} {}']


# Three times: a server dies, then no server answers, then a new one starts at the same port.
SERVERS_DIE = """
import sys

from diffkd_ros.cosim.errors import CosimError
from diffkd_ros.cosim.session import CarlaSession
from diffkd_ros.cosim.settings import SessionSettings
from diffkd_ros.cosim.testing.process import StandInProcess

port, timeout = 0, float(sys.argv[1])
for _ in range(3):
    with StandInProcess('--port', str(port)) as server:
        port = server.port
        settings = SessionSettings({1: 'cav_1', 2: 'cav_2'}, 1, port=port, timeout=timeout)
        session = CarlaSession(settings)
        assert sorted(session.next_frame().agents) == [1, 2]
        server.kill()
        try:
            session.next_frame()
        except CosimError as error:
            print(type(error).__name__)
        session.close()
        try:
            CarlaSession(settings)
        except CosimError as error:
            print(type(error).__name__)
"""


class TestWhatGoesWrong:
    """Every problem has its own error."""

    def test_no_server_answers(self):
        with StandInProcess() as gone:
            port = gone.port
        with pytest.raises(errors.ServerAbsentError, match=f'127.0.0.1:{port}'):
            CarlaSession(SessionSettings({1: 'cav_1'}, 1, port=port, timeout=1.0))

    def test_another_release_is_refused_before_the_client_crashes(self):
        with (
            StandInProcess('--version', '0.9.15') as older,
            pytest.raises(errors.VersionMismatchError, match=r'pip install carla==0\.9\.15'),
        ):
            CarlaSession(settings(older))
        # A build of the same release is accepted.
        with StandInProcess('--version', '0.9.16-3-gabcdef') as build:
            CarlaSession(settings(build)).close()

    def test_a_server_built_from_source(self):
        """It reports a commit, which cannot be compared with a release."""
        with StandInProcess('--version', '5c2e8f1-dirty') as built:
            with pytest.raises(errors.VersionMismatchError, match=r'5c2e8f1-dirty.*set source_build'):
                CarlaSession(settings(built))
            with CarlaSession(settings(built, source_build=True)) as session:
                assert list(session.next_frame().agents) == [1]
        # Another release crashes the client.
        with (
            StandInProcess('--version', '0.9.15') as older,
            pytest.raises(errors.VersionMismatchError, match='pip install'),
        ):
            CarlaSession(settings(older, source_build=True))

    def test_a_process_outlives_its_servers(self):
        """In a separate process, because the client aborts it if a lost session is destroyed."""
        command = [sys.executable, '-c', SERVERS_DIE, str(scaled(1.0))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.split() == ['ServerLostError', 'ServerAbsentError'] * 3

    def test_a_call_the_server_does_not_know(self, empty):
        empty.call('stand_in_forget', 'tick_cue')
        with pytest.raises(errors.UnknownCallError, match='tick_cue'):
            CarlaSession(settings(empty))
        # The settings of the world are restored.
        assert not empty.report()['synchronous']

    def test_two_clients_tick(self, empty):
        with CarlaSession(settings(empty)) as session:
            session.next_frame()
            empty.call('tick_cue')
            with pytest.raises(errors.SecondTickerError, match='set tick to follow'):
                session.next_frame()
        assert not empty.report()['synchronous']

    def test_the_settings_of_another_client_are_kept(self, empty):
        with CarlaSession(settings(empty, step=0.1)) as session:
            session.next_frame()
            World(empty).synchronous(0.05)
        after = World(empty).world.get_settings()
        assert (after.synchronous_mode, after.fixed_delta_seconds) == (True, 0.05)

    @pytest.mark.parametrize('tick', ['own', 'follow'])
    @pytest.mark.parametrize('reset', [False, True])
    def test_another_client_loads_a_map(self, empty, tick, reset):
        world = World(empty)
        if tick == 'follow':
            world.vehicle('cav_1', 0.0, 0.0)
            fixed = world.world.get_settings()
            fixed.fixed_delta_seconds = 0.05
            world.world.apply_settings(fixed)
        wanted = settings(empty, tick=tick, spawn=tick == 'own')
        with CarlaSession(wanted) as session:
            session.next_frame()
            empty.call('load_new_episode', 'Town02', reset, 0)
            with pytest.raises(errors.MapChangedError, match='loaded a map'):
                # A few frames of the old map may still be queued.
                collections.deque(iter(session.next_frame, None), 0)
        if tick == 'own':
            with CarlaSession(wanted) as session:
                assert list(session.next_frame().agents) == [1]
        after = empty.report()
        assert (after['synchronous'], list(after['actors'].values())) == (False, ['spectator'])

    def test_nobody_ticks(self, empty):
        world = World(empty)
        world.vehicle('hero', 0.0, 0.0)
        world.synchronous(0.05)
        with pytest.raises(errors.NobodyTicksError):
            CarlaSession(settings(empty, {1: 'hero'}, tick='follow', spawn=False, timeout=scaled(1.0)))

    def test_the_lidar_turns_too_slowly(self, empty):
        lidar = LidarSettings(rotation_frequency=10.0)
        with pytest.raises(errors.RotationMismatchError, match='180 degrees instead of 360'):
            CarlaSession(settings(empty, step=0.05, lidar=lidar))

    def test_the_step_changes_under_a_follower(self, ticking, empty):
        with CarlaSession(settings(empty, {1: 'hero'}, tick='follow', spawn=False)) as session:
            session.next_frame()
            ticking.synchronous(0.1)
            with pytest.raises(errors.RotationMismatchError):
                # A few frames with the old step may still be queued.
                collections.deque(iter(session.next_frame, None), 0)

    def test_a_world_without_a_fixed_step(self, empty):
        World(empty).vehicle('hero', 0.0, 0.0)
        with pytest.raises(errors.RotationMismatchError, match='no fixed step'):
            CarlaSession(settings(empty, {1: 'hero'}, tick='follow', spawn=False))

    def test_no_ego(self, empty):
        World(empty).vehicle('hero', 0.0, 0.0)
        with pytest.raises(errors.VehicleMissingError, match=r"'cav_1'.*there are: hero"):
            CarlaSession(settings(empty, spawn=False))

    def test_the_ego_vanishes(self, empty):
        ego = World(empty).vehicle('cav_1', 0.0, 0.0)
        with CarlaSession(settings(empty)) as session:
            session.next_frame()
            ego.destroy()
            with pytest.raises(errors.VehicleMissingError, match='has gone'):
                session.next_frame()

    def test_a_silent_lidar(self, empty):
        with CarlaSession(settings(empty, sweep_timeout=0.5)) as session:
            sensors = [int(n) for n, kind in empty.report()['actors'].items() if kind.startswith('sensor')]
            empty.call('stand_in_mute', max(sensors))
            with pytest.raises(errors.SweepTimeoutError, match='cav_1'):
                session.next_frame()

    def test_no_such_blueprint(self, empty):
        with pytest.raises(errors.BlueprintMissingError, match=r'vehicle\.flying\.carpet'):
            CarlaSession(settings(empty, blueprint='vehicle.flying.carpet'))


def callbacks_held():
    """Number of functions that the client may still call."""
    name = 'ClientCallbacks.give.<locals>.callback'
    functions = (found for found in gc.get_objects() if isinstance(found, types.FunctionType))
    return sum(function.__qualname__ == name for function in functions)


@pytest.mark.parametrize(('tick', 'expected'), [('own', 2), ('follow', 3)])
def test_a_closed_session_is_not_called_any_more(request, empty, tick, expected):
    """The client aborts a process that ends while one of its threads is about to call into Python."""
    if tick == 'follow':
        request.getfixturevalue('ticking')
    with CarlaSession(settings(empty, {1: 'hero', 2: 'friend'}, tick=tick, spawn=tick == 'own')) as session:
        session.next_frame()
        assert callbacks_held() == expected
    assert callbacks_held() == 0
