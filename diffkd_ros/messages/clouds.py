# SPDX-License-Identifier: Apache-2.0
"""Reading `sensor_msgs/PointCloud2`: by field name, datatype and offset, whatever the layout.

Only attributes are read, so messages of rclpy and of `rosbags` are both accepted. sensor_msgs_py, where it is
installed, gives the layout. Its `read_points` is not used, as it ignores padding between rows and swaps the
bytes of a big-endian message in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError

try:
    from sensor_msgs_py.point_cloud2 import create_cloud, dtype_from_fields
except ImportError:  # it has no wheel
    create_cloud = None

    def dtype_from_fields(fields: Iterable[Field]) -> np.dtype:
        """A structured type with the names, types and offsets of scalar fields, in native byte order."""
        names, formats, offsets = zip(
            *((f.name, DATATYPES[f.datatype], f.offset) for f in fields), strict=True
        )
        return np.dtype({'names': names, 'formats': formats, 'offsets': offsets})


# The datatypes of sensor_msgs/PointField as numpy types.
DATATYPES = dict(
    enumerate(('int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'float32', 'float64'), start=1)
)

# Fields listed in an error message.
_SHOWN = 32
ACCEPTED = 'x, y, z as float32 or float64, and intensity of any numeric type'

# Divisor for each range of a cloud's intensities; ignore: they become 0.
_DIVISORS = {'0..1': 1.0, '0..255': 255.0, 'ignore': math.inf}
# The range of a cloud's intensities. `auto`: integer fields 0..255, float fields by their values.
INTENSITY_SCALES = ('auto', *_DIVISORS)

# A float intensity above this is not a noisy reflectance of 0..1: the range is 0..255.
_UNIT_SCALE_LIMIT = 2.0


class PointCloudError(DiffkdError):
    """A point cloud is damaged, empty, or without finite points or a field."""


class EmptyCloudError(PointCloudError):
    """An intact point cloud has no usable point."""


@dataclass(frozen=True, slots=True)
class CloudPoints:
    """The usable points of one cloud.

    Attributes:
        points: (n, 4) float32; x, y, z in metres in the cloud's frame, intensity in [0, 1].
        ring: (n,) uint16 laser index; None if the cloud has no such field or a value is no uint16.
        time: (n,) float32 seconds relative to the cloud's stamp; None if the cloud has no such field or a
            value is not finite.
        dropped: number of points left out: not finite, or at the sensor's origin (a ray without return).
        intensity_scale: divisor of the cloud's intensities: 1, 255, or infinite if they are ignored.
        largest_intensity: before the division.
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
    def empty(cls) -> CloudPoints:
        """No points, as before the first cloud."""
        return cls(np.empty((0, 4), np.float32), None, None, 0, 1.0, 0.0)


@dataclass(slots=True)
class Field:
    """A scalar field, with the attributes of a `sensor_msgs/PointField`."""

    name: str
    offset: int
    datatype: int
    count: int = 1


def layout_of(cloud: Any) -> str:
    """The fields of a cloud as text: ``x float32@0, ...``; of more than 32 fields, the first."""
    described = [
        f'{f.name:.32} {DATATYPES.get(f.datatype, f"datatype {f.datatype}")}@{f.offset}'
        for f in cloud.fields[:_SHOWN]
    ]
    more = [f'{len(cloud.fields) - _SHOWN} more'] if len(cloud.fields) > _SHOWN else []
    return ', '.join(described + more) or 'no fields'


def _columns(cloud: Any) -> dict[str, NDArray]:
    """One strided view of the data per scalar field, (height, width)."""
    scalars: dict[str, Field] = {}
    for field in cloud.fields:
        # An unnamed field is padding. Some drivers leave the count of a scalar 0.
        if field.name and field.count <= 1 and field.datatype in DATATYPES:
            scalars.setdefault(field.name, Field(field.name, field.offset, field.datatype))
    missing = [name for name in ('x', 'y', 'z', 'intensity') if name not in scalars]
    if missing:
        raise PointCloudError(
            f'no field {", ".join(missing)}: found {layout_of(cloud)}; accepted: {ACCEPTED}'
        )
    for name in 'xyz':
        if not DATATYPES[scalars[name].datatype].startswith('float'):
            raise PointCloudError(
                f'{name} is not a floating-point field: found {layout_of(cloud)}; accepted: {ACCEPTED}'
            )
    for name, field in scalars.items():
        if field.offset + np.dtype(DATATYPES[field.datatype]).itemsize > cloud.point_step:
            raise PointCloudError(
                f'field {name} at offset {field.offset} is outside point_step {cloud.point_step}; '
                f'the cloud has {layout_of(cloud)}'
            )
    height, width = int(cloud.height), int(cloud.width)
    packed = width * cloud.point_step
    # The row_step of a single row is not needed, and some drivers leave it 0.
    row_step = cloud.row_step if height > 1 else packed
    if row_step < packed:
        raise PointCloudError(
            f'row_step {row_step} is smaller than width {width} x point_step {cloud.point_step}'
        )
    needed = (height - 1) * row_step + packed if height and width else 0
    if len(cloud.data) < needed:
        raise PointCloudError(
            f'{len(cloud.data)} bytes of data, but height {height} x width {width} x point_step '
            f'{cloud.point_step} needs {needed}'
        )
    if not needed:
        raise EmptyCloudError('the cloud is empty (0 points)')
    # Only now, as numpy raises errors of its own for offsets beyond 2^31, which no data can have.
    layout = dtype_from_fields(scalars.values())
    rows = np.ndarray(
        (height, width),
        layout.newbyteorder('>' if cloud.is_bigendian else '<'),
        buffer=memoryview(cloud.data),
        strides=(row_step, cloud.point_step),
    )
    return {name: rows[name] for name in scalars}


def _intensity_doubt(scale: str, divisor: float, largest: float, integer: bool) -> str:
    if divisor == 1.0 and largest > _UNIT_SCALE_LIMIT:
        return f'intensities reach {largest:g}, but intensity_scale says 0..1: set it to auto or 0..255'
    if divisor == 255.0 and largest > 255.0:
        return f'intensities reach {largest:g}: values above 255 are clipped to 255'
    if scale == '0..255' and not integer and 0.0 < largest <= 1.0:
        return f'intensities reach {largest:g} only, but intensity_scale says 0..255: set it to auto or 0..1'
    return ''


def read_cloud(cloud: Any, intensity_scale: str = 'auto') -> CloudPoints:
    """Read the usable points of a `sensor_msgs/PointCloud2`.

    Args:
        cloud: the message.
        intensity_scale: one of `INTENSITY_SCALES`, the range in the message; the result is in [0, 1]. With
            `auto` it is 0..255 for an integer field, and for a float field with a value greater than 2. With
            `ignore` all intensities are 0.

    Raises:
        EmptyCloudError: if no point is usable.
        PointCloudError: if a required field is missing, or the sizes contradict the data.
    """
    columns = _columns(cloud)
    points = np.empty((*columns['x'].shape, 4), np.float32)
    for i, name in enumerate(('x', 'y', 'z', 'intensity')):
        points[..., i] = columns[name]
    points = points.reshape(-1, 4)
    x, y, z, intensity = points.T
    # A sum is finite only if all its terms are, so one test of the sum suffices.
    with np.errstate(invalid='ignore', over='ignore'):
        kept = np.isfinite(x + y + z + intensity) & ((x != 0) | (y != 0) | (z != 0))
    dropped = len(points) - int(np.count_nonzero(kept))
    if dropped == len(points):
        raise EmptyCloudError(
            f'none of the {len(points)} points is usable: all are NaN, infinite or at the origin'
        )
    if dropped:
        points = points[kept]
    integer = columns['intensity'].dtype.kind in 'iu'
    largest = float(points[:, 3].max())
    if intensity_scale == 'auto':
        scale = 255.0 if integer or largest > _UNIT_SCALE_LIMIT else 1.0
    else:
        scale = _DIVISORS[intensity_scale]
    if scale != 1.0:
        points[:, 3] /= scale
    np.clip(points[:, 3], 0.0, 1.0, out=points[:, 3])

    def extra(name: str, dtype: type, low: float, high: float) -> NDArray | None:
        if name not in columns:
            return None
        column: NDArray = columns[name].reshape(-1)
        column = column[kept] if dropped else column
        # Some drivers declare fields that they do not fill.
        return column.astype(dtype) if ((column >= low) & (column <= high)).all() else None

    largest_time = float(np.finfo(np.float32).max)
    return CloudPoints(
        points,
        extra('ring', np.uint16, 0, 65535),
        extra('time', np.float32, -largest_time, largest_time),
        dropped,
        scale,
        largest,
        _intensity_doubt(intensity_scale, scale, largest, integer),
    )
