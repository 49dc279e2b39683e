# SPDX-License-Identifier: Apache-2.0
"""Reads PCD files of any encoding and field types.

The header is read here, since the format allows more than pypcd4 does: lower-case types, no COUNT, no HEIGHT
or no POINTS, several spaces. It is compared with the size of the file before the data are read.
"""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pypcd4 import PointCloud

from diffkd_ros.documents import read_bytes
from diffkd_ros.errors import DiffkdError
from diffkd_ros.sources.dataset import located

_MAX_COUNT = 1000
_LONGEST_HEADER = 65536
_MAX_FILE = 256 * 2**20
# LZF writes at most 264 bytes for 3 bytes read.
_LZF_RATIO = 88
_SIZES = {'F': (4, 8), 'I': (1, 2, 4, 8), 'U': (1, 2, 4, 8)}
_ENCODINGS = ('ascii', 'binary', 'binary_compressed')


def read_pcd(path: Path) -> dict[str, NDArray]:
    """The fields of a PCD file (ascii, binary or binary_compressed) by name, each (n,) of its own type.

    The values are those of the file, including NaN, in its units and coordinate frame. Fields with a COUNT
    above 1 are left out; of several fields of one name, the first is read.

    Raises:
        DatasetError: if the file is missing, its header contradicts itself or its contents, or x, y or z is
            missing.
    """
    with located(f'{path}: not a readable point cloud'):
        content = read_bytes(path, _MAX_FILE)
        entries, start = _header(content)
        header, points = _normalised(entries)
        body = _checked_body(entries, content[start:], points)
        cloud = PointCloud.from_fileobj(io.BytesIO(header + body))  # type: ignore[arg-type]
        data = np.atleast_1d(cloud.pc_data)
        if len(data) != points:
            raise ValueError(f'cut short: the header gives {points} points, found {len(data)}')
        columns = {
            name: data[f'f{k}']
            for k, (name, count) in enumerate(zip(entries['FIELDS'], entries['COUNT'], strict=True))
            if int(count) == 1 and name not in entries['FIELDS'][:k]
        }
        if missing := [name for name in 'xyz' if name not in columns]:
            raise ValueError(f'needs fields x, y, z, has {entries["FIELDS"]}, so not {missing}')
    return columns


def _header(content: bytes) -> tuple[dict[str, list[str]], int]:
    """The entries of a header by upper-case name, and where the data start."""
    if not content:
        raise ValueError('the file is empty')
    entries: dict[str, list[str]] = {}
    start = 0
    while 'DATA' not in entries:
        end = content.find(b'\n', start, _LONGEST_HEADER)
        if end < 0:
            raise ValueError('the header has no line DATA')
        name, *values = content[start:end].decode('latin-1').split() or ['#']
        if not name.startswith('#'):
            entries[name.upper()] = values
        start = end + 1
    if missing := [name for name in ('FIELDS', 'SIZE', 'TYPE') if name not in entries]:
        raise ValueError(f'the header has no line {missing[0]}')
    entries['TYPE'] = [kind.upper() for kind in entries['TYPE']]
    entries.setdefault('COUNT', ['1'] * len(entries['FIELDS']))
    if len({len(entries[name]) for name in ('FIELDS', 'SIZE', 'TYPE', 'COUNT')}) > 1:
        raise ValueError(
            'the header has '
            + ', '.join(f'{len(entries[name])} {name}' for name in ('FIELDS', 'SIZE', 'TYPE', 'COUNT'))
        )
    return entries, start


def _single(entries: dict[str, list[str]], name: str) -> int:
    values = entries[name]
    if len(values) != 1 or not re.fullmatch(r'[0-9]{1,10}', values[0]):
        raise ValueError(f'{name} must be a whole number, got {" ".join(values)[:80]!r}')
    return int(values[0])


def _normalised(entries: dict[str, list[str]]) -> tuple[bytes, int]:
    """The header as pypcd4 reads it, and the number of points."""
    for field, kind, size, count in zip(
        *(entries[name] for name in ('FIELDS', 'TYPE', 'SIZE', 'COUNT')), strict=True
    ):
        if not (size.isdecimal() and int(size[:3]) in _SIZES.get(kind, ())):
            raise ValueError(f'field {field}: no TYPE {kind} of SIZE {size} in the format')
        if not (count.isdecimal() and 1 <= int(count[:10]) <= _MAX_COUNT):
            raise ValueError(f'field {field}: a COUNT below 1 or a COUNT above {_MAX_COUNT}: {count[:80]}')
    encoding = ' '.join(entries['DATA'])
    if encoding not in _ENCODINGS:
        raise ValueError(f'DATA must be one of {", ".join(_ENCODINGS)}, got {encoding[:80]!r}')
    if 'POINTS' not in entries and 'WIDTH' not in entries:
        raise ValueError('the header has neither POINTS nor WIDTH')
    height = _single(entries, 'HEIGHT') if 'HEIGHT' in entries else 1
    width = _single(entries, 'WIDTH') if 'WIDTH' in entries else _single(entries, 'POINTS')
    points = _single(entries, 'POINTS') if 'POINTS' in entries else width * height
    if width * height != points:
        raise ValueError(f'the header has WIDTH {width}, HEIGHT {height}, but POINTS {points}')
    lines = {
        'VERSION': '0.7',
        # By number, since names are not unique (`_` for padding), and pypcd4 takes few characters.
        'FIELDS': ' '.join(f'f{k}' for k in range(len(entries['FIELDS']))),
        **{name: ' '.join(entries[name]) for name in ('SIZE', 'TYPE', 'COUNT')},
        'WIDTH': width, 'HEIGHT': height, 'VIEWPOINT': '0 0 0 1 0 0 0', 'POINTS': points, 'DATA': encoding,
    }  # fmt: skip
    return ''.join(f'{name} {value}\n' for name, value in lines.items()).encode(), points


def _checked_body(entries: dict[str, list[str]], body: bytes, points: int) -> bytes:
    """The data, as long as the header says."""
    sizes, counts = (list(map(int, entries[name])) for name in ('SIZE', 'COUNT'))
    if sum(counts) > _MAX_COUNT:
        raise ValueError(f'a point of {sum(counts)} values; at most {_MAX_COUNT} are read')
    row = sum(size * count for size, count in zip(sizes, counts, strict=True))
    encoding = entries['DATA'][0]
    if encoding == 'ascii':
        # A value needs a character, and one between two values.
        if points * (2 * sum(counts) - 1) > len(body):
            raise ValueError(f'cut short: {points} points of {sum(counts)} values in {len(body)} characters')
        return b'\n'.join(b' '.join(line.split()) for line in body.splitlines())
    if encoding == 'binary':
        if len(body) >= (points + 1) * row:
            raise ValueError('holds more data than the header gives; a field may be missing there')
        if len(body) < points * row:
            raise ValueError(f'cut short: the header gives {points} points, found {len(body) // row}')
        return body
    if len(body) < 8:
        raise ValueError('cut short: no sizes of the compressed data')
    packed, unpacked = struct.unpack_from('<II', body)
    if len(body) - 8 < packed:
        raise ValueError(f'cut short: {packed} compressed bytes announced, found {len(body) - 8}')
    if unpacked != points * row or unpacked > packed * _LZF_RATIO:
        raise ValueError(f'{packed} bytes announced as {unpacked}, but {points} points have {points * row}')
    return body


def xyz(columns: dict[str, NDArray]) -> NDArray[np.float32]:
    """(n, 4) float32 with x, y, z filled in and an intensity of 0."""
    points = np.zeros((len(columns['x']), 4), np.float32)
    # A number too large for float32 becomes infinite, that is, an invalid return.
    with np.errstate(over='ignore'):
        for k, name in enumerate('xyz'):
            points[:, k] = columns[name]
    return points


def unit_intensity(recorded: NDArray) -> NDArray[np.float32]:
    """(n,) intensity in [0, 1] or not finite; bytes are scaled, everything else is in this range already.

    Raises:
        DiffkdError: if a value is out of range.
    """
    intensity = recorded.astype(np.float32) / np.float32(255 if recorded.dtype == np.uint8 else 1)
    known = intensity[np.isfinite(intensity)]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise DiffkdError(
            f'intensity must lie in [0, 1], got {known.min():g} to {known.max():g} of type {recorded.dtype}'
        )
    return intensity
