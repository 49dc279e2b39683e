# SPDX-License-Identifier: Apache-2.0
"""Columns of a PCD file, whatever its encoding and field types, or one error that says why not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pypcd4 import Encoding, PointCloud

from diffkd_ros.sources.dataset import DatasetError


class PcdError(DatasetError):
    """A file that is no complete PCD, or lacks fields; the message names it and what is wrong."""


def read_pcd(path: Path) -> dict[str, NDArray]:
    """The fields of a PCD file (ascii, binary or binary_compressed) by name, each (n,) of its own type.

    The returns are as they stand in the file: NaN included, units and coordinate frame untouched.

    Raises:
        PcdError: if the file is missing, its header contradicts itself or its contents, or a field of x, y, z
            is missing.
    """
    try:
        cloud = PointCloud.from_path(path)
    # TypeError: what the LZF decompressor's refusal ends in.
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, MemoryError, struct.error) as error:
        raise PcdError(f'{path}: not a readable point cloud: {error}') from error
    header, data = cloud.metadata, np.atleast_1d(cloud.pc_data)
    counts = {len(header.fields), len(header.size), len(header.type), len(header.count)}
    if len(counts) > 1:
        raise PcdError(
            f'{path}: the header has {len(header.fields)} FIELDS, {len(header.size)} SIZE, '
            f'{len(header.type)} TYPE and {len(header.count)} COUNT'
        )
    if header.width * header.height != header.points:
        raise PcdError(
            f'{path}: the header has WIDTH {header.width}, HEIGHT {header.height}, but POINTS {header.points}'
        )
    if len(data) != header.points:
        raise PcdError(f'{path}: cut short: the header promises {header.points} points, found {len(data)}')
    if header.data is Encoding.BINARY and _bytes_after_header(path) >= data.nbytes + data.itemsize:
        raise PcdError(f'{path}: holds more data than the header promises; a field may be missing there')
    fields = data.dtype.names or ()
    if missing := [name for name in ('x', 'y', 'z') if name not in fields]:
        raise PcdError(f'{path}: needs fields x, y, z, has {list(cloud.fields)}, so not {missing}')
    return {name: data[name] for name in fields}


def _bytes_after_header(path: Path) -> int:
    with path.open('rb') as file:
        for line in file:
            if line.startswith(b'DATA'):
                break
        return path.stat().st_size - file.tell()


def xyz(columns: dict[str, NDArray]) -> NDArray[np.float32]:
    """(n, 4) float32 with x, y, z filled in and the intensity still 0."""
    points = np.zeros((len(columns['x']), 4), np.float32)
    for k, name in enumerate(('x', 'y', 'z')):
        points[:, k] = columns[name]
    return points
