# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile and the devcontainer, as far as they can be checked without building an image."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / 'Dockerfile').read_text()
# Without comments, continued lines joined.
LINES = re.sub(r'\\\n\s*', ' ', re.sub(r'(?m)^\s*#.*\n', '', TEXT)).splitlines()


def arguments(instruction):
    return [line.split(None, 1)[1] for line in LINES if line.startswith(f'{instruction} ')]


def test_what_is_copied_is_there_and_not_ignored():
    ignored = [
        line
        for line in (PROJECT / '.dockerignore').read_text().splitlines()
        if line and not line.startswith('#')
    ]
    needed = ['package.xml', 'CMakeLists.txt', 'diffkd_ros/cli/__init__.py']
    needed += [
        str(path.relative_to(PROJECT))
        for folder in ('config', 'launch', 'models', 'msg', 'scripts')
        for path in (PROJECT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    ]
    for copied in arguments('COPY'):
        for source in copied.split()[:-1]:
            assert (PROJECT / source).exists()
            needed.append(source)
    for name in needed:
        parts = [name, *map(str, Path(name).parents)]
        assert not any(fnmatch(part, pattern) for part in parts for pattern in ignored), name


@pytest.mark.parametrize('distribution', ['humble', 'jazzy', 'kilted'])
def test_it_stands_on_the_official_image_of_the_distribution_asked_for(distribution):
    assert arguments('ARG')[0].partition('=')[0] == 'ROS_DISTRO'
    first, *others = arguments('FROM')
    assert first.replace('${ROS_DISTRO}', distribution) == f'ros:{distribution}-ros-base AS dependencies'
    assert [other.split()[0] for other in others] == ['dependencies']


def test_the_devcontainer_is_a_stage_of_it():
    folder = PROJECT / '.devcontainer'
    build = json.loads((folder / 'devcontainer.json').read_text())['build']
    assert (folder / build['dockerfile']).resolve() == PROJECT / 'Dockerfile'
    assert build['target'] in [line.split()[-1] for line in arguments('FROM')]
    assert set(build['args']) <= {line.partition('=')[0] for line in arguments('ARG')}


def test_the_entry_point_is_a_script_that_can_run(tmp_path):
    (entry,) = (line.split()[0] for line in arguments('COPY') if 'entrypoint' in line)
    assert os.access(PROJECT / entry, os.X_OK)
    subprocess.run(['bash', '-n', PROJECT / entry], check=True)


def test_launch_files_find_what_the_image_installed(tmp_path):
    """They run in the Python of `ros2`, not in that of the environment."""
    (entry,) = (line.split()[0] for line in arguments('COPY') if 'entrypoint' in line)
    (environment,) = re.findall(r'python3 -m venv --system-site-packages (\S+)', TEXT)
    ros, packages = tmp_path / 'opt/ros/any', tmp_path / f'.{environment}/lib/python3.99/site-packages'
    for folder, module in ((ros, 'of_ros'), (packages, 'of_pip')):
        folder.mkdir(parents=True)
        (folder / f'{module}.py').touch()
    (ros / 'setup.bash').write_text(f'export PYTHONPATH={ros}')
    script = tmp_path / 'entrypoint.sh'
    script.write_text((PROJECT / entry).read_text().replace('/opt/', f'{tmp_path}/opt/'))
    subprocess.run(
        ['bash', script, sys.executable, '-c', 'import of_ros, of_pip'],
        env={**os.environ, 'ROS_DISTRO': 'any'},
        check=True,
    )


def test_it_does_not_run_as_root_and_holds_what_is_compiled_at_the_first_start():
    (user,) = arguments('USER')
    assert int(user) > 0
    runs = arguments('RUN')
    (cache,) = re.findall(r'NUMBA_CACHE_DIR=(\S+)', TEXT)
    assert any(f'--owner={user} "${{NUMBA_CACHE_DIR}}"' in run for run in runs), cache
    before_user = LINES.index(f'USER {user}')
    (compiled,) = [k for k, line in enumerate(LINES) if line.endswith('diffkd compile')]
    assert before_user < compiled


def test_a_user_without_a_home_folder_has_a_place_for_logs(tmp_path):
    (tmp_path / 'opt/ros/any').mkdir(parents=True)
    (tmp_path / 'opt/ros/any/setup.bash').touch()
    script = tmp_path / 'entrypoint.sh'
    text = (PROJECT / 'docker/entrypoint.sh').read_text()
    script.write_text(text.replace('/opt/', f'{tmp_path}/opt/'))
    for home, expected in (('/proc/nowhere', f'{tmp_path}/ros'), (str(tmp_path), '')):
        done = subprocess.run(
            ['bash', script, 'sh', '-c', 'echo $ROS_LOG_DIR'],
            env={'PATH': os.environ['PATH'], 'ROS_DISTRO': 'any', 'HOME': home, 'TMPDIR': str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


@pytest.mark.skipif(
    shutil.which('hadolint', path=str(Path(sys.executable).parent)) is None, reason='no hadolint'
)
def test_the_linter_finds_nothing():
    linter = Path(sys.executable).with_name('hadolint')
    done = subprocess.run([linter, PROJECT / 'Dockerfile'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
