# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON of others: whatever the bytes, a value or one `DiffkdError`, in bounded time and memory."""

import time

import numpy as np
import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from diffkd_ros.documents import integer, number, numbers, read_config, read_json, read_yaml
from diffkd_ros.errors import DiffkdError

NINE = range(9)
ALIASES = 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'a{k + 1}: &a{k + 1} [{", ".join([f"*a{k}"] * 10)}]\n' for k in NINE
)
MERGES = 'b0: &b0 {k0: 1}\n' + ''.join(
    f'b{k + 1}: &b{k + 1}\n  k{k + 1}: 1\n  <<: [{", ".join([f"*b{k}"] * 10)}]\n' for k in NINE
)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (ALIASES, 'more than 100000 values'),
        (MERGES, 'more than 100000 values'),
        ('a: &a [*a]', 'contains itself'),
        ('[' * 500 + ']' * 500, 'more than 64 levels|deep'),
        ('[' * 100_000, 'more than 64 levels'),
        ('- ' * 100_000, 'more than 64 levels'),
        ('{a: ' * 100_000, 'more than 64 levels'),
        ('a: ' + '9' * 5000, 'a number of 5000 characters'),
        ('a: 1' + ':00' * 5000, 'a number of 15001 characters'),
        ('- x\n' * 120_000, 'more than 100000 values'),
        ('# ' + 'x' * 3 * 2**20, 'larger than 2 MiB'),
        ('a: !!bool maybe', 'maybe'),
        ('a: 2021-13-45', 'month'),
        ('a: [', 'line 2'),
        ('{[a]: 1}', 'unhashable'),
        (b'a: caf\xe9', 'UTF-8'),
    ],
)
def test_a_hostile_document_is_one_error_in_bounded_time(tmp_path, text, reason):
    path = tmp_path / 'file.yaml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.process_time()
    with pytest.raises(DiffkdError, match=reason) as error:
        read_yaml(path)
    assert '\n' not in str(error.value)
    # Half a minute on the slowest machine; without the limits some of these have no end.
    assert time.process_time() - started < 30


def test_aliases_and_merge_keys_of_ordinary_files_are_read(tmp_path):
    path = tmp_path / 'file.yaml'
    path.write_text('base: &b {x: 1, y: 2}\nlist: [*b, *b]\nmore: {<<: *b, y: 3}\n')
    assert read_yaml(path) == {
        'base': {'x': 1, 'y': 2}, 'list': [{'x': 1, 'y': 2}] * 2, 'more': {'x': 1, 'y': 3},
    }  # fmt: skip


def test_values_with_unknown_tags_are_read_without_the_tag(tmp_path):
    path = tmp_path / 'file.yaml'
    path.write_text(
        'a: !!python/tuple [1, 2]\nb: !carla.Weather {sun: 3}\nc: !x word\n'
        'd: !!python/object/apply:os.system [ls]\n'
    )
    assert read_yaml(path) == {'a': [1, 2], 'b': {'sun': 3}, 'c': 'word', 'd': ['ls']}


@pytest.mark.parametrize('dtype', ['<f8', '>f4', 'i4', 'u1'])
def test_numbers_that_were_dumped_from_numpy(tmp_path, dtype):
    path = tmp_path / 'file.yaml'
    array = np.arange(16).reshape(4, 4).astype(dtype)
    path.write_text(yaml.dump({'pose': array, 'turned': array.T, 'one': array[1, 2]}))
    assert 'python/object/apply:numpy' in path.read_text()
    read = read_yaml(path)
    assert read == {'pose': array.tolist(), 'turned': array.T.tolist(), 'one': 6}


def test_other_values_of_numpy_are_not_numbers(tmp_path):
    path = tmp_path / 'file.yaml'
    path.write_text(yaml.dump({'names': np.array(['a'], object), 'when': np.datetime64('2021-01-01')}))
    for value in read_yaml(path).values():
        with pytest.raises(DiffkdError, match='expected a number'):
            number(value)


@pytest.mark.parametrize('text', ['[' * 100_000, '1' * 5000, '{"a": 1', '\x00'], ids=len)
def test_damaged_json(tmp_path, text):
    path = tmp_path / 'file.json'
    path.write_text(text)
    with pytest.raises(DiffkdError):
        read_json(path)


def test_missing_files(tmp_path):
    with pytest.raises(DiffkdError, match='No such file'):
        read_yaml(tmp_path / 'absent')
    with pytest.raises(DiffkdError, match='not a file'):
        read_json(tmp_path)


HUGE = 10**5000


def kind(value):
    return type(value).__name__


@pytest.mark.parametrize(
    'value', [10**401, HUGE, float('inf'), float('nan'), True, None, [1], 'x', 2e8], ids=kind
)
def test_values_that_are_not_coordinates(value):
    for read in (lambda v: number(v), lambda v: numbers([v, 1], 2)):
        if value is True and read is not number:
            continue
        with pytest.raises(DiffkdError, match=r'expected .*got') as error:
            read(value)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize('value', [2**70, -(2**63), 1.5, 'x', True, None, HUGE, '1' * 400], ids=kind)
def test_values_that_are_not_ids(value):
    with pytest.raises(DiffkdError, match='expected an integer'):
        integer(value)


def test_numbers_and_ids_may_be_text():
    assert number('1e-05') == 1e-5
    assert numbers([1, '2', 3.5], 3).tolist() == [1, 2, 3.5]
    assert (integer('-7'), integer(7.0), integer(2**62)) == (-7, 7, 2**62)


class Inner(BaseModel):
    """A section."""

    model_config = ConfigDict(extra='forbid')
    threshold: float = 0.5


class Outer(BaseModel):
    """A document."""

    model_config = ConfigDict(extra='forbid')
    inner: Inner = Inner()
    many: list[Inner] = []


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('inner: {treshold: 1}', 'unknown key inner.treshold, did you mean threshold'),
        ('many: [{}, {threshhold: 1}]', r'unknown key many\.1\.threshhold, did you mean threshold'),
        ('inner: {threshold: high}', r'inner\.threshold: Input should be a valid number'),
        ('inner: {threshold: .inf}', r'inner\.threshold: not a finite number'),
        ('many: [{threshold: .nan}]', r'many\.0\.threshold: not a finite number'),
        ('- 1', 'valid dictionary'),
        ('', 'valid dictionary'),
        (f'many: [{", ".join(["{a: 1}"] * 500)}]', 'and 492 more problems'),
    ],
)
def test_a_configuration_names_what_is_wrong(tmp_path, text, reason):
    path = tmp_path / 'file.yaml'
    path.write_text(text)
    with pytest.raises(DiffkdError, match=rf'file\.yaml: .*{reason}') as error:
        read_config(path, Outer)
    assert '\n' not in str(error.value)
