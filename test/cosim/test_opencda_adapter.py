# SPDX-License-Identifier: Apache-2.0
"""The adapter inside OpenCDA: the real CARLA client, OpenCDA's look-alike, a scripted gateway."""

from __future__ import annotations

import ast
import contextlib
import logging
import math
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE, until

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')

import carla
import opencda_look_alike as opencda

from diffkd_ros.cosim.opencda import diffkd_opencda
from diffkd_ros.cosim.opencda.diffkd_opencda import receive_message, send_message

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
                    head, data = receive_message(connection)
                    self.steps.append((head, np.frombuffer(data, '<f4').reshape(-1, 4)))
                    if self.answer != 'silence':
                        send_message(connection, self.answer, [self.rows])
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

    def make(gateway_address, generation='first', active=True, **options):
        for name, module in opencda.modules(generation).items():
            monkeypatch.setitem(sys.modules, name, module)
        patient = {'timeout': PATIENCE, 'sweep_timeout': PATIENCE}
        hub = diffkd_opencda.install(gateway_address, **patient | options)
        cav_world = opencda.CavWorld()
        config = {**opencda.PERCEPTION, 'activate': active}
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
    corners = diffkd_opencda.box_corners(ROWS[0])
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
    x, y, z, roll, yaw, pitch = first['pose']
    assert (x, y, z, roll, yaw, pitch) == pytest.approx((-0.5, 0.0, 1.9, 0.0, 0.0, 0.0), abs=1e-4)
    assert abs(second['pose'][4]) == pytest.approx(180.0, abs=1e-3)
    assert second['velocity'] == pytest.approx([-2.0, 1.0, 0.0])
    assert head['stamp'] == managers[0].perception_manager.lidar.timestamp


def test_without_a_gateway_the_step_goes_on_with_a_warning(scenario, caplog, monkeypatch):
    monkeypatch.setattr(diffkd_opencda, '_RETRY', PATIENCE)
    with socket.create_server(('127.0.0.1', 0)) as closed:
        address = f'127.0.0.1:{closed.getsockname()[1]}'
    hub, (ego, _), _, step = scenario(address)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            step()
    assert ego.objects['vehicles'] == []
    assert (hub.exchanges, hub.failures) == (0, 10)
    assert address in caplog.text
    # There is not an attempt and a warning for every step.
    assert len(caplog.records) == 1


def test_a_silent_gateway_costs_its_timeout_once(scenario, caplog, monkeypatch):
    monkeypatch.setattr(diffkd_opencda, '_RETRY', PATIENCE)
    gateway = Gateway('silence')
    hub, (ego, _), _, step = scenario(gateway.address, timeout=0.5)
    step()
    step()
    until(lambda: gateway.steps, 'the first step at the gateway')
    assert len(gateway.steps) == 1
    assert ego.objects['vehicles'] == []
    assert hub.failures == 2
    assert 'without cooperative detections' in caplog.text
    gateway.close()


def test_it_comes_back_when_the_gateway_does(scenario, gateway, monkeypatch):
    monkeypatch.setattr(diffkd_opencda, '_RETRY', 0.0)
    hub, (ego, _), _, step = scenario(gateway.address)
    step()
    gateway.close()
    step()
    assert ego.objects['vehicles'] == []
    again = Gateway()
    hub._address = diffkd_opencda.address_of(again.address)
    step()
    assert len(ego.objects['vehicles']) == 1
    assert (hub.exchanges, hub.failures) == (2, 1)
    again.close()


def test_what_the_gateway_refuses_is_told(scenario, caplog):
    gateway = Gateway({'error': 'protocol 1 came, this gateway speaks 2'})
    _, (ego, _), _, step = scenario(gateway.address)
    step()
    assert ego.objects['vehicles'] == []
    assert 'this gateway speaks 2' in caplog.text
    gateway.close()


def test_an_answer_that_is_no_object_costs_the_step_its_detections_only(scenario):
    gateway = Gateway([1])
    hub, (ego, _), _, step = scenario(gateway.address)
    step()
    assert ego.objects['vehicles'] == []
    assert (hub.exchanges, hub.failures) == (0, 1)
    gateway.close()


def test_where_perception_is_off_opencda_is_left_alone(scenario, gateway):
    hub, (ego, _), vehicles, step = scenario(gateway.address, active=False)
    step()
    assert {each.carla_id for each in ego.objects['vehicles']} == {vehicles[1].id, vehicles[2].id}
    assert hub.exchanges == 0


def test_an_opencda_without_a_perception_manager_is_named(monkeypatch):
    for name, module in opencda.modules('first').items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delattr(sys.modules['opencda.core.common.vehicle_manager'], 'PerceptionManager')
    with pytest.raises(ImportError, match=r'PerceptionManager.*agent_manager'):
        diffkd_opencda.install()


def test_a_script_runs_unchanged_behind_it(monkeypatch, tmp_path):
    for name, module in opencda.modules('keyword').items():
        monkeypatch.setitem(sys.modules, name, module)
    script = tmp_path / 'opencda.py'
    script.write_text(
        'import pathlib, sys\n'
        'import opencda.core.common.agent_manager as holder\n'
        'assert __name__ == "__main__"\n'
        'pathlib.Path(sys.argv[2]).write_text(holder.PerceptionManager.__name__)\n'
    )
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    out = tmp_path / 'out'
    assert diffkd_opencda.main([str(script), '-t', str(out)]) == 0
    assert out.read_text() == 'DiffKDPerceptionManager'


def test_it_is_python_3_7_and_needs_numpy_only():
    text = Path(diffkd_opencda.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 7))
    imported = {
        alias.name.split('.')[0] if isinstance(node, ast.Import) else node.module.split('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {'numpy', 'carla'}


def test_corners_go_around_the_box():
    corners = diffkd_opencda.box_corners([0.0, 0.0, 1.0, 4.0, 2.0, 1.0, 90.0, 1.0])
    # Turned to the right: its front is at +y, its left side at +x.
    np.testing.assert_allclose(corners[0], (1.0, 2.0, 0.5), atol=1e-9)
    np.testing.assert_allclose(corners[4], (1.0, 2.0, 1.5), atol=1e-9)
    area = 0.5 * sum(
        corners[k, 0] * corners[(k + 1) % 4, 1] - corners[(k + 1) % 4, 0] * corners[k, 1] for k in range(4)
    )
    assert math.isclose(area, 8.0)
