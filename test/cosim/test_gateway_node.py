# SPDX-License-Identifier: Apache-2.0
"""The closed loop: a vehicle hidden from the ego reaches OpenCDA's planner and changes its plan."""

from __future__ import annotations

import json
import socket
import struct
import sys

import hidden_vehicle
import numpy as np
import pytest
from patience import PATIENCE, until

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')
pytest.importorskip('rclpy', reason='the gateway needs ROS 2')

import carla
import opencda_look_alike as opencda

from diffkd_ros.cosim import graph as cosim_graph
from diffkd_ros.cosim.gateway_node import StepError, frame_of_step, rows_in_carla
from diffkd_ros.cosim.opencda import diffkd_opencda
from diffkd_ros.cosim.testing.process import StandInProcess
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import count_points, ground_truth_in
from diffkd_ros.geometry.carla import flip_points, pose_to_carla
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.launching import graph
from diffkd_ros.sources.opv2v import write_opv2v

STEPS = 4


@pytest.fixture(scope='module')
def scene():
    return hidden_vehicle.frames(3)


@pytest.fixture(scope='module')
def nodes(group, model):
    for spec in graph.vehicle_specs([1, 2], 1, {'model': str(model), 'use_sim_time': True}):
        group.start(spec)
    group.wait_ready(PATIENCE)
    return group


@pytest.fixture
def start_gateway(nodes):
    """Starts a gateway for some vehicles and returns its address; only one at a time."""
    made = []

    def start(vehicles):
        gateway = nodes.start(
            cosim_graph.gateway_spec({'port': 0, 'vehicles': vehicles, 'ego_timeout': 60.0}),
            label=f'gateway_{len(vehicles)}_{len(made)}',
        )
        made.append(gateway)
        nodes.wait_ready(PATIENCE)
        return gateway.latest.rpartition(' ')[2]

    yield start
    nodes.stop(made, patience=PATIENCE)


@pytest.fixture(scope='module')
def server(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp('scene')
    write_opv2v(scene, folder)
    with StandInProcess('--source', f'opv2v:{folder}') as server:
        yield server


class Scenario:
    """Like OpenCDA's scenario manager: ticks, then each vehicle perceives and plans."""

    def __init__(self, server, gateway, monkeypatch):
        for name, module in opencda.modules('first').items():
            monkeypatch.setitem(sys.modules, name, module)
        self.hub = diffkd_opencda.install(gateway, timeout=PATIENCE, sweep_timeout=PATIENCE)
        self.client = carla.Client('127.0.0.1', server.port)
        self.client.set_timeout(PATIENCE)
        self.world = self.client.get_world()
        changed = self.world.get_settings()
        changed.synchronous_mode, changed.fixed_delta_seconds = True, 0.1
        self.world.apply_settings(changed)
        self.world.tick(PATIENCE)
        actors = {a.attributes['role_name']: a for a in self.world.get_actors().filter('vehicle.*')}
        cav_world = opencda.CavWorld()
        self.managers = [
            opencda.VehicleManager(actors[role], cav_world, 'first', opencda.PERCEPTION)
            for role in ('cav_1', 'cav_2')
        ]
        until(self._sees, 'the first sweep of every LiDAR')

    def _sees(self):
        self.world.tick(PATIENCE)
        return all(m.perception_manager.lidar.data is not None for m in self.managers)

    def step(self):
        """Run one step; returns the ego's target speed."""
        self.world.tick(PATIENCE)
        for manager in self.managers:
            manager.update_info()
        return self.managers[0].run_step()

    def close(self):
        while self.managers:
            self.managers.pop().destroy()
        self.hub.close()


@pytest.fixture
def scenario(server, monkeypatch):
    made = []

    def start(gateway):
        made.append(Scenario(server, gateway, monkeypatch))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_the_ego_cannot_see_the_crossing_vehicle(scene):
    """The other tests depend on it."""
    for frame in scene:
        truth = ground_truth_in(frame, hidden_vehicle.EGO)
        box = truth.boxes[truth.track_ids == hidden_vehicle.HIDDEN]
        assert count_points(frame.agents[hidden_vehicle.EGO].points, box)[0] == 0


def test_a_hidden_vehicle_changes_what_the_planner_does(start_gateway, scenario):
    loop = scenario(start_gateway([1, 2]))
    speeds = [loop.step() for _ in range(STEPS)]
    assert (loop.hub.exchanges, loop.hub.failures) == (STEPS, 0)
    x, y, yaw = hidden_vehicle.PLACES[hidden_vehicle.HIDDEN]
    near = [
        found
        for found in loop.managers[0].objects['vehicles']
        if np.hypot(found.location.x - x, found.location.y + y) < 0.5
    ]
    # In OpenCDA's own, left-handed world, and known to the server as a vehicle.
    assert len(near) == 1
    assert near[0].carla_id != -1
    turned = near[0].transform.rotation.yaw - np.degrees(-yaw)
    assert abs((turned + 90.0) % 180.0 - 90.0) < 30.0
    # The gap to it is about 15 m, for which the planner wants 7.5 m/s.
    assert speeds[-1] == pytest.approx(7.4, abs=0.6)

    loop.close()
    alone = scenario(start_gateway([1]))
    speeds = [alone.step() for _ in range(STEPS)]
    assert alone.hub.exchanges == STEPS
    assert speeds[-1] == 12.0


def test_a_restarted_scenario_is_answered_again(start_gateway, scene):
    """Its stamps repeat; answers to the first run do not count for the second."""
    agents = [
        {'agent': agent, 'points': len(sweep.points), 'pose': pose_to_carla(sweep.pose)}
        for agent, sweep in scene[0].agents.items()
    ]
    sweeps = [flip_points(sweep.points) for sweep in scene[0].agents.values()]
    x, y, _ = hidden_vehicle.PLACES[hidden_vehicle.HIDDEN]
    found = []
    with socket.create_connection(diffkd_opencda.address_of(start_gateway([1, 2])), 60.0) as connection:
        for frame, stamp in enumerate([1000.0, 1000.1, 1000.0, 1000.1]):
            head = {'protocol': 1, 'frame': frame, 'stamp': stamp, 'agents': agents}
            diffkd_opencda.send_message(connection, head, sweeps)
            answer, data = diffkd_opencda.receive_message(connection)
            assert answer['frame'] == frame
            rows = np.frombuffer(data, '<f4').reshape(-1, 8)
            found.append(int((np.hypot(rows[:, 0] - x, rows[:, 1] + y) < 0.5).sum()))
    assert found == [1, 1, 1, 1]


def test_an_unreadable_step_is_refused_and_the_next_one_answered(start_gateway, scenario):
    address = start_gateway([1, 2])
    with socket.create_connection(diffkd_opencda.address_of(address), 10.0) as stranger:
        diffkd_opencda.send_message(stranger, {'protocol': 99})
        answer, _ = diffkd_opencda.receive_message(stranger)
        assert 'protocol 99' in answer['error']
        # Not a message: the gateway disconnects and continues.
        stranger.sendall(struct.pack('<I', 4) + b'GET ')
        assert stranger.recv(100) == b''
    loop = scenario(address)
    loop.step()
    assert (loop.hub.exchanges, loop.hub.failures) == (1, 0)


def message(text):
    return struct.pack('<I', len(text)) + text


def test_no_message_of_a_client_ends_the_gateway(start_gateway, scenario):
    address = start_gateway([1, 2])
    head, sweep = step_of(np.ones((1, 4), np.float32))
    late = json.dumps(head | {'stamp': 1e20}).encode() + b'\n' + sweep
    for text, error in ((b'[]\n', 'no JSON object'), (late, '1e+20 s'), (b'[' * 100_000, None)):
        with socket.create_connection(diffkd_opencda.address_of(address), 20.0) as stranger:
            stranger.sendall(message(text))
            if error is None:
                assert stranger.recv(100) == b''
            else:
                assert error in diffkd_opencda.receive_message(stranger)[0]['error']
    loop = scenario(address)
    loop.step()
    assert (loop.hub.exchanges, loop.hub.failures) == (1, 0)


def test_a_silent_client_is_disconnected_if_another_waits(start_gateway):
    address = diffkd_opencda.address_of(start_gateway([1]))
    with (
        socket.create_connection(address, 20.0) as silent,
        socket.create_connection(address, 20.0) as halting,
        socket.create_connection(address, 20.0) as waiting,
    ):
        halting.sendall(message(b'{"protocol": 1}\n')[:-5])
        diffkd_opencda.send_message(waiting, {'protocol': 99})
        answer, _ = diffkd_opencda.receive_message(waiting)
        assert 'protocol 99' in answer['error']
        assert (silent.recv(1), halting.recv(1)) == (b'', b'')


def step_of(sweep, **changed):
    agent = {
        'agent': 1,
        'points': len(sweep),
        'pose': [1.0, 2.0, 3.0, 0.0, 90.0, 0.0],
        'velocity': [1.0, 2.0, 0.0],
    }
    head = {'protocol': 1, 'frame': 5, 'stamp': 0.25, 'agents': [agent | changed]}
    return json.loads(json.dumps(head)), sweep.tobytes()


def test_a_step_is_read_into_a_right_handed_frame():
    frame = frame_of_step(*step_of(np.array([[1, 2, 3, 0.5]], np.float32)), [1, 2], 1)
    assert (frame.stamp, frame.index) == (250_000_000, 5)
    np.testing.assert_allclose(frame.agents[1].points, [[1, -2, 3, 0.5]])
    # In CARLA y and yaw point to the right, in REP-103 to the left.
    np.testing.assert_allclose(frame.agents[1].pose, pose_from_euler((1, -2, 3), yaw=-np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(frame.agents[1].velocity, (1, -2, 0))


@pytest.mark.parametrize(
    'changed',
    [
        {'points': 7},
        {'points': -1},
        {'points': 'many'},
        {'pose': [0.0] * 5},
        {'pose': [float('nan')] * 6},
        {'velocity': [1.0]},
        {'agent': 2},
    ],
)
def test_a_damaged_step_is_one_error(changed):
    with pytest.raises(StepError):
        frame_of_step(*step_of(np.zeros((2, 4), np.float32), **changed), [1, 2], 1)


@pytest.mark.parametrize('stamp', [-1.0, 2.0**31, 1e20, float('nan'), float('inf')])
def test_a_stamp_that_no_message_can_carry_is_refused(stamp):
    head, data = step_of(np.zeros((2, 4), np.float32))
    with pytest.raises(StepError):
        frame_of_step(head | {'stamp': stamp}, data, [1, 2], 1)


def test_detections_go_back_into_carlas_map():
    boxes = Boxes3D(
        np.array([[10.0, 2.0, -1.0, 4.0, 2.0, 1.5, np.pi / 6]]), scores=np.array([0.8], np.float32)
    )
    # The LiDAR stands at (3, 4, 2), heading left.
    (row,) = rows_in_carla(boxes, pose_from_euler((3.0, 4.0, 2.0), yaw=np.pi / 2))
    np.testing.assert_allclose(row, (1.0, -14.0, 1.0, 4.0, 2.0, 1.5, -120.0, 0.8), atol=1e-5)
    assert rows_in_carla(Boxes3D.empty(), np.eye(4)).shape == (0, 8)
