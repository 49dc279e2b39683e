# SPDX-License-Identifier: Apache-2.0
"""The check of a CARLA server, run on the stand-in in good and bad states."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')

from diffkd_ros.cosim import smoke
from diffkd_ros.cosim.testing.process import StandInProcess


def results(text):
    return [line.split('  ', 1)[0] for line in text.splitlines()]


def test_all_is_well(empty, capsys):
    assert smoke.main(['--port', str(empty.port)]) == 0
    out = capsys.readouterr().out
    assert results(out) == ['PASS'] * len(smoke.CHECKS), out
    assert empty.report()['unknown'] == {}


def test_a_server_built_from_source(capsys):
    with StandInProcess('--version', '5c2e8f1') as server:
        assert smoke.main(['--port', str(server.port)]) == 1
        assert 'VersionMismatchError' in capsys.readouterr().out
        assert smoke.main(['--port', str(server.port), '--source-build']) == 0


def test_no_server_answers(capsys):
    with StandInProcess() as gone:
        port = gone.port
    assert smoke.main(['--port', str(port), '--timeout', '1']) == 1
    out = capsys.readouterr().out
    assert results(out) == ['PASS', 'FAIL'] + ['SKIP'] * (len(smoke.CHECKS) - 2)
    assert 'ServerAbsentError' in out


def test_a_silent_lidar_fails_its_item_and_the_world_is_left_as_it_was(empty, capsys):
    empty.call('stand_in_mute', 0)
    assert smoke.main(['--port', str(empty.port)]) == 1
    out = capsys.readouterr().out
    assert 'FAIL  vehicles and LiDARs in synchronous mode: SweepTimeoutError' in out
    assert 'PASS  the world is left as it was' in out


@pytest.mark.parametrize('module', ['smoke', 'testing.carla_stand_in'])
def test_it_needs_no_ros(module):
    code = f'import sys, diffkd_ros.cosim.{module}; print("rclpy" in sys.modules, "carla" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'False']
