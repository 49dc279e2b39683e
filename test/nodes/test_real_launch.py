# SPDX-License-Identifier: Apache-2.0
"""What `ros2 launch` does with the launch files, by the real `launch` where it is installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_stand_in import REAL
from patience import PATIENCE, until
from processes_below import processes_below

from diffkd_ros.launching.processes import in_child
from diffkd_ros.share import share_directory

pytestmark = pytest.mark.skipif(not REAL, reason='the real launch is not installed')

# As `ros2 launch FILE ARGUMENTS`; ros2cli itself is not needed.
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *arguments = sys.argv[1:]
given = [tuple(argument.split(':=', 1)) for argument in arguments]
included = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=given)
service = LaunchService(argv=arguments)
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


@pytest.fixture
def launch(tmp_path, domain):
    """Starts a launch file with an installation of this checkout; ends what is left of it."""
    share = share_directory()
    prefix = tmp_path / 'prefix'
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'diffkd_ros').touch()
    (prefix / 'share' / 'diffkd_ros').symlink_to(share)
    (prefix / 'lib').mkdir()
    (prefix / 'lib' / 'diffkd_ros').symlink_to(share / 'scripts')
    environment = {
        **os.environ,
        'AMENT_PREFIX_PATH': f'{prefix}{os.pathsep}{sys.prefix}',
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        'ROS_DOMAIN_ID': str(domain),
        'ROS_LOG_DIR': str(tmp_path / 'log'),
    }
    running = []

    def launch(name, *arguments):
        log = tmp_path / f'{len(running)}.log'
        with log.open('w') as file:
            process = subprocess.Popen(
                [sys.executable, '-c', LAUNCH, str(share / 'launch' / f'{name}.launch.py'), *arguments],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=in_child,
            )
        running.append(process)
        return process, log.read_text

    yield launch
    for process in running:
        process.kill()
        process.wait()
    for pid, _ in processes_below(prefix, '_node'):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def code_of(tmp_path):
    """The exit code of a launch, which must have ended with all of its processes."""

    def code_of(process):
        code = process.wait(PATIENCE)
        assert processes_below(tmp_path, '_node') == []
        return code

    return code_of


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('coop', ['rviz:=true'], 'needs the ROS package rviz2'),
        ('coop', ['vehicles:=1,two'], 'vehicles:=1,two must consist of integers'),
        ('vehicle', ['namespace:=cav_1', 'min_score:=high'], 'min_score:=high must consist of'),
    ],
)
def test_a_wrong_argument_starts_nothing(launch, code_of, name, arguments, message):
    process, log = launch(name, *arguments)
    assert code_of(process) == 1
    assert message in log()
    assert 'process started' not in log()


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [('coop', ['vehicles:=1,2', 'model:=nonesuch']), ('vehicle', ['namespace:=cav_1', 'model:=nonesuch'])],
)
def test_a_node_that_cannot_start_ends_all(launch, code_of, name, arguments):
    """In coop, the player would run on for ever; in vehicle, the node would be started again and again."""
    process, log = launch(name, *arguments)
    assert code_of(process) == 1
    assert re.search(r'\w+_node-\d ended with exit code 2', log())


def test_a_killed_vehicle_is_started_again(launch, code_of, tmp_path):
    process, log = launch('vehicle', 'namespace:=truck', 'points:=/lidar/points', 'log_level:=debug')
    until(lambda: 'truck shares features' in log(), 'the vehicle')
    ((pid, _),) = processes_below(tmp_path, '_node')
    os.kill(pid, signal.SIGKILL)
    until(lambda: log().count('truck shares features') == 2, 'the vehicle again')
    os.killpg(process.pid, signal.SIGINT)
    assert code_of(process) == 0


def test_ctrl_c_ends_a_launch_on_a_busy_machine_before_it_becomes_impatient(launch, code_of):
    """After 5 s `launch` sends SIGTERM, and 5 s later SIGKILL."""
    process, log = launch('coop', 'mode:=realtime', 'vehicles:=1,2')
    until(lambda: re.search(r'evaluator_node-\d\].* \d+ frames', log()), 'the first score')
    busy = [
        subprocess.Popen([sys.executable, '-c', 'while True: pass'], preexec_fn=in_child)
        for _ in range(5 * (os.cpu_count() or 1))
    ]
    try:
        os.killpg(process.pid, signal.SIGINT)
        assert code_of(process) == 0
    finally:
        for loop in busy:
            loop.kill()
            loop.wait()
    assert 'escalating' not in log()
    assert log().count('process has finished cleanly') == 4
    assert 'Failed to publish' not in log()
    assert 'Traceback' not in log()
