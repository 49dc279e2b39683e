# SPDX-License-Identifier: Apache-2.0
"""The range of one sensor's intensities, kept over its clouds."""

from __future__ import annotations

from typing import Any

from diffkd_ros.messages.clouds import CloudPoints, read_cloud


class IntensityScale:
    """Reads the clouds of one sensor.

    Attributes:
        scale: one of `INTENSITY_SCALES`; `auto` becomes `0..255` at the first cloud with that range, because
            a dark cloud of the same sensor would be taken for 0..1.

    Args:
        scale: as configured.
    """

    def __init__(self, scale: str) -> None:
        self.scale = scale
        self._automatic = scale == 'auto'

    def read(self, cloud: Any) -> CloudPoints:
        """The usable points of a `sensor_msgs/PointCloud2`; raises as `read_cloud`."""
        points = read_cloud(cloud, self.scale)
        if self.scale == 'auto' and points.intensity_scale != 1.0:
            self.scale = '0..255'
        return points

    def doubt(self, points: CloudPoints) -> str:
        """Why the range may be wrong, after a cloud was read; empty if the cloud fits it."""
        # With auto, one dark sweep of a sensor with a range of 0..255 is normal.
        return '' if self._automatic and points.largest_intensity <= 1.0 else points.doubt
