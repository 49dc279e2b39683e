# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it: complete but small, interrupted, and with a node that dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE, until

pytest.importorskip('rclpy', reason='the demo needs ROS 2')
from PIL import Image
from processes_below import processes_below

from diffkd_ros.sources.rosbag import RosbagDataset


def command(out, model, *options):
    run = [sys.executable, '-m', 'diffkd_ros.cli', 'demo', '--out', str(out), '--model', str(model)]
    return [*run, *options]


def nodes_of(out):
    """Numbers and command lines of the nodes that write below a folder."""
    return processes_below(out, 'diffkd_ros.nodes')


def test_a_small_demo(tmp_path, model):
    (tmp_path / 'notes.txt').write_text('mine')
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'left.over').write_text('from an earlier run')
    options = ('--frames', '3', '--vehicles', '2', '--realtime-seconds', '0.2', '--rate', '2')
    result = subprocess.run(
        command(tmp_path, model, *options), capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for words in ('AP@0.5', 'cooperative', 'ego alone', 'Mbit/s', 'highest rate held', 'cav_2'):
        assert words in result.stdout
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert (summary['frames_sent'], summary['frames_fused'], summary['frames_lost']) == (3, 3, 0)
    assert 0.0 <= summary['ap50_ego_only'] <= 1.0
    assert 0.0 <= summary['ap50_cooperative'] <= 1.0
    assert summary['latency_p95_ms'] >= summary['latency_p50_ms'] > 0
    assert list(summary['mbit_per_s']) == ['cav_2']
    assert summary['realtime'][0]['sent'] == 1
    assert len(list(RosbagDataset(tmp_path / 'bag'))) == 3
    assert Image.open(tmp_path / 'bev.png').width > 1000
    assert Image.open(tmp_path / 'animation.gif').n_frames == 2
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
    assert not nodes_of(tmp_path)


@pytest.fixture
def start(tmp_path, model):
    """Starts a demo whose parent ignores the given signals, and waits until it plays in lock-step."""
    started = []

    def start(*ignored):
        def in_child():
            # The tests may run in the background of a script themselves, which ignores SIGINT.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        process = subprocess.Popen(
            command(tmp_path, model, '--vehicles', '2'),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=in_child,
        )
        started.append(process)
        for line in process.stdout:
            if 'lock-step' in line:
                break
        assert len(nodes_of(tmp_path)) == 5
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ('number', 'ignored'),
    [(signal.SIGINT, ()), (signal.SIGTERM, (signal.SIGINT,))],
)
def test_interrupted_it_takes_every_process_with_it(start, tmp_path, number, ignored):
    running = start(*ignored)
    running.send_signal(number)
    output = running.communicate(timeout=PATIENCE)[0]
    assert running.returncode == 130
    assert 'interrupted' in output
    assert 'Traceback' not in output
    assert not nodes_of(tmp_path)


def ignores(process, number):
    (mask,) = re.findall(r'SigIgn:\t(\w+)', Path(f'/proc/{process.pid}/status').read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_under_nohup_it_ignores_hangups_and_killed_it_takes_every_process_with_it(start, tmp_path):
    running = start(signal.SIGINT, signal.SIGHUP)
    assert ignores(running, signal.SIGHUP)
    running.kill()
    running.wait()
    until(lambda: not nodes_of(tmp_path), 'the end of every node')


def test_a_process_that_dies_ends_it_with_a_word(start, tmp_path):
    running = start()
    (ego,) = (pid for pid, line in nodes_of(tmp_path) if 'ego_node' in line)
    os.kill(ego, signal.SIGKILL)
    output = running.communicate(timeout=PATIENCE)[0]
    assert running.returncode == 1
    assert 'cav_1.ego_node ended with code -9' in output
    assert 'Traceback' not in output
    assert not nodes_of(tmp_path)


def test_a_model_that_is_not_there(tmp_path):
    result = subprocess.run(command(tmp_path, 'nonesuch'), capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 1
    assert result.stderr.startswith("diffkd demo: model 'nonesuch' is neither a folder nor")
    assert 'Traceback' not in result.stderr
