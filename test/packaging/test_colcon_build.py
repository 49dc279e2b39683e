# SPDX-License-Identifier: Apache-2.0
"""`colcon build` gives the same package as pip, and the messages of both builds are compatible over DDS."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

PROJECT = Path(__file__).parents[2]
PREFIXES = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]

pytestmark = [
    pytest.mark.skipif(shutil.which('colcon') is None, reason='colcon is not on the PATH'),
    pytest.mark.skipif(
        not any((Path(prefix) / 'share' / 'ament_cmake').is_dir() for prefix in PREFIXES if prefix),
        reason='ament_cmake is not installed',
    ),
]

PUBLISHER = """
import time
import rclpy
from diffkd_ros.msg import BevFeature
rclpy.init()
node = rclpy.create_node('publisher')
publisher = node.create_publisher(BevFeature, 'exchange', 10)
while publisher.get_subscription_count() == 0:
    time.sleep(0.05)
message = BevFeature(agent_id='3', sequence=7, scales=[0.5, 0.25])
message.data.frombytes(bytes(range(256)) * 1000)
publisher.publish(message)
publisher.wait_for_all_acked()
print(__import__('diffkd_ros.msg').msg.__file__)
"""
SUBSCRIBER = """
import sys
import rclpy
from diffkd_ros.msg import BevFeature
rclpy.init()
node = rclpy.create_node('subscriber')
received = []
node.create_subscription(BevFeature, 'exchange', received.append, 10)
while not received:
    rclpy.spin_once(node, timeout_sec=1.0)
(message,) = received
assert (message.agent_id, message.sequence, list(message.scales)) == ('3', 7, [0.5, 0.25])
assert bytes(message.data) == bytes(range(256)) * 1000
print(__import__('diffkd_ros.msg').msg.__file__)
"""


@pytest.fixture(scope='module')
def workspace(checkout):
    """A colcon workspace with a built copy of this checkout."""
    workspace = checkout.parents[1]
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
    # A sourced distribution sets its prefix; that of the wheels is the prefix of this environment.
    for variable in ('AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH'):
        environment.setdefault(variable, sys.prefix)
    command = [
        'colcon',
        'build',
        '--cmake-args',
        '-DBUILD_TESTING=OFF',
        f'-DPython3_EXECUTABLE={sys.executable}',
    ]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


def in_workspace(workspace: Path, program: str) -> list[str]:
    """Return a command that runs a Python program with the workspace sourced."""
    return [
        'bash',
        '-c',
        f'source {workspace}/install/local_setup.bash && exec {sys.executable} -c "$0"',
        program,
    ]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_code_and_messages_come_from_the_workspace(workspace):
    program = """
import diffkd_ros.msg as msg, diffkd_ros.share as share
print(msg.__file__, share.__file__, share.share_directory())
"""
    paths = run(in_workspace(workspace, program), workspace).split()
    assert all(Path(path).is_relative_to(workspace / 'install' / 'diffkd_ros') for path in paths)


def test_nodes_models_and_config_are_installed(workspace):
    prefix = workspace / 'install' / 'diffkd_ros'
    for script in (PROJECT / 'scripts').iterdir():
        assert os.access(prefix / 'lib' / 'diffkd_ros' / script.name, os.X_OK)
    for folder in ('config', 'launch', 'models'):
        for path in (PROJECT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert (prefix / 'share' / 'diffkd_ros' / path.relative_to(PROJECT)).is_file()


@pytest.mark.parametrize('publisher_from', ['colcon', 'pip'])
def test_messages_of_both_builds_understand_each_other(workspace, publisher_from, tmp_path, monkeypatch):
    pytest.importorskip('diffkd_ros.msg', reason='diffkd_ros.msg is not built in this environment')
    monkeypatch.setenv('ROS_DOMAIN_ID', '97')
    publisher, subscriber = [sys.executable, '-c', PUBLISHER], in_workspace(workspace, SUBSCRIBER)
    if publisher_from == 'colcon':
        publisher, subscriber = in_workspace(workspace, PUBLISHER), [sys.executable, '-c', SUBSCRIBER]
    with subprocess.Popen(publisher, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            files = [run(subscriber, tmp_path), process.communicate(timeout=PATIENCE)[0].strip()]
        finally:
            process.kill()
    assert sum(Path(file).is_relative_to(workspace) for file in files) == 1
