# SPDX-License-Identifier: Apache-2.0
"""What a vehicle computes of its feature map in order to send it in layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.card import SENDER, ModelCard
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import OutgoingMap
from diffkd_ros.runtime.link.tables import TILE
from diffkd_ros.runtime.plausibility.view import View
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
        heatmap, regression, coarse, normal, occupied, benefit = self._run(bev, OUTPUTS)
        boxes = self._boxes(bev, heatmap, regression)
        codes = coarse[0, 0].astype(np.uint8)
        return OutgoingMap(boxes, codes, normal[0], occupied[0, 0] > 0, benefit[0, 0])

    def view(self, bev: BevFeature, occupied: NDArray[np.bool_]) -> View:
        """What the network finds in the map of any one vehicle.

        Args:
            bev: its map, which may be restored.
            occupied: (height, width) cells with a return.
        """
        heatmap, regression = self._run(bev, OUTPUTS[:2])
        boxes = self._boxes(bev, heatmap, regression)
        return View.of_map(boxes, occupied, heatmap[0, 0], self._card.grid)

    def _run(self, bev: BevFeature, outputs: list[str]) -> list[NDArray[np.float32]]:
        inputs = {'feature': bev.feature[None], 'density': bev.density[None, None]}
        return list(self._session.run(outputs, inputs))

    def _boxes(
        self, bev: BevFeature, heatmap: NDArray[np.float32], regression: NDArray[np.float32]
    ) -> Boxes3D:
        observed = observed_cells(bev.density[None], _ALONE, self._card.grid)
        return decode_boxes(heatmap[0, 0], regression[0], observed, self._card.grid, self._card.decoding)
