# SPDX-License-Identifier: Apache-2.0
"""Building `sensor_msgs/PointCloud2` from a sweep; reading one is `diffkd_ros.sources.point_cloud`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

_DATATYPES = {'<f4': PointField.FLOAT32, '<u2': PointField.UINT16}


def cloud_message(
    header: Header,
    points: NDArray[np.float32],
    ring: NDArray[np.uint16] | None = None,
    time: NDArray[np.float32] | None = None,
) -> PointCloud2:
    """An unorganised, packed cloud with the fields x, y, z, intensity and, where given, ring and time.

    Args:
        header: stamp and LiDAR frame.
        points: (n, 4) x, y, z in metres, intensity in [0, 1].
        ring: (n,) laser index.
        time: (n,) seconds relative to the stamp.
    """
    columns: dict[str, NDArray] = {name: points[:, i] for i, name in enumerate(('x', 'y', 'z', 'intensity'))}
    formats = ['<f4'] * 4
    for name, column, code in (('ring', ring, '<u2'), ('time', time, '<f4')):
        if column is not None:
            columns[name] = column
            formats.append(code)
    dtype = np.dtype(list(zip(columns, formats, strict=True)))
    rows = np.empty(len(points), dtype)
    for name, column in columns.items():
        rows[name] = column
    message = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        is_bigendian=False,
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * len(points),
        is_dense=True,
        fields=[
            PointField(name=name, offset=dtype.fields[name][1], datatype=_DATATYPES[code], count=1)  # type: ignore[index]
            for name, code in zip(columns, formats, strict=True)
        ],
    )
    # Assigning an ndarray to a byte field costs seconds a megabyte; this is one memory copy.
    message.data.frombytes(rows.view(np.uint8))
    return message
