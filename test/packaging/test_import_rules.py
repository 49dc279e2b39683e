# SPDX-License-Identifier: Apache-2.0
"""The import rules hold, in the sources and in a running process."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name('lint-imports'), '--no-cache']
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_import_contracts_are_kept():
    done = lint_imports(PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    'breaches',
    [
        {
            ('runtime/session.py', 'import torch'): 'diffkd_ros.runtime is not allowed to import torch',
            ('model/student.py', 'import rclpy'): 'diffkd_ros.model is not allowed to import rclpy',
            ('frame.py', 'import carla'): 'diffkd_ros.sources is not allowed to import carla',
            ('new_package.py', ''): 'diffkd_ros.new_package',
        },
        {('geometry/poses.py', 'import torch'): 'diffkd_ros.runtime is not allowed to import torch'},
    ],
)
def test_import_contracts_see_every_breach(breaches, tmp_path):
    shutil.copy(PROJECT / '.importlinter', tmp_path)
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(PROJECT / 'diffkd_ros', tmp_path / 'diffkd_ros', ignore=ignore)
    for module, line in breaches:
        with (tmp_path / 'diffkd_ros' / module).open('a') as file:
            file.write(f'\n{line}\n')
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    for complaint in breaches.values():
        assert complaint in done.stdout


@pytest.mark.parametrize(
    ('packages', 'unwanted'),
    [
        (['launching', 'runtime', 'metrics', 'sources', 'evaluation'], ['torch', 'rclpy']),
        (['model'], ['rclpy']),
        (['nodes'], ['torch']),
        (['cosim'], ['torch', 'carla']),
    ],
)
def test_importing_a_package_does_not_load(packages, unwanted):
    needed = {'model': 'torch', 'nodes': 'rclpy', 'cosim': 'rclpy'}.get(packages[0])
    if needed and find_spec(needed) is None:
        pytest.skip(f'{needed} is not installed')
    program = f"""
import importlib, pkgutil, sys
for name in {packages}:
    package = importlib.import_module(f'diffkd_ros.{{name}}')
    for module in pkgutil.walk_packages(package.__path__, f'diffkd_ros.{{name}}.'):
        importlib.import_module(module.name)
    print(name, [name for name in {unwanted} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, '-c', program], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ''.join(f'{package} []\n' for package in packages)
