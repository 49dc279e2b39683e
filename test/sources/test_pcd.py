# SPDX-License-Identifier: Apache-2.0
"""PCD files: what the format allows is read, and damage is one line, whatever the header announces."""

import struct
import time

import lzf
import numpy as np
import pytest

from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.pcd import read_pcd, unit_intensity

HEADER = {
    'VERSION': '0.7', 'FIELDS': 'x y z intensity', 'SIZE': '4 4 4 1', 'TYPE': 'F F F U', 'COUNT': '1 1 1 1',
    'WIDTH': '2', 'HEIGHT': '1', 'VIEWPOINT': '0 0 0 1 0 0 0', 'POINTS': '2', 'DATA': 'ascii',
}  # fmt: skip
ASCII = b'1 2 3 51\n-4 5e0 6.5 255\n'
ROWS = np.array(
    [(1, 2, 3, 51), (-4, 5, 6.5, 255)], [('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('intensity', 'u1')]
)
BINARY = ROWS.tobytes()


def packed(columns):
    """The data of a binary_compressed file: a column after the other."""
    data = b''.join(column.tobytes() for column in columns)
    short = lzf.compress(data, 2 * len(data) + 64) if len(data) > 40 else None
    return None if short is None else struct.pack('<II', len(short), len(data)) + short


def write(path, body=ASCII, leave_out=(), **changes):
    header = {**HEADER, **changes}
    lines = [f'{name} {value}\n' for name, value in header.items() if name not in leave_out]
    path.write_bytes(b'# .PCD v0.7 - Point Cloud Data file format\n' + ''.join(lines).encode() + body)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'cloud.pcd'


def check(path):
    columns = read_pcd(path)
    for name, wanted in (('x', [1, -4]), ('y', [2, 5]), ('z', [3, 6.5]), ('intensity', [51, 255])):
        assert columns[name].tolist() == wanted
    assert columns['intensity'].dtype == np.uint8
    return columns


@pytest.mark.parametrize(
    ('leave_out', 'changes'),
    [
        ((), {}),
        ((), {'TYPE': 'f f F u'}),
        (('COUNT',), {}),
        (('HEIGHT',), {}),
        (('POINTS',), {}),
        (('WIDTH', 'HEIGHT'), {}),
        (('VERSION', 'VIEWPOINT'), {}),
        ((), {'VERSION': '.6'}),
        ((), {'FIELDS': 'x  y\tz   intensity'}),
    ],
)
@pytest.mark.parametrize(('encoding', 'body'), [('ascii', ASCII), ('binary', BINARY)])
def test_what_the_format_allows_in_a_header(file, leave_out, changes, encoding, body):
    check(write(file, body, leave_out, **changes, DATA=encoding))


@pytest.mark.parametrize(
    'body',
    [b'1 2 3 51\r\n-4 5e0 6.5 255\r\n', b'1  2 \t3 51 \n\n-4 5 6.5 255', b' 1 2 3 51\n -4 5 6.5 255\n\n'],
)
def test_what_the_format_allows_in_text(file, body):
    check(write(file, body))


def test_padding_and_repeated_fields(file):
    layout = [
        ('x', '<f4'),
        ('p', '<f4', (3,)),
        ('y', '<f4'),
        ('z', '<f4'),
        ('q', 'u1'),
        ('i', 'u1'),
        ('r', '<f4'),
    ]
    rows = np.zeros(2, layout)
    for name, key in (('x', 'x'), ('y', 'y'), ('z', 'z'), ('i', 'intensity')):
        rows[name] = ROWS[key]
    rows['r'] = 9
    write(
        file, rows.tobytes(), FIELDS='x _ y z _ intensity x', SIZE='4 4 4 4 1 1 4', TYPE='F F F F U U F',
        COUNT='1 3 1 1 1 1 1', DATA='binary',
    )  # fmt: skip
    columns = check(file)
    assert '_' not in columns or len(columns['_']) == 2


def test_compressed(file):
    rows = np.repeat(ROWS, 10)
    body = packed([rows[name] for name in rows.dtype.names])
    write(file, body, DATA='binary_compressed', WIDTH=20, POINTS=20)
    assert read_pcd(file)['z'].tolist() == [3] * 10 + [6.5] * 10


def test_a_cloud_of_no_points(file):
    for encoding in ('ascii', 'binary'):
        assert len(read_pcd(write(file, b'', WIDTH=0, POINTS=0, DATA=encoding))['x']) == 0


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ('changes', 'body', 'reason'),
    [
        ({'SIZE': '4 4 4'}, ASCII, '4 FIELDS, 3 SIZE, 4 TYPE, 4 COUNT'),
        ({'FIELDS': 'x y z'}, ASCII, '3 FIELDS, 4 SIZE'),
        ({'TYPE': 'F F F D'}, ASCII, 'field intensity: no TYPE D of SIZE 1'),
        ({'SIZE': '4 4 4 3'}, ASCII, 'no TYPE U of SIZE 3'),
        ({'COUNT': '1 1 1 0'}, ASCII, 'COUNT'),
        ({'COUNT': '1 1 1 3000000'}, ASCII, 'COUNT above 1000'),
        ({'COUNT': '1 1 1 -1'}, ASCII, 'COUNT'),
        ({'FIELDS': 'x y w intensity'}, ASCII, r"not \['z'\]"),
        ({'POINTS': '3'}, ASCII, 'WIDTH 2, HEIGHT 1, but POINTS 3'),
        ({'POINTS': 'two'}, ASCII, 'POINTS must be a whole number'),
        ({'WIDTH': HUGE, 'POINTS': HUGE}, ASCII, 'cut short'),
        ({'WIDTH': HUGE, 'POINTS': HUGE, 'DATA': 'binary'}, BINARY, 'cut short'),
        ({'WIDTH': HUGE, 'POINTS': HUGE, 'DATA': 'binary_compressed'}, struct.pack('<II', 9, 9), 'cut short'),
        ({'DATA': 'binary_compressed'}, struct.pack('<II', HUGE, 26) + bytes(20), 'cut short'),
        (
            {'DATA': 'binary_compressed'},
            struct.pack('<II', 20, 2**32 - 1) + bytes(20),
            'announced as 4294967295',
        ),
        ({'DATA': 'binary_compressed'}, struct.pack('<II', 20, 26) + bytes(range(20)), ''),
        ({'DATA': 'binary_compressed'}, b'', 'no sizes'),
        ({'DATA': 'zipped'}, ASCII, 'DATA must be one of ascii, binary, binary_compressed'),
        ({}, b'1 2 3 51\n1 2 3\n', ''),
        ({}, b'1 2 3 51\n1 2 three 51\n', 'three'),
        ({}, b'1 2 3 51\n', 'cut short'),
        ({'DATA': 'binary'}, BINARY + bytes(13), 'more data than the header gives'),
    ],
)
def test_damage_is_one_line_in_no_time(file, changes, body, reason):
    write(file, body, **changes)
    started = time.process_time()
    with pytest.raises(DatasetError, match=rf'cloud\.pcd: not a readable point cloud: .*{reason}') as error:
        read_pcd(file)
    assert time.process_time() - started < 5
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'the file is empty'),
        (b'FIELDS x y z\n', 'no line DATA'),
        (b'DATA ascii\n1 2 3\n', 'no line FIELDS'),
        (b'\xff' * 100_000, 'no line DATA'),
        (b'\n' * 100_000, 'no line DATA'),
    ],
    ids=len,
)
def test_files_without_a_header(file, content, reason):
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        read_pcd(file)


def test_intensity_is_scaled_by_type():
    np.testing.assert_allclose(unit_intensity(np.array([0, 51, 255], np.uint8)), [0, 0.2, 1])
    np.testing.assert_allclose(unit_intensity(np.array([0, 0.2, 1, np.nan], np.float32)), [0, 0.2, 1, np.nan])
    for values in (np.array([51.0]), np.array([2], np.uint16), np.array([-0.1], np.float32)):
        with pytest.raises(Exception, match=r'intensity must lie in \[0, 1\], got .* of type'):
            unit_intensity(values)
