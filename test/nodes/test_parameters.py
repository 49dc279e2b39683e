# SPDX-License-Identifier: Apache-2.0
"""Typed parameters, with overrides given as ROS gives them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import rclpy
import yaml
from rclpy.parameter import Parameter
from script import build_tool

from diffkd_ros.errors import DiffkdError
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.share import share_directory


@pytest.fixture(scope='module')
def documentation():
    """The module build_tools/document_parameters.py, which lists all tables."""
    return build_tool('document_parameters')


@dataclass(frozen=True)
class Table:
    """A table with each type of parameter."""

    max_age: float = parameter(0.5, 'Seconds.', minimum=0.0, maximum=5.0)
    threads: int = parameter(1, 'Threads.', minimum=1)
    mode: str = parameter('a', 'Mode.', choices=('a', 'b'))
    verbose: bool = parameter(False, 'Talk.')
    rates: tuple[float, ...] = parameter((5.0,), 'Hz.', minimum=1.0)


@pytest.fixture
def make(domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    nodes = []

    def make(**given):
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        nodes.append(rclpy.create_node('node', context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def test_defaults_and_values(make):
    assert declare(make(), Table) == Table()
    # A YAML file may give an int for a float.
    node = make(max_age=2, mode='b', verbose=True, rates=[5.0, 10.0], use_sim_time=False)
    assert declare(node, Table) == Table(2.0, 1, 'b', True, (5.0, 10.0))
    assert node.get_parameter('max_age').value == 2.0
    descriptor = node.describe_parameter('max_age')
    assert descriptor.read_only
    assert descriptor.description == 'Seconds.'
    assert descriptor.floating_point_range[0].to_value == 5.0


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'max_agge': 1.0}, r'has no parameter max_agge; did you mean max_age\?'),
        ({'zzz': 1.0}, r'has no parameter zzz \(it has: max_age, mode, rates, threads, verbose\)'),
        ({'max_age': 'long'}, "max_age must be a float, got 'long'"),
        ({'max_age': 6.0}, r'max_age must lie in 0.0 to 5.0, got 6.0'),
        ({'max_age': float('nan')}, 'max_age must lie in'),
        ({'threads': 1.5}, 'threads must be an int, got 1.5'),
        ({'threads': True}, 'threads must be an int, got True'),
        ({'threads': 0}, 'threads must lie in 1 to inf'),
        ({'mode': 'c'}, 'mode must be one of a, b, got'),
        ({'verbose': 1}, 'verbose must be a bool'),
        ({'rates': 5.0}, 'rates must be a list of floats'),
        ({'rates': [5.0, 0.5]}, 'rates must lie in'),
    ],
)
def test_invalid_values_are_errors(make, given, message):
    with pytest.raises(DiffkdError, match=message):
        declare(make(**given), Table)


def test_a_parameter_cannot_be_changed_later(make):
    node = make()
    declare(node, Table)
    (result,) = node.set_parameters([Parameter('max_age', value=1.0)])
    assert not result.successful
    assert node.get_parameter('max_age').value == 0.5


def test_the_parameter_file_has_only_known_parameters(documentation):
    content = yaml.safe_load((share_directory() / 'config' / 'coop.yaml').read_text())
    for pattern, entry in content.items():
        known = {field.name for field in fields(documentation.TABLES[pattern.removeprefix('/**/')])}
        assert set(entry['ros__parameters']) <= known, pattern


def test_every_parameter_is_described(documentation):
    for table in documentation.TABLES.values():
        for field in fields(table):
            assert len(field.metadata['description']) > 10, field.name


def test_the_documented_tables_are_those_in_code(documentation):
    pages = [path.read_text() for path in documentation.PAGES]
    for page in pages:
        assert documentation.documented(page) == page, 'run: python build_tools/document_parameters.py'
    for node in documentation.TABLES:
        assert sum(f'<!-- parameters of {node} -->\n| parameter' in page for page in pages) == 1
