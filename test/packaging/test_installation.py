# SPDX-License-Identifier: Apache-2.0
"""An installation by pip works without the checkout, and building does not change the sources."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
NODES = {
    'autoware_node',
    'bridge_node',
    'cosim_smoke',
    'cpm_node',
    'ego_node',
    'evaluator_node',
    'gateway_node',
    'player_node',
    'recorder_node',
    'vehicle_node',
}


def files_under(folder: Path) -> set[Path]:
    # Without Python's own bytecode caches.
    found = (path for path in folder.rglob('*') if path.is_file() and '__pycache__' not in path.parts)
    return {path.relative_to(folder) for path in found}


def run(command: list, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def python(code: str, site_packages: Path, folder: Path) -> str:
    """Run code in `folder`, with an installation before this checkout on the path."""
    return run([sys.executable, '-c', code], cwd=folder, env={**os.environ, 'PYTHONPATH': str(site_packages)})


@pytest.fixture(scope='module', autouse=True)
def files_before_building(checkout):
    return files_under(checkout)


def build_wheel(checkout: Path, destination: Path, *, messages: bool) -> Path:
    pip_wheel = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation']
    run([*pip_wheel, '-w', destination, checkout], env={**os.environ, 'DIFFKD_ROS_MSGS': str(int(messages))})
    (wheel,) = destination.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def pure_wheel(checkout, tmp_path_factory):
    return build_wheel(checkout, tmp_path_factory.mktemp('pure'), messages=False)


def install(wheel: Path, option: str, destination: Path) -> Path:
    """Install a wheel without dependencies; returns the folder that holds the package."""
    pip_install = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--ignore-installed']
    run([*pip_install, option, destination, wheel])
    (package,) = (path.parent for path in destination.rglob('diffkd_ros/__init__.py'))
    return package.parent


def test_pure_wheel_runs_anywhere_and_holds_every_module_but_the_messages(checkout, pure_wheel):
    assert pure_wheel.name.endswith('-py3-none-any.whl')
    names = zipfile.ZipFile(pure_wheel).namelist()
    ours = [path for kind in ('*.py', '*.html') for path in (checkout / 'diffkd_ros').rglob(kind)]
    assert {name for name in names if name.startswith('diffkd_ros/')} == {
        str(path.relative_to(checkout)) for path in ours
    }


@pytest.mark.parametrize('option', ['--prefix', '--target'])
def test_installed_copy_finds_its_models_and_config(checkout, pure_wheel, option, tmp_path):
    site_packages = install(pure_wheel, option, tmp_path / 'installed')
    (tmp_path / 'empty').mkdir()
    code = 'import diffkd_ros.share as s; print(s.__file__); print(s.share_directory())'
    module, share = python(code, site_packages, tmp_path / 'empty').splitlines()
    assert Path(module) == site_packages / 'diffkd_ros' / 'share.py'
    assert Path(share).is_relative_to(tmp_path / 'installed')
    for folder in ('models', 'config', 'launch', 'msg'):
        assert files_under(Path(share) / folder) == files_under(checkout / folder)


def test_building_leaves_nothing_outside_the_build_folder(checkout, files_before_building, pure_wheel):
    made = files_under(checkout) - files_before_building
    assert made
    assert {path.parts[0] for path in made} == {'build'}


def test_installed_copy_is_a_ros_package(pure_wheel, tmp_path):
    install(pure_wheel, '--prefix', tmp_path)
    (marker,) = tmp_path.rglob('share/ament_index/resource_index/packages/diffkd_ros')
    prefix = marker.parents[4]
    assert (prefix / 'share' / 'diffkd_ros' / 'package.xml').is_file()
    scripts = {path.name for path in (prefix / 'lib' / 'diffkd_ros').iterdir() if os.access(path, os.X_OK)}
    assert scripts == NODES | {'diffkd'}
    assert NODES | {'diffkd'} <= {path.name for path in (prefix / 'bin').iterdir()}


def test_missing_files_are_reported_with_every_place_looked_in(tmp_path):
    package = tmp_path / 'diffkd_ros'
    package.mkdir()
    for module in ('share.py', 'errors.py'):
        shutil.copy(PROJECT / 'diffkd_ros' / module, package)
    (package / '__init__.py').touch()
    code = """
import sys
sys.prefix = 'nowhere'
from diffkd_ros.errors import DiffkdError
from diffkd_ros.share import share_directory
try:
    share_directory()
except DiffkdError as error:
    print(error)
"""
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'AMENT_PREFIX_PATH': '/first:/second'}
    message = run([sys.executable, '-c', code], cwd=tmp_path, env=environment)
    for place in (
        tmp_path,
        'nowhere/share/diffkd_ros',
        '/first/share/diffkd_ros',
        '/second/share/diffkd_ros',
    ):
        assert f'  {place}\n' in message


@pytest.mark.skipif(
    find_spec('rosidl_generator_py') is None, reason='the rosidl generators are not installed'
)
def test_wheel_with_messages_imports_them(checkout, tmp_path):
    wheel = build_wheel(checkout, tmp_path / 'wheel', messages=True)
    assert not wheel.name.endswith('-any.whl')

    site_packages = install(wheel, '--prefix', tmp_path / 'installed')
    (tmp_path / 'empty').mkdir()
    code = """
import diffkd_ros.msg
from rclpy.serialization import deserialize_message, serialize_message
sent = diffkd_ros.msg.Boxes3D(class_names=['car'], boxes=[1.0] * 7)
assert deserialize_message(serialize_message(sent), diffkd_ros.msg.Boxes3D) == sent
print(diffkd_ros.msg.__file__)
"""
    module = python(code, site_packages, tmp_path / 'empty')
    assert Path(module).is_relative_to(tmp_path / 'installed')
