# SPDX-License-Identifier: Apache-2.0
"""How nodes end: with code 0 on a signal, with one line and code 2 if they cannot start."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE, until

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.graph import NodeSpec


def fails(group, spec):
    """Start a node that must fail at start; returns the line it logs."""
    process = group.start(spec)
    assert process.wait(PATIENCE)
    log = process.tail()
    assert process.returncode == 2
    with pytest.raises(DiffkdError, match='ended with code 2'):
        group.check()
    group.stop([process])
    (line,) = (line for line in log.splitlines() if 'FATAL' in line)
    assert 'Traceback' not in log
    return line


def test_a_model_folder_that_does_not_match_its_card(group, model, tmp_path):
    shutil.copytree(model, tmp_path / 'model')
    with (tmp_path / 'model' / 'encoder.onnx').open('ab') as file:
        file.write(b'0')
    line = fails(group, NodeSpec('vehicle_node', '/cav_2', (), {'model': str(tmp_path / 'model')}))
    assert 'encoder.onnx is not the file its card describes' in line


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        (
            NodeSpec('ego_node', '/cav_1', (), {'model': 'nonesuch'}),
            "model 'nonesuch' is neither a folder nor",
        ),
        (
            NodeSpec('evaluator_node', '/cav_1', (), {'model': 'nonesuch'}),
            "model 'nonesuch' is neither a folder nor",
        ),
        (
            NodeSpec('ego_node', '/cav_1', (), {'max_aeg': 1.0}),
            'has no parameter max_aeg; did you mean max_age?',
        ),
        (NodeSpec('player_node', '/', (), {'source': 'opv2v:/nowhere'}), 'needs a path that exists'),
        (
            NodeSpec('player_node', '/', (), {'mode': 'realtime', 'rates': [5.0, 30.0]}),
            'source sim: rate 30.0: Input should be less than or equal to 20',
        ),
        (NodeSpec('recorder_node', '/', (), {'out': '/proc/bag'}), 'cannot write a bag to /proc/bag'),
    ],
)
def test_a_node_that_cannot_start_logs_the_reason_in_one_line(group, spec, message):
    line = fails(group, spec)
    assert message in line
    # The name of the node with its namespace.
    assert f'[{spec.label}]: ' in line


def test_a_missing_python_package_is_named_in_one_line(domain, tmp_path):
    """Recordings are read by a package that nodes do not need otherwise."""
    (tmp_path / 'bag').mkdir()
    start = (
        "import sys; sys.modules['rosbags'] = None; import diffkd_ros.nodes.player_node as node; node.main()"
    )
    done = subprocess.run(
        [sys.executable, '-c', start, '--ros-args', '-p', f'source:=bag:{tmp_path / "bag"}'],
        env={**os.environ, 'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert '[player_node]: rosbags is missing: ' in line


def test_without_a_folder_for_logs_ros_says_so_in_one_line(domain):
    done = subprocess.run(
        [sys.executable, '-m', 'diffkd_ros.nodes.evaluator_node'],
        env={**os.environ, 'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': '/proc/nowhere'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith('ROS does not start: ')
    assert '/proc/nowhere' in line


def test_a_result_that_cannot_be_written_is_one_line_at_the_end(group, model):
    parameters = {'model': str(model), 'out': '/proc/result.json'}
    process = group.start(NodeSpec('evaluator_node', '/cav_1', (), parameters))
    group.wait_ready(PATIENCE)
    process.signal(signal.SIGINT)
    assert process.wait(PATIENCE)
    assert process.returncode == 1
    assert 'cannot write /proc/result.json' in process.tail().splitlines()[-1]
    assert 'Traceback' not in process.tail()
    group.stop([process])


def test_an_agent_needs_a_name(group, model):
    assert 'set the parameter agent_id' in fails(
        group, NodeSpec('vehicle_node', '/', (), {'model': str(model)})
    )


@pytest.mark.parametrize('signals', [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_interrupted_nodes_end_cleanly(group, model, signals):
    specs = [
        NodeSpec('vehicle_node', '/cav_2', (), {'model': str(model)}),
        NodeSpec('evaluator_node', '/cav_1', (), {'model': str(model)}),
    ]
    processes = [group.start(spec) for spec in specs]
    group.wait_ready(PATIENCE)
    for number in signals:
        for process in processes:
            process.signal(number)
    for process in processes:
        assert process.wait(PATIENCE)
        assert process.returncode == 0, process.tail()
        assert 'Traceback' not in process.tail()
        assert f'[diffkd_ros]: {process.label}: ' in process.tail().splitlines()[-1]
    group.stop(processes)


def test_a_node_can_be_interrupted_although_its_parent_ignores_that(group, model):
    """As in the background of a shell script, and before the node has set up its own handling."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = group.start(NodeSpec('vehicle_node', '/cav_2', (), {'model': str(model)}), label='early')
    finally:
        signal.signal(signal.SIGINT, previous)
    process.signal(signal.SIGINT)
    assert process.wait(PATIENCE)
    group.stop([process])


@pytest.mark.parametrize('imported', ['rclpy', 'onnxruntime'])
def test_a_node_that_is_interrupted_while_it_is_imported_ends_quietly(imported, domain, tmp_path):
    script = Path(__file__).parents[2] / 'scripts' / 'vehicle_node'
    process = subprocess.Popen(
        [sys.executable, script, '--ros-args', '-r', '__ns:=/cav_2'],
        env={**os.environ, 'ROS_DOMAIN_ID': str(domain), 'ROS_LOG_DIR': str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A suite in the background of a script inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        mapped = Path(f'/proc/{process.pid}/maps')
        until(lambda: f'/{imported}/' in mapped.read_text(), f'the import of {imported}')
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert 'Traceback' not in output


@pytest.mark.parametrize(
    ('node', 'package'),
    [('autoware_node', 'autoware_perception_msgs'), ('cpm_node', 'etsi_its_cpm_ts_msgs')],
)
def test_a_converter_names_its_missing_package(group, node, package):
    if importlib.util.find_spec(package):
        pytest.skip(f'{package} is installed')
    assert f'{node} needs the package {package}' in fails(group, NodeSpec(node, '/cav_1', (), {}))
