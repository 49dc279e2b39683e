# SPDX-License-Identifier: Apache-2.0
"""What a vehicle computes of its feature map in order to send it in layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffkd_ros.runtime.card import SENDER, ModelCard
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import OutgoingMap
from diffkd_ros.runtime.link.tables import TILE
from diffkd_ros.runtime.session import ModelPart, Shape

OUTPUTS = ['heatmap', 'regression', 'coarse', 'normal', 'occupied', 'benefit']
_ALONE = np.eye(2, 3, dtype=np.float32)[None]


class MapSender(ModelPart):
    """Runs `sender.onnx` of a model folder with a layered message."""

    graph = SENDER

    @staticmethod
    def shapes(card: ModelCard) -> Mapping[str, Shape]:
        """Shapes of the graph's inputs and outputs for this card."""
        height, width = card.grid.height, card.grid.width
        tiles = height // TILE, width // TILE
        inputs = {'feature': (1, card.channels, height, width), 'density': (1, 1, height, width)}
        outputs = (
            (1, 1, height, width),
            (1, 8, height, width),
            (1, 1, *tiles),
            (1, card.channels, height, width),
            (1, 1, height, width),
            (1, 1, *tiles),
        )
        return {**inputs, **dict(zip(OUTPUTS, outputs, strict=True))}

    def prepare(self, bev: BevFeature) -> OutgoingMap:
        """Detect in the vehicle's own map, code its tiles and rank them."""
        grid = self._card.grid
        inputs = {'feature': bev.feature[None], 'density': bev.density[None, None]}
        heatmap, regression, coarse, normal, occupied, benefit = self._session.run(OUTPUTS, inputs)
        observed = observed_cells(bev.density[None], _ALONE, grid)
        boxes = decode_boxes(heatmap[0, 0], regression[0], observed, grid, self._card.decoding)
        codes = coarse[0, 0].astype(np.uint8)
        return OutgoingMap(boxes, codes, normal[0], occupied[0, 0] > 0, benefit[0, 0])
