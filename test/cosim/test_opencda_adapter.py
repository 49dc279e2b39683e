# SPDX-License-Identifier: Apache-2.0
"""The adapter inside OpenCDA: the real CARLA client, OpenCDA's look-alike, a scripted gateway."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from patience import PATIENCE, until

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')

import carla
import opencda_look_alike as opencda

from diffkd_ros.cosim.opencda import diffkd_opencda
from diffkd_ros.cosim.opencda.diffkd_opencda import hub as hub_module
from diffkd_ros.cosim.opencda.diffkd_opencda import receive_message, send_message
from diffkd_ros.cosim.opencda.diffkd_opencda.perception import box_corners

# A vehicle at (30, -4) in CARLA's map, turned 25 degrees to the right, and one with a low score.
ROWS = np.array(
    [[30.0, -4.0, 0.75, 4.8, 1.9, 1.5, 25.0, 0.9], [10.0, 9.0, 0.8, 4.0, 1.8, 1.5, 0.0, 0.1]], np.float32
)


class Gateway:
    """Gives every step the same answer, and stores the steps."""

    def __init__(self, answer=None, rows=ROWS):
        self.answer = {'ego': 1} if answer is None else answer
        self.rows = rows
        self.steps = []
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.address = f'127.0.0.1:{self._listener.getsockname()[1]}'
        self._connections = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            try:
                while True:
                    head, data = receive_message(connection, timeout=PATIENCE)
                    self.steps.append((head, np.frombuffer(data, '<f4').reshape(-1, 4)))
                    if self.answer != 'silence':
                        answer = self.answer
                        if isinstance(answer, dict):
                            answer = {'frame': head['frame'], **answer}
                        send_message(connection, answer, [self.rows])
            except (OSError, diffkd_opencda.GatewayError):
                continue

    def close(self):
        for end in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def gateway():
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture
def scenario(empty, monkeypatch):
    """Sets up OpenCDA: two connected vehicles, and one at the position of the gateway's detection."""
    client = carla.Client('127.0.0.1', empty.port)
    client.set_timeout(PATIENCE)
    world = client.get_world()
    changed = world.get_settings()
    changed.synchronous_mode, changed.fixed_delta_seconds = True, 0.05
    world.apply_settings(changed)
    blueprint = world.get_blueprint_library().find('vehicle.lincoln.mkz_2020')
    places = [(0.0, 0.0, 0.0), (12.0, 4.0, 180.0), (30.5, -4.2, 25.0)]
    vehicles = [
        world.spawn_actor(blueprint, carla.Transform(carla.Location(x, y), carla.Rotation(yaw=yaw)))
        for x, y, yaw in places
    ]
    world.tick(PATIENCE)
    made = []

    def make(gateway_address, generation='first', active=True, perception=(), cav_world=None, **options):
        for name, module in opencda.modules(generation).items():
            monkeypatch.setitem(sys.modules, name, module)
        patient = {'timeout': PATIENCE, 'sweep_timeout': PATIENCE}
        hub = diffkd_opencda.install(gateway_address, **patient | options)
        cav_world = cav_world or opencda.CavWorld()
        config = {**opencda.PERCEPTION, 'activate': active, **dict(perception)}
        managers = [
            opencda.VehicleManager(vehicle, cav_world, generation, config) for vehicle in vehicles[:2]
        ]
        made.extend(managers)

        def sees():
            world.tick(PATIENCE)
            return not active or all(m.perception_manager.lidar.data is not None for m in managers)

        until(sees, 'the first sweep of every LiDAR')

        def step():
            world.tick(PATIENCE)
            for manager in managers:
                manager.update_info()

        return hub, managers, vehicles, step

    yield make
    for manager in made:
        manager.destroy()


@pytest.mark.parametrize('generation', opencda.GENERATIONS)
def test_every_generation_gets_the_detections_in_one_exchange_a_step(generation, scenario, gateway):
    hub, (ego, other), vehicles, step = scenario(gateway.address, generation)
    for _ in range(5):
        step()
    assert (hub.exchanges, hub.failures, len(gateway.steps)) == (5, 0, 5)
    frames = [head['frame'] for head, _ in gateway.steps]
    assert frames == list(range(frames[0], frames[0] + 5))
    (found,) = ego.objects['vehicles']
    assert (found.location.x, found.location.y) == pytest.approx((30.0, -4.0), abs=1e-4)
    assert found.transform.rotation.yaw == pytest.approx(25.0)
    assert found.bounding_box.extent.x == pytest.approx(2.4)
    assert found.carla_id == vehicles[2].id
    assert found.score == pytest.approx(0.9)
    # CARLA computes where the corners are, in OpenCDA's world and not in its mirror image.
    box = carla.BoundingBox(carla.Location(), carla.Vector3D(2.4, 0.95, 0.75))
    place = carla.Transform(carla.Location(30.0, -4.0, 0.75), carla.Rotation(yaw=25.0))
    expected = np.array([[v.x, v.y, v.z] for v in box.get_world_vertices(place)])
    corners = box_corners(ROWS[0])
    apart = np.linalg.norm(corners[:, None] - expected[None], axis=2)
    assert apart.min(axis=1) == pytest.approx(np.zeros(8), abs=1e-4)
    # The agent that does not fuse gets what OpenCDA provides without perception: the ground truth.
    assert {each.carla_id for each in other.objects['vehicles']} == {vehicles[0].id, vehicles[2].id}


def test_the_gateway_gets_every_vehicles_sweep_of_the_step(scenario, gateway):
    _, managers, vehicles, step = scenario(gateway.address)
    vehicles[1].set_target_velocity(carla.Vector3D(-2.0, 1.0, 0.0))
    step()
    step()
    head, points = gateway.steps[-1]
    first, second = head['agents']
    assert (first['agent'], second['agent']) == (1, 2)
    expected = np.concatenate([manager.perception_manager.lidar.data for manager in managers])
    np.testing.assert_array_equal(points, expected)
    x, y, z, roll, yaw, pitch = first['lidar']
    assert (x, y, z, roll, yaw, pitch) == pytest.approx((-0.5, 0.0, 1.9, 0.0, 0.0, 0.0), abs=1e-4)
    assert abs(second['lidar'][4]) == pytest.approx(180.0, abs=1e-3)
    assert second['velocity'] == pytest.approx([-2.0, 1.0, 0.0])
    assert head['stamp'] == managers[0].perception_manager.lidar.timestamp


@pytest.fixture
def closed():
    """An address where nothing listens."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        return f'127.0.0.1:{server.getsockname()[1]}'


def ids(manager):
    return {each.carla_id for each in manager.objects['vehicles']}


def test_without_a_gateway_every_vehicle_gets_what_opencda_has(scenario, closed, caplog, monkeypatch):
    monkeypatch.setattr(hub_module, '_RETRY', PATIENCE)
    hub, (ego, other), vehicles, step = scenario(closed)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            step()
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    assert ids(other) == {vehicles[0].id, vehicles[2].id}
    assert (hub.exchanges, hub.failures) == (0, 10)
    assert closed in caplog.text
    # There is not a warning for every step.
    assert len(caplog.records) == 1


class OwnModel:
    """OpenCDA's detector, loaded with --apply_ml."""

    def object_detector(self, cameras):
        return ['own detection']


def test_without_a_gateway_opencdas_own_detector_is_used_if_it_is_loaded(scenario, closed):
    world = opencda.CavWorld()
    world.ml_manager = OwnModel()
    _, managers, _, step = scenario(closed, cav_world=world, perception={'camera': {'num': 2}})
    step()
    assert [manager.objects['vehicles'] for manager in managers] == [['own detection']] * 2


def test_the_last_detections_are_held_and_moved_on_by_their_velocity(scenario, gateway, monkeypatch):
    monkeypatch.setattr(hub_module, '_RETRY', PATIENCE)
    hub, (ego, _), vehicles, step = scenario(gateway.address, hold=0.11)
    vehicles[2].set_target_velocity(carla.Vector3D(4.0, -2.0, 0.0))
    step()
    step()
    (seen,) = ego.objects['vehicles']
    gateway.close()
    for count in (1, 2):
        step()
        (held,) = ego.objects['vehicles']
        assert held.score == seen.score
        passed = 0.05 * count
        assert held.location.x - seen.location.x == pytest.approx(4.0 * passed, abs=1e-4)
        assert held.location.y - seen.location.y == pytest.approx(-2.0 * passed, abs=1e-4)
    step()
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    assert not hasattr(ego.objects['vehicles'][0], 'score')
    assert (hub.exchanges, hub.failures) == (2, 3)


def test_a_silent_gateway_costs_its_timeout_once(scenario, caplog, monkeypatch):
    """Later steps are sent in the background."""
    monkeypatch.setattr(hub_module, '_RETRY', 0.0)
    gateway = Gateway('silence')
    hub, (ego, _), vehicles, step = scenario(gateway.address, timeout=0.8)
    step()
    started = time.monotonic()
    for _ in range(5):
        step()
    # With an attempt of 0.8 s in each step it would be 4 s.
    assert time.monotonic() - started < 2.0
    until(lambda: len(gateway.steps) > 1, 'a later step at the gateway')
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    assert hub.failures == 6
    assert 'no answer within 0.8 s' in caplog.text
    gateway.close()


def test_it_comes_back_when_the_gateway_does(scenario, gateway, monkeypatch, caplog):
    monkeypatch.setattr(hub_module, '_RETRY', 0.0)
    hub, (ego, _), vehicles, step = scenario(gateway.address, hold=0.0)
    step()
    gateway.close()
    step()
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    again = Gateway()
    hub.gateway.address = diffkd_opencda.address_of(again.address)

    def answered():
        step()
        return hub.exchanges > 1

    until(answered, 'an answer of the new gateway')
    assert [each.score for each in ego.objects['vehicles']] == pytest.approx([0.9])
    assert 'cooperative detections again' in caplog.text
    again.close()


@pytest.mark.parametrize('answer', [{'frame': 1}, {'ego': None}, {'ego': 1, 'rows': 'NaN'}])
def test_an_answer_that_does_not_fit_is_a_failure(answer, scenario):
    rows = ROWS * np.nan if answer.pop('rows', None) else ROWS
    gateway = Gateway({'ego': 1, **answer}, rows)
    hub, (ego, _), vehicles, step = scenario(gateway.address)
    step()
    assert (hub.exchanges, hub.failures) == (0, 1)
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    gateway.close()


def test_the_reason_of_a_refusal_is_logged(scenario, caplog):
    gateway = Gateway({'error': 'protocol 1 came, this gateway speaks 2'})
    _, (ego, _), vehicles, step = scenario(gateway.address)
    step()
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    assert 'this gateway speaks 2' in caplog.text
    gateway.close()


def test_an_answer_that_is_no_object_is_a_failure(scenario):
    gateway = Gateway([1])
    hub, (ego, _), vehicles, step = scenario(gateway.address)
    step()
    assert ids(ego) == {vehicles[1].id, vehicles[2].id}
    assert (hub.exchanges, hub.failures) == (0, 1)
    gateway.close()


def test_where_perception_is_off_opencda_is_left_alone(scenario, gateway):
    hub, (ego, _), vehicles, step = scenario(gateway.address, active=False)
    step()
    assert {each.carla_id for each in ego.objects['vehicles']} == {vehicles[1].id, vehicles[2].id}
    assert hub.exchanges == 0


def test_opencdas_cooperative_mode_gets_the_detections_too(scenario, gateway):
    hub, (ego, other), vehicles, step = scenario(gateway.address, perception={'coperception': True})
    step()
    assert [each.score for each in ego.objects['vehicles']] == pytest.approx([0.9])
    assert ids(other) == {vehicles[0].id, vehicles[2].id}
    assert hub.exchanges == 1


def test_a_window_is_opened_only_if_the_scenario_asks_for_it(scenario, closed):
    """The look-alike's fails, as Open3D does without a display."""
    with pytest.raises(AttributeError, match='background_color'):
        scenario(closed, perception={'lidar': {**opencda.PERCEPTION['lidar'], 'visualize': True}})
    scenario(closed)
    # OpenCDA's function is there again.
    with pytest.raises(AttributeError, match='background_color'):
        opencda.o3d_visualizer_init(1)


def test_the_gateway_learns_opencdas_settings(scenario, gateway):
    """Communication range, the localisation's error, the vehicle's body and how fast the LiDAR turns."""
    _, (ego, other), vehicles, step = scenario(gateway.address)
    ego.v2x_manager = SimpleNamespace(cda_enabled=True, communication_range=35)
    other.v2x_manager = SimpleNamespace(cda_enabled=False, communication_range=35)
    ego.localisation_error = (0.5, -0.25, 3.0)
    step()
    first, second = gateway.steps[-1][0]['agents']
    assert (first['reach'], second['reach']) == (35.0, 0.0)
    (x, y, yaw), actual = first['localised']
    assert (x - actual[0], y - actual[1], yaw - actual[2]) == pytest.approx((0.5, -0.25, 3.0), abs=1e-4)
    assert second['localised'] is None
    assert first['rotation'] == pytest.approx([10.0, 0.05])
    box = vehicles[0].bounding_box
    assert first['body']['extent'] == pytest.approx([box.extent.x, box.extent.y, box.extent.z])
    assert first['body']['vehicle'] == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], abs=1e-4)
