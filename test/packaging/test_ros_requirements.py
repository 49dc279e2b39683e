# SPDX-License-Identifier: Apache-2.0
"""requirements-ros.txt: what a machine with ROS needs, installed over Ubuntu's older packages."""

import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_manifests import EXTRAS, PYPROJECT, PYTHON_MODULES, foreign_imports, requirement_names

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / 'requirements-ros.txt'
LINES = [line.partition(' # ') for line in FILE.read_text().splitlines() if not line.startswith('#')]
NEEDED = [Requirement(text) for text, _, _ in LINES]
# Rosdep key: name.
KEYS = {key: Requirement(text).name for text, _, key in LINES if key}

# Name: version and requirements, of the packages that Ubuntu ships. Patch releases may differ.
UBUNTU = {
    '22.04': {
        'click': ('8.0.3',),
        'jinja2': ('3.0.3', 'markupsafe>=2.0'),
        'llvmlite': ('0.38.0',),
        'markupsafe': ('2.0.1',),
        'matplotlib': ('3.5.1', 'numpy>=1.17'),
        'msgpack': ('1.0.3',),
        'numba': ('0.55.1', 'llvmlite>=0.38.0rc1,<0.39', 'numpy>=1.18,<1.22'),
        'numpy': ('1.21.5',),
        'packaging': ('21.3',),
        'pillow': ('9.0.1',),
        'pydantic': ('1.8.2', 'typing-extensions>=3.7.4.3'),
        'pygments': ('2.11.2',),
        'pyyaml': ('5.4.1',),
        'rich': ('11.2.0', 'pygments>=2.6'),
        'scipy': ('1.8.0', 'numpy>=1.17.3,<1.25'),
        'transforms3d': ('0.3.1',),
        'typer': ('0.4.0', 'click>=7.1.1,<9'),
        'typing-extensions': ('3.10.0.2',),
    },
    '24.04': {
        'click': ('8.1.6',),
        'jinja2': ('3.1.2', 'markupsafe>=2.0'),
        'llvmlite': ('0.41.1',),
        'markupsafe': ('2.1.5',),
        'matplotlib': ('3.6.3', 'numpy>=1.19'),
        'msgpack': ('1.0.3',),
        'numba': ('0.58.1', 'llvmlite>=0.41.0dev0,<0.42', 'numpy>=1.22,<1.27'),
        'numpy': ('1.26.4',),
        'packaging': ('24.0',),
        'pillow': ('10.2.0',),
        'pydantic': ('1.10.14', 'typing-extensions>=4.2'),
        'pygments': ('2.17.2',),
        'pyyaml': ('6.0.1',),
        'rich': ('13.7.1', 'markdown-it-py>=2.2', 'pygments>=2.13'),
        'scipy': ('1.11.4', 'numpy>=1.21.6,<1.28'),
        'markdown-it-py': ('3.0.0', 'mdurl~=0.1'),
        'mdurl': ('0.1.2',),
        'transforms3d': ('0.4.1',),
        'typer': ('0.9.0', 'click>=7.1.1,<9', 'typing-extensions>=3.7.4.3'),
        'typing-extensions': ('4.10.0',),
    },
}


def lower_bound(requirement: Requirement) -> str:
    return next(part.version for part in requirement.specifier if part.operator == '>=')


def empty_wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """A package without files, only with metadata."""
    stem = f'{canonicalize_name(name).replace("-", "_")}-{version}'
    metadata = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
    metadata += [f'Requires-Dist: {text}' for text in requires]
    path = folder / f'{stem}-py3-none-any.whl'
    with zipfile.ZipFile(path, 'w') as wheel:
        wheel.writestr(f'{stem}.dist-info/METADATA', '\n'.join(metadata) + '\n')
        wheel.writestr(
            f'{stem}.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'
        )
        wheel.writestr(f'{stem}.dist-info/RECORD', '')
    return path


@pytest.fixture(scope='module')
def index(tmp_path_factory) -> Path:
    """Empty packages with the metadata of those in this environment, and the last NumPy 1."""
    folder = tmp_path_factory.mktemp('index')
    empty_wheel(folder, 'numpy', '1.26.4')
    waiting, seen = [requirement.name for requirement in NEEDED], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        requires = [text for text in found.requires or () if 'extra ==' not in text]
        empty_wheel(folder, name, found.version, *requires)
        parsed = map(Requirement, requires)
        waiting += [each.name for each in parsed if each.marker is None or each.marker.evaluate()]
    return folder


@pytest.fixture(params=UBUNTU)
def environment(request, tmp_path) -> Path:
    """Python of a virtual environment that also sees the packages of an Ubuntu release."""
    ubuntu = tmp_path / 'dist-packages'
    ubuntu.mkdir()
    for name, description in UBUNTU[request.param].items():
        with zipfile.ZipFile(empty_wheel(tmp_path, name, *description)) as wheel:
            wheel.extractall(ubuntu)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    (packages,) = (tmp_path / 'venv').glob('lib/python3*/site-packages')
    (packages / 'ubuntu.pth').write_text(f'{ubuntu}\n')
    return tmp_path / 'venv' / 'bin' / 'python'


def pip(environment: Path, *arguments) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith('PIP_')}
    done = subprocess.run(
        [sys.executable, '-m', 'pip', '--python', environment, *arguments],
        env={**own, 'PIP_CONFIG_FILE': os.devnull, 'PIP_DISABLE_PIP_VERSION_CHECK': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_over_the_packages_of_ubuntu_it_gives_versions_that_fit_together(environment, index):
    pip(environment, 'install', '--no-index', '--find-links', index, '-r', FILE)
    pip(environment, 'check')
    listed = json.loads(pip(environment, 'list', '--format', 'json'))
    versions = {canonicalize_name(package['name']): package['version'] for package in listed}
    project = [*PYPROJECT['project']['dependencies'], *EXTRAS['data'], *EXTRAS['report']]
    for needed in map(Requirement, project):
        assert versions[canonicalize_name(needed.name)] in needed.specifier, needed
    # The messages of ROS are compiled for NumPy 1 up to Ubuntu 24.04, which has Python 3.12.
    assert sys.version_info >= (3, 13) or versions['numpy'].startswith('1.')


def test_every_imported_package_is_listed_with_the_bound_of_pyproject():
    chosen = requirement_names([*EXTRAS['train'], *EXTRAS['sparse'], *EXTRAS['cluster'], 'carla'])
    imported = {PYTHON_MODULES[module][0] for module in foreign_imports() & PYTHON_MODULES.keys()}
    assert imported - chosen - {''} <= {requirement.name for requirement in NEEDED}
    everything = [PYPROJECT['project']['dependencies'], *EXTRAS.values()]
    bounds = {
        canonicalize_name(requirement.name): lower_bound(requirement)
        for requirement in map(Requirement, itertools.chain.from_iterable(everything))
        if '>=' in str(requirement.specifier)
    }
    for requirement in NEEDED:
        if requirement.marker is None or requirement.marker.evaluate({'python_version': '3.12'}):
            assert lower_bound(requirement) == bounds[requirement.name], requirement


def test_package_xml_has_the_keys_and_bounds():
    package = parse_package(str(PROJECT / 'package.xml'))
    bounds = {
        each.name: each.version_gte for each in package.exec_depends if each.name.startswith('python3-')
    }
    bound_of = {requirement.name: lower_bound(requirement) for requirement in reversed(NEEDED)}
    assert bounds == {key: bound_of[name] for key, name in KEYS.items()}


@pytest.mark.parametrize('name', ['README.md', 'Dockerfile'])
def test_what_pip_installs_rosdep_leaves_to_it(name):
    """On Ubuntu 24.04 rosdep cannot install packages with pip."""
    text = (PROJECT / name).read_text()
    folder = 'src/diffkd_ros'
    assert re.search(rf'pip install .*-r {folder}/requirements-ros\.txt', text)
    assert text.index('python3 -m venv --system-site-packages') < text.index(f'-r {folder}/requirements')
    (command,) = re.findall(r'--skip-keys "\$\((.*)\)"', text)
    command = command.replace(f'{folder}/requirements-ros.txt', str(FILE))
    skipped = subprocess.run(['bash', '-c', command], capture_output=True, text=True, check=True).stdout
    assert set(skipped.rstrip('\n').split(' ')) == KEYS.keys()
