# SPDX-License-Identifier: Apache-2.0
"""Reads PCD files of any encoding and field types."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pypcd4 import Encoding, PointCloud

from diffkd_ros.sources.dataset import DatasetError, located

# pypcd4 builds a column per value of a point before it compares anything with the size of the file.
_MAX_COUNT = 1000
_COUNT = re.compile(rb'^COUNT (.*)$', re.MULTILINE)


def read_pcd(path: Path) -> dict[str, NDArray]:
    """The fields of a PCD file (ascii, binary or binary_compressed) by name, each (n,) of its own type.

    The values are those of the file, including NaN, in its units and coordinate frame.

    Raises:
        DatasetError: if the file is missing, its header contradicts itself or its contents, or x, y or z is
            missing.
    """
    with located(f'{path}: not a readable point cloud'):
        text = _header(path)
        if any(int(count) > _MAX_COUNT for line in _COUNT.findall(text) for count in line.split()):
            raise ValueError(f'a COUNT above {_MAX_COUNT}')
        cloud = PointCloud.from_path(path)
    header, data = cloud.metadata, np.atleast_1d(cloud.pc_data)
    counts = {len(header.fields), len(header.size), len(header.type), len(header.count)}
    if len(counts) > 1:
        raise DatasetError(
            f'{path}: the header has {len(header.fields)} FIELDS, {len(header.size)} SIZE, '
            f'{len(header.type)} TYPE and {len(header.count)} COUNT'
        )
    if header.width * header.height != header.points:
        raise DatasetError(
            f'{path}: the header has WIDTH {header.width}, HEIGHT {header.height}, but POINTS {header.points}'
        )
    if len(data) != header.points:
        raise DatasetError(f'{path}: cut short: the header gives {header.points} points, found {len(data)}')
    if header.data is Encoding.BINARY and path.stat().st_size - len(text) >= data.nbytes + data.itemsize:
        raise DatasetError(f'{path}: holds more data than the header gives; a field may be missing there')
    columns = {name: data[name] for name in data.dtype.names or () if data[name].ndim == 1}
    if missing := [name for name in ('x', 'y', 'z') if name not in columns]:
        raise DatasetError(f'{path}: needs fields x, y, z, has {list(cloud.fields)}, so not {missing}')
    return columns


def _header(path: Path) -> bytes:
    """The lines up to DATA, inclusive."""
    lines = []
    with path.open('rb') as file:
        for line in file:
            lines.append(line)
            if line.startswith(b'DATA'):
                break
    return b''.join(lines)


def xyz(columns: dict[str, NDArray]) -> NDArray[np.float32]:
    """(n, 4) float32 with x, y, z filled in and an intensity of 0."""
    points = np.zeros((len(columns['x']), 4), np.float32)
    for k, name in enumerate(('x', 'y', 'z')):
        points[:, k] = columns[name]
    return points
