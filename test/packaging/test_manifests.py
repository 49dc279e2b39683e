# SPDX-License-Identifier: Apache-2.0
"""package.xml, pyproject.toml, CMakeLists.txt and constraints.txt agree with each other and with the code."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diffkd_ros

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((PROJECT / 'pyproject.toml').read_text())
CMAKE = re.sub('#.*', '', (PROJECT / 'CMakeLists.txt').read_text())
PACKAGE = parse_package(str(PROJECT / 'package.xml'))
EXTRAS = PYPROJECT['project']['optional-dependencies']
NODES = sorted(name for name in PYPROJECT['project']['scripts'] if name != 'diffkd')

# Module: (name on the Python package index, rosdep key). Modules that only data sets, training and export
# need have no key, because nodes run without them.
PYTHON_MODULES = {
    'PIL': ('pillow', 'python3-pil'),
    'carla': ('carla', None),
    'constriction': ('constriction', None),
    'cryptography': ('cryptography', 'python3-cryptography'),
    'distributed': ('distributed', None),
    'jinja2': ('jinja2', 'python3-jinja2'),
    'lightning': ('lightning', None),
    'lz4': ('lz4', None),
    'matplotlib': ('matplotlib', 'python3-matplotlib'),
    'mcap': ('mcap', None),
    'msgpack': ('msgpack', 'python3-msgpack'),
    'numba': ('numba', 'python3-numba'),
    'numpy': ('numpy', 'python3-numpy'),
    'onnx': ('onnx', None),
    'onnxruntime': ('onnxruntime', 'python3-onnxruntime-pip'),
    'onnxscript': ('onnxscript', None),
    'pydantic': ('pydantic', 'python3-pydantic'),
    'pypcd4': ('pypcd4', None),
    'rich': ('rich', 'python3-rich'),
    'rosbags': ('rosbags', 'python3-rosbags-pip'),
    'safetensors': ('safetensors', None),
    'scipy': ('scipy', None),
    'spconv': ('spconv', None),
    'tf2_ros': ('', 'tf2_ros_py'),
    'torch': ('torch', None),
    'transforms3d': ('transforms3d', 'python3-transforms3d'),
    'typer': ('typer', 'python3-typer'),
    'yaml': ('pyyaml', 'python3-yaml'),
    'zstandard': ('zstandard', None),
}
# In every ROS distribution, but not among the wheels: the code does without them where they are missing.
ROS_PACKAGES_WITHOUT_WHEEL = {
    'launch', 'launch_ros', 'sensor_msgs_py', 'tf2_msgs', 'tf2_ros', 'tf_transformations', 'vision_msgs',
}  # fmt: skip
# Each for a converter that does nothing else: who wants it installs it.
CHOSEN_BY_THE_USER = {'autoware_perception_msgs', 'etsi_its_cpm_ts_msgs'}


def requirement_names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def foreign_imports() -> set[str]:
    """Top-level modules that package and launch files import, without the standard library and our own."""
    imported = set()
    for path in [*(PROJECT / 'diffkd_ros').rglob('*.py'), *(PROJECT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split('.')[0])
    return imported - set(sys.stdlib_module_names) - {'diffkd_ros'} - CHOSEN_BY_THE_USER


@pytest.fixture(scope='module')
def rosdep_keys() -> set[str]:
    return {dependency.name for dependency in [*PACKAGE.build_depends, *PACKAGE.exec_depends]}


def test_versions_agree():
    assert diffkd_ros.__version__ == PACKAGE.version
    assert PYPROJECT['tool']['setuptools']['dynamic']['version'] == {'attr': 'diffkd_ros.__version__'}
    assert f'## {diffkd_ros.__version__}' in (PROJECT / 'CHANGELOG.md').read_text()


def test_package_xml_is_accepted_by_catkin_pkg():
    warnings = []
    PACKAGE.validate(warnings=warnings)
    assert warnings == []
    assert PACKAGE.get_build_type() == 'ament_cmake'


def test_every_foreign_import_is_declared_for_ros(rosdep_keys):
    for module in foreign_imports():
        _, key = PYTHON_MODULES.get(module, (None, module))
        if key is not None:
            assert key in rosdep_keys, f'{module} is imported, but package.xml does not name {key}'


def test_every_foreign_import_is_declared_for_pip():
    declared = requirement_names(PYPROJECT['project']['dependencies']).union(
        *map(requirement_names, EXTRAS.values())
    )
    for module in foreign_imports() - ROS_PACKAGES_WITHOUT_WHEEL:
        name, _ = PYTHON_MODULES.get(module, (f'ros-{canonicalize_name(module)}', None))
        assert name in declared, f'{module} is imported, but pyproject.toml does not name {name}'


def test_no_requirement_shadows_the_ros_package_launch():
    # The package `launch` on the Python package index is another one and hides that of ROS.
    for requirements in [PYPROJECT['project']['dependencies'], *EXTRAS.values()]:
        assert 'launch' not in requirement_names(requirements)


def test_constraints_pin_every_requirement_and_name_no_registry():
    lines = [line.strip() for line in (PROJECT / 'constraints.txt').read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    assert all(pin.url is None and str(pin.specifier).startswith('==') for pin in pins)
    for requirements in [PYPROJECT['project']['dependencies'], *EXTRAS.values()]:
        for requirement in map(Requirement, requirements):
            name = canonicalize_name(requirement.name)
            versions = [pin.specifier for pin in pins if canonicalize_name(pin.name) == name]
            assert versions, f'{name} is not pinned in constraints.txt'
            for version in versions:
                assert str(version).removeprefix('==') in requirement.specifier


def test_each_pin_has_one_version_on_each_python():
    lines = [line.strip() for line in (PROJECT / 'constraints.txt').read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    for python in ('3.10', '3.11', '3.12'):
        valid = [
            canonicalize_name(pin.name)
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({'python_version': python})
        ]
        assert len(valid) == len(set(valid))


def test_cmake_generates_every_message():
    call = re.search(r'rosidl_generate_interfaces\((.*?)\)', CMAKE, re.DOTALL).group(1)
    assert set(re.findall(r'"(msg/\w+\.msg)"', call)) == {
        f'msg/{path.name}' for path in (PROJECT / 'msg').iterdir()
    }


def test_cmake_and_the_pip_build_agree_on_the_messages_dependencies():
    call = re.search(r'rosidl_generate_interfaces\((.*?)\)', CMAKE, re.DOTALL).group(1)
    tree = ast.parse((PROJECT / 'build_tools' / 'build_messages.py').read_text())
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    pip_dependencies = set(ast.literal_eval(assigned['MESSAGE_DEPENDENCIES']))
    assert set(call.split('DEPENDENCIES')[1].split()) == pip_dependencies
    in_messages = {
        match
        for path in (PROJECT / 'msg').iterdir()
        for match in re.findall(r'^(\w+)/\w+', path.read_text(), re.MULTILINE)
    }
    assert in_messages <= pip_dependencies


def test_cmake_installs_every_script():
    assert set(re.findall(r'scripts/(\w+)', CMAKE)) == {path.name for path in (PROJECT / 'scripts').iterdir()}


@pytest.mark.parametrize('name', ['diffkd', *NODES])
def test_script_starts_what_the_console_entry_point_starts(name):
    script = PROJECT / 'scripts' / name
    module, function = PYPROJECT['project']['scripts'][name].split(':')
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith('#!/usr/bin/env python3\n')
    assert f'from {module} import {function}\n' in script.read_text()


@pytest.mark.parametrize('name', ['diffkd', *NODES])
def test_entry_point_exists(name):
    module, function = PYPROJECT['project']['scripts'][name].split(':')
    if module == 'diffkd_ros.start':
        (module,) = (
            f'diffkd_ros.{package}.{name}'
            for package in ('nodes', 'cosim')
            if (PROJECT / 'diffkd_ros' / package / f'{name}.py').exists()
        )
    place = PROJECT / Path(*module.split('.'))
    path = place / '__init__.py' if place.is_dir() else place.with_suffix('.py')
    tree = ast.parse(path.read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in defined
