# SPDX-License-Identifier: Apache-2.0
"""A drive played by the stand-in arrives unchanged through the real client."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from patience import PATIENCE

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')

from diffkd_ros.cosim.errors import CosimError
from diffkd_ros.cosim.session import CarlaSession
from diffkd_ros.cosim.settings import SessionSettings
from diffkd_ros.cosim.testing.process import StandInProcess
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.sources.opv2v import Opv2vDataset, write_opv2v
from diffkd_ros.sources.source import Source

FRAMES = 6
SEED = 5


@pytest.fixture(scope='module')
def simulated() -> list[CoopFrame]:
    simulator = {'agents': 2, 'frames_per_scenario': FRAMES}
    return list(itertools.islice(Source(f'sim:{SEED}', simulator=simulator).frames(), FRAMES))


def played(server: StandInProcess, count: int) -> list[CoopFrame]:
    settings = SessionSettings({1: 'cav_1', 2: 'cav_2'}, 1, port=server.port, spawn=False)
    with CarlaSession(settings) as session:
        frames = [session.next_frame() for _ in range(count)]
    report = server.report()
    assert (report['unknown'], report['failed']) == ({}, {})
    return frames


def assert_same_drive(frames: list[CoopFrame], originals: list[CoopFrame]) -> None:
    """The frames are consecutive frames of the drive, which repeats, from any first one."""
    begin = next(
        k
        for k, original in enumerate(originals)
        if np.array_equal(original.agents[1].points, frames[0].agents[1].points)
    )
    for k, frame in enumerate(frames):
        original = originals[(begin + k) % len(originals)]
        assert frame.agents.keys() == original.agents.keys()
        for agent, sweep in original.agents.items():
            np.testing.assert_array_equal(frame.agents[agent].points, sweep.points)
            # CARLA's transforms are 32-bit floats in degrees.
            np.testing.assert_allclose(frame.agents[agent].pose, sweep.pose, atol=2e-5)
        truth, expected = ground_truth_in(frame, 1), ground_truth_in(original, 1)
        order, there = np.argsort(truth.boxes[:, 0]), np.argsort(expected.boxes[:, 0])
        np.testing.assert_allclose(truth.boxes[order], expected.boxes[there], atol=1e-3)
        connected = truth.track_ids == 2
        np.testing.assert_allclose(truth.boxes[connected], expected.boxes[expected.track_ids == 2], atol=1e-3)


def test_simulated_traffic(simulated):
    options = ('--source', 'sim', '--seed', str(SEED), '--vehicles', '2', '--frames', str(FRAMES))
    with StandInProcess(*options) as server:
        assert_same_drive(played(server, FRAMES + 3), simulated)


def test_an_opv2v_folder(simulated, tmp_path):
    write_opv2v(simulated, tmp_path / 'opv2v')
    recorded = Opv2vDataset(tmp_path / 'opv2v')
    with StandInProcess('--source', f'opv2v:{tmp_path / "opv2v"}') as server:
        assert_same_drive(played(server, FRAMES), [recorded[k] for k in range(len(recorded))])


LISTEN = """
import sys
import threading

import carla

from diffkd_ros.cosim.callbacks import ClientCallbacks

client = carla.Client('127.0.0.1', int(sys.argv[1]))
client.set_timeout(10.0)
world = client.get_world()
for blueprint in world.get_blueprint_library().filter('sensor.*'):
    sensor = world.spawn_actor(blueprint, carla.Transform())
    measured = threading.Event()
    callbacks = ClientCallbacks()
    sensor.listen(callbacks.give(lambda measurement: measured.set()))
    print(blueprint.id, measured.wait(10.0))
    sensor.stop()
    assert callbacks.wait_released(10.0)
    sensor.destroy()
"""


def test_every_sensor_that_the_stand_in_offers_can_be_listened_to(empty):
    """In a separate process, because the client aborts it if it cannot read a measurement."""
    command = [sys.executable, '-c', LISTEN, str(empty.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ['sensor.lidar.ray_cast True']


def test_a_missing_source_is_named():
    with pytest.raises(CosimError, match='opv2v:/nowhere'):
        StandInProcess('--source', 'opv2v:/nowhere')


def test_the_native_interface_is_enabled_with_names(empty):
    settings = SessionSettings({1: 'cav_1', 2: 'cav_2'}, 1, port=empty.port, native=True)
    with CarlaSession(settings) as session:
        frame = session.next_frame()
        report = empty.report()
    assert sorted(report['ros_names']) == ['cav_1', 'cav_1_lidar', 'cav_2', 'cav_2_lidar']
    assert len(report['enabled_for_ros']) == 2
    assert {agent: len(sweep.points) for agent, sweep in frame.agents.items()} == {1: 0, 2: 0}
    assert frame.agents[1].pose[2, 3] == pytest.approx(1.9)
    assert frame.ground_truth.num_points is None
