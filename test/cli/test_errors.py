# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can correct are one line on stderr and exit code 1, whatever the verb."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from missing_package import without
from typer.testing import CliRunner

from diffkd_ros import errors
from diffkd_ros.bags.convert import write_bag
from diffkd_ros.cli import app
from diffkd_ros.errors import EXTRA_OF, MissingExtra
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('recorded') / 'bag'
    write_bag([Simulator(SimulatorConfig(agents=1, frames_per_scenario=1)).scenario(0).frame(0)], path)
    return path


def require_installed(verb, but=''):
    """Skip the test if a package that the verb checks first, other than `but`, is not installed."""
    needed = {
        'demo': ['rclpy'],
        'demo-carla': ['rclpy', 'carla', 'msgpack'],
        'bench-opencda': ['rclpy', 'msgpack'],
    }
    for module in needed.get(verb, []):
        if module != but:
            pytest.importorskip(module)


@pytest.mark.parametrize(
    ('module', 'extra', 'verb', 'options'),
    [
        ('rclpy', 'ros', 'demo', []),
        ('rosbags', 'data', 'demo', []),
        ('matplotlib', 'report', 'demo', []),
        ('PIL', 'report', 'demo', []),
        ('carla', 'carla', 'demo-carla', []),
        ('msgpack', 'carla', 'demo-carla', []),
        ('rclpy', 'ros', 'bench-opencda', ['.']),
        ('msgpack', 'carla', 'bench-opencda', ['.']),
        ('torch', 'train', 'train', []),
        ('lightning', 'train', 'train', []),
        ('safetensors', 'train', 'train', []),
        ('onnx', 'train', 'train', []),
        ('matplotlib', 'report', 'evaluate', ['--out', 'out']),
        (
            'scipy',
            'report',
            'evaluate',
            ['--out', 'out', '--calibration', 'isotonic', '--calibrate-on', 'sim:4'],
        ),
        ('torch', 'train', 'evaluate', ['--out', 'out', '--model', 'last.safetensors']),
        ('rosbags', 'data', 'evaluate', ['--out', 'out', '--source', 'bag:{bag}']),
        ('torch', 'train', 'evidence', []),
        ('pypcd4', 'data', 'data check', ['opv2v:{bag}']),
        ('rosbags', 'data', 'data check', ['{bag}']),
        ('rosbags', 'data', 'bag convert', ['sim', 'out']),
        ('rosbags', 'data', 'bag page', ['{bag}']),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module, extra, verb, options, bag, tmp_path):
    require_installed(verb, but=module)
    words = [*verb.split(), *(option.format(bag=bag) for option in options)]
    done = subprocess.run(
        [sys.executable, '-c', without(module), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == f"diffkd {verb}: {module} is missing: pip install 'diffkd-ros[{extra}]'\n"
    assert done.returncode == 1
    assert not [path for path in tmp_path.rglob('*.*') if path.suffix != '.json']  # nothing was run


def test_extras_are_those_of_the_package():
    """Each module that is installed comes from a distribution that its extra requires."""
    project = tomllib.loads((Path(__file__).parents[2] / 'pyproject.toml').read_text())['project']
    required = {
        extra: {re.split(r'[^\w-]', line)[0] for line in lines}
        for extra, lines in project['optional-dependencies'].items()
    }
    distributions = importlib.metadata.packages_distributions()
    checked = 0
    for module, extra in EXTRA_OF.items():
        if module in distributions:
            names = {name.replace('_', '-').lower() for name in distributions[module]}
            assert names & required[extra], f'{module} of {names} is not required by the extra {extra}'
            checked += 1
    assert checked > 5


def test_without_pip_a_missing_package_is_named_without_an_extra(monkeypatch):
    """colcon leaves no metadata of a Python distribution, and knows no extras."""

    def not_found(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(errors, 'distribution', not_found)
    assert str(MissingExtra('PIL', 'report')) == 'PIL is missing: rosdep or pip installs pillow'


def test_a_missing_extra_survives_the_way_from_a_worker_process():
    error = pickle.loads(pickle.dumps(MissingExtra('torch', 'train')))
    assert str(error) == "torch is missing: pip install 'diffkd-ros[train]'"


@pytest.mark.parametrize(
    ('verb', 'options', 'message'),
    [
        ('demo', ['--model', 'absent'], 'absent'),
        ('demo-carla', ['--model', 'absent'], 'absent'),
        ('bench-opencda', ['.', '--model', 'absent'], 'absent'),
        ('train', ['absent.yaml'], 'absent.yaml'),
        ('bench', ['--model', 'absent'], 'absent'),
        ('evaluate', ['--out', 'out', '--source', 'tape:x'], "no source 'tape:x'"),
        ('evaluate', ['--out', 'out', '--corruptions', 'fogg'], 'fog'),
        ('evaluate', ['--out', 'out', '--model', 'absent.safetensors'], 'absent.safetensors'),
        ('evidence', ['absent.yaml'], 'absent.yaml'),
        ('data check', ['absent'], 'absent: not a folder'),
        ('bag convert', ['opv2v:absent', 'out'], 'absent'),
        ('bag page', ['absent'], 'absent'),
        ('bag page', ['{bag}', '--out', 'absent/page.html'], 'absent/page.html'),
    ],
)
def test_errors_are_one_line(verb, options, message, bag, tmp_path, monkeypatch):
    require_installed(verb)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*verb.split(), *(option.format(bag=bag) for option in options)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f'diffkd {verb}: ')
    assert message in done.stderr
    assert done.stderr.count('\n') == 1


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    """A module that belongs to no extra is a fault of the installation, whose traceback helps."""
    done = CliRunner().invoke(app, ['bench', '--model', 'sim_edge', '--threads', 'many'])
    assert done.exit_code == 2
    monkeypatch.setitem(sys.modules, 'diffkd_ros.benchmark.run', None)
    done = CliRunner().invoke(app, ['bench'])
    assert isinstance(done.exception, ModuleNotFoundError)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_evaluation_says_so(number, tmp_path):
    command = [sys.executable, '-m', 'diffkd_ros.cli', 'evaluate', '--out', str(tmp_path / 'out')]
    # A parent may have started the tests with signals ignored.
    restored = (
        'import os, signal, sys; [signal.signal(number, signal.SIG_DFL) for number in (1, 2, 15)]; '
        'os.execv(sys.argv[1], sys.argv[1:])'
    )
    running = subprocess.Popen(
        [sys.executable, '-c', restored, *command, '--workers', '1'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    running.stdout.readline()  # the line that says what is evaluated
    running.send_signal(number)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 130, output + errors
    assert 'interrupted; the same command continues from here' in output
    assert 'Traceback' not in errors


def test_a_command_that_ignores_hang_ups_goes_on_ignoring_them(tmp_path):
    """As under nohup."""
    code = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from diffkd_ros.cli.verbs import interruptible
with interruptible('never'):
    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == 'True\n', done.stderr
