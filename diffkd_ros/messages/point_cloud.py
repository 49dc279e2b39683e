# SPDX-License-Identifier: Apache-2.0
"""Reading `sensor_msgs/PointCloud2`: by field name, datatype and offset, whatever the layout around them.

It reads attributes only, so a message class of rclpy and one of `rosbags` do alike, and no ROS is needed.
`sensor_msgs_py` is not used even where it is installed: it takes rclpy's messages alone, reads padded rows
askew and swaps the bytes of a big-endian message in place. A test compares the two on what both can read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError

# sensor_msgs/PointField datatypes as numpy type codes without byte order.
DATATYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}

ACCEPTED = 'x, y, z as float32 or float64, and intensity of any numeric type'

# How a cloud's intensities count. `auto`: integer fields 0..255, float fields by what is in them.
INTENSITY_SCALES = ('auto', '0..1', '0..255')

# A float intensity above this cannot be a reflectance of 0..1 with its noise: the driver counts 0..255.
_UNIT_SCALE_LIMIT = 2.0


class PointCloudError(DiffkdError):
    """A point cloud that cannot be used: broken, empty, without finite points or without a field."""


@dataclass(frozen=True, slots=True)
class CloudPoints:
    """The usable points of one cloud.

    Attributes:
        points: (n, 4) float32; x, y, z in metres in the cloud's frame, intensity in [0, 1].
        ring: (n,) uint16 laser index, or None where the cloud has no such field.
        time: (n,) float32 seconds relative to the cloud's stamp, or None likewise.
        dropped: points left out: not finite, or at the sensor's origin (which marks a ray without return).
        intensity_scale: what the cloud's intensities were divided by, 1 or 255.
        largest_intensity: before that.
        doubt: why the scale may be wrong, with the value found; empty if the data fit it.
    """

    points: NDArray[np.float32]
    ring: NDArray[np.uint16] | None
    time: NDArray[np.float32] | None
    dropped: int
    intensity_scale: float
    largest_intensity: float
    doubt: str = ''

    @classmethod
    def none(cls) -> CloudPoints:
        """Of no cloud."""
        return cls(np.empty((0, 4), np.float32), None, None, 0, 1.0, 0.0)


def layout_of(cloud: Any) -> str:
    """Name the fields of a cloud, as ``x float32@0, ...``."""
    names = {
        1: 'int8',
        2: 'uint8',
        3: 'int16',
        4: 'uint16',
        5: 'int32',
        6: 'uint32',
        7: 'float32',
        8: 'float64',
    }
    return (
        ', '.join(
            f'{f.name} {names.get(f.datatype, f"datatype {f.datatype}")}@{f.offset}' for f in cloud.fields
        )
        or 'no fields'
    )


def _columns(cloud: Any) -> dict[str, NDArray]:
    """One strided view of the data per scalar field, (height, width)."""
    order = '>' if cloud.is_bigendian else '<'
    names, formats, offsets = [], [], []
    for field in cloud.fields:
        code = DATATYPES.get(field.datatype)
        # A field of several values (count > 1) is none of ours; an unnamed one is padding.
        if code is None or field.count > 1 or not field.name or field.name in names:
            continue
        if field.offset + np.dtype(code).itemsize > cloud.point_step:
            raise PointCloudError(
                f'field {field.name} at offset {field.offset} lies outside point_step {cloud.point_step}; '
                f'the cloud has {layout_of(cloud)}'
            )
        names.append(field.name)
        formats.append(order + code)
        offsets.append(field.offset)
    missing = [name for name in ('x', 'y', 'z', 'intensity') if name not in names]
    if missing:
        raise PointCloudError(
            f'no field {", ".join(missing)}: found {layout_of(cloud)}; accepted: {ACCEPTED}'
        )
    for name in 'xyz':
        if formats[names.index(name)][1] != 'f':
            raise PointCloudError(
                f'{name} is no floating-point field: found {layout_of(cloud)}; accepted: {ACCEPTED}'
            )
    dtype = np.dtype({'names': names, 'formats': formats, 'offsets': offsets, 'itemsize': cloud.point_step})
    height, width = int(cloud.height), int(cloud.width)
    packed = width * cloud.point_step
    # With a single row there is nothing for row_step to separate, and some drivers leave it 0.
    row_step = cloud.row_step if height > 1 else packed
    if row_step < packed:
        raise PointCloudError(
            f'row_step {row_step} is smaller than width {width} x point_step {cloud.point_step}'
        )
    promised = (height - 1) * row_step + packed if height and width else 0
    if len(cloud.data) < promised:
        raise PointCloudError(
            f'{len(cloud.data)} bytes of data, but height {height} x width {width} x point_step '
            f'{cloud.point_step} needs {promised}'
        )
    if not promised:
        raise PointCloudError('the cloud is empty (0 points)')
    rows = np.ndarray(
        (height, width), dtype, buffer=memoryview(cloud.data), strides=(row_step, cloud.point_step)
    )
    return {name: rows[name] for name in names}


def _intensity_doubt(scale: str, divisor: float, largest: float, integer: bool) -> str:
    if divisor == 1.0 and largest > _UNIT_SCALE_LIMIT:
        return f'intensities reach {largest:g}, but intensity_scale says 0..1: set it to auto or 0..255'
    if divisor == 255.0 and largest > 255.0:
        return f'intensities reach {largest:g}: what is above 255 is taken for 255'
    if scale == '0..255' and not integer and 0.0 < largest <= 1.0:
        return f'intensities reach {largest:g} only, but intensity_scale says 0..255: set it to auto or 0..1'
    return ''


def read_cloud(cloud: Any, intensity_scale: str = 'auto') -> CloudPoints:
    """Take the usable points out of a `sensor_msgs/PointCloud2`.

    Args:
        cloud: the message.
        intensity_scale: one of `INTENSITY_SCALES`. With `auto`, intensities of an integer field count 0..255;
            those of a float field count 0..1, or 0..255 if one of them is greater than 2. Whatever it is,
            [0, 1] comes out.

    Raises:
        PointCloudError: if a needed field is missing (found and accepted fields are named), the header's
            sizes contradict the data, or no usable point is left.
    """
    columns = _columns(cloud)
    points = np.empty((*columns['x'].shape, 4), np.float32)
    for i, name in enumerate(('x', 'y', 'z', 'intensity')):
        points[..., i] = columns[name]
    points = points.reshape(-1, 4)
    x, y, z, intensity = points.T
    # NaN and infinity survive a sum, so one look at the sum finds them; a finite sum cannot hide one.
    with np.errstate(invalid='ignore', over='ignore'):
        kept = np.isfinite(x + y + z + intensity) & ((x != 0) | (y != 0) | (z != 0))
    dropped = len(points) - int(np.count_nonzero(kept))
    if dropped == len(points):
        raise PointCloudError(
            f'none of the {len(points)} points is usable: all are NaN, infinite or at the origin'
        )
    if dropped:
        points = points[kept]
    integer = columns['intensity'].dtype.kind in 'iu'
    largest = float(points[:, 3].max())
    if intensity_scale == 'auto':
        scale = 255.0 if integer or largest > _UNIT_SCALE_LIMIT else 1.0
    else:
        scale = 255.0 if intensity_scale == '0..255' else 1.0
    if scale != 1.0:
        points[:, 3] /= scale
    np.clip(points[:, 3], 0.0, 1.0, out=points[:, 3])

    def extra(name: str, dtype: type) -> NDArray | None:
        if name not in columns:
            return None
        column: NDArray = columns[name].astype(dtype).reshape(-1)
        return column[kept] if dropped else column

    return CloudPoints(
        points,
        extra('ring', np.uint16),
        extra('time', np.float32),
        dropped,
        scale,
        largest,
        _intensity_doubt(intensity_scale, scale, largest, integer),
    )


def packed(
    points: NDArray[np.float32],
    ring: NDArray[np.uint16] | None = None,
    time: NDArray[np.float32] | None = None,
) -> tuple[NDArray, list[tuple[str, int, int]]]:
    """The way back: rows as a packed cloud holds them, with the fields x, y, z, intensity and those given.

    Args:
        points: (n, 4) x, y, z in metres, intensity in [0, 1].
        ring: (n,) laser index.
        time: (n,) seconds relative to the stamp.

    Returns:
        (n,) rows, little-endian, and name, offset and `PointField` datatype of each field.
    """
    columns: dict[str, NDArray] = {name: points[:, i] for i, name in enumerate(('x', 'y', 'z', 'intensity'))}
    columns |= {name: column for name, column in (('ring', ring), ('time', time)) if column is not None}
    formats = {name: 'u2' if name == 'ring' else 'f4' for name in columns}
    rows = np.empty(len(points), [(name, f'<{code}') for name, code in formats.items()])
    for name, column in columns.items():
        rows[name] = column
    codes = {code: number for number, code in DATATYPES.items()}
    offsets = np.cumsum([0, *(np.dtype(code).itemsize for code in formats.values())])
    return rows, [
        (name, int(at), codes[code]) for (name, code), at in zip(formats.items(), offsets, strict=False)
    ]
