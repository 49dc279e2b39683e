# SPDX-License-Identifier: Apache-2.0
"""Encoding of a sweep's points to the feature map an agent shares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.runtime.card import ENCODER, ModelCard
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.session import ModelPart, Shape


class CloudError(DiffkdError):
    """A point cloud of the wrong shape or without a usable point."""


class FeatureEncoder(ModelPart):
    """Runs `encoder.onnx` of a model folder."""

    graph = ENCODER
    # ScatterND takes the maximum of a cell's points, which ONNX Runtime's threads lose to each other.
    serial = True
    steady = False  # the number of points

    @staticmethod
    def shapes(card: ModelCard) -> Mapping[str, Shape]:
        """Shapes of the graph's inputs and outputs for this card."""
        size = card.grid.height, card.grid.width
        return {'points': (None, 4), 'feature': (1, card.channels, *size), 'density': (1, 1, *size)}

    def encode(self, points: NDArray[np.float32]) -> BevFeature:
        """Encode one sweep; points that are not finite or out of range are ignored.

        Args:
            points: (n, 4) float32 x, y, z in metres in the LiDAR frame, intensity in [0, 1].

        Raises:
            CloudError: if the shape is wrong or no usable point is in the grid's range.
        """
        if points.ndim != 2 or points.shape[1] != 4:
            raise CloudError(f'points must be (n, 4) x, y, z, intensity; got {points.shape}')
        grid = self._card.grid
        usable = grid.contains(points) & np.isfinite(points[:, 3])
        if not usable.any():
            finite = int(np.isfinite(points).all(axis=1).sum())
            raise CloudError(
                f'no usable point: of {len(points)} points {finite} are finite and none within '
                f'x {grid.x_min:g}..{grid.x_max:g}, y {grid.y_min:g}..{grid.y_max:g}, '
                f'z {grid.z_min:g}..{grid.z_max:g} m of the LiDAR'
            )
        points = np.ascontiguousarray(points[usable], np.float32)
        feature, density = self._session.run(['feature', 'density'], {'points': points})
        return BevFeature(feature[0], density[0, 0])
