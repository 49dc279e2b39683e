# SPDX-License-Identifier: Apache-2.0
"""The demo of the co-simulation as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from processes_below import processes_below

pytest.importorskip('carla', reason='the CARLA client has no wheel here')
pytest.importorskip('msgpack', reason='the stand-in needs msgpack')
pytest.importorskip('rclpy', reason='the demo needs ROS 2')


def command(out, model, *options):
    run = [sys.executable, '-m', 'diffkd_ros.cli', 'demo-carla', '--out', str(out), '--model', str(model)]
    return [*run, '--vehicles', '2', *options]


def test_a_small_demo(tmp_path, model):
    done = subprocess.run(
        command(tmp_path, model, '--frames', '3'), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ('3, 3, 3', 'average precision', 'unchanged'):
        assert words in done.stdout
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['frames'] == {'sent': 3, 'answered': 3, 'features_missing': 0}
    carla = summary['carla']
    assert carla['bounding_box_calls'] >= carla['vehicles'] > 2
    assert (carla['unknown_calls'], carla['sensors_left_behind'], summary['problems']) == ({}, 0, {})
    assert not processes_below(tmp_path, 'diffkd_ros')
