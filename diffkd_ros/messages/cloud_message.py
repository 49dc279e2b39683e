# SPDX-License-Identifier: Apache-2.0
"""Building `sensor_msgs/PointCloud2` from a sweep; reading one is `diffkd_ros.messages.point_cloud`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from diffkd_ros.messages.point_cloud import packed


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
    rows, layout = packed(points, ring, time)
    message = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        is_bigendian=False,
        point_step=rows.itemsize,
        row_step=rows.nbytes,
        is_dense=True,
        fields=[PointField(name=name, offset=at, datatype=kind, count=1) for name, at, kind in layout],
    )
    # Assigning an ndarray to a byte field costs seconds a megabyte; this is one memory copy.
    message.data.frombytes(rows.view(np.uint8))
    return message
