# SPDX-License-Identifier: Apache-2.0
"""The ego's estimate of what did not arrive of its neighbours' maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import RESTORE, ModelCard
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.boxes import draw_boxes
from diffkd_ros.runtime.link.maps import ReceivedFeature, ReceivedMap
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.session import ModelPart, Shape

BOX_MAPS = 9


class MapReceiver:
    """Makes feature maps for the fusion from what arrived of the neighbours'.

    Args:
        card: of a model with a layered message.
        threads: CPU threads.
        device: as for `ModelPart`.

    Raises:
        ModelError: if the tables or the graph do not load or do not fit the card.
    """

    def __init__(self, card: ModelCard, threads: int = 1, device: str = 'cpu') -> None:
        self.tables = LinkTables.load(card)
        self._restorer = MapRestorer(card, threads, device) if card.restores else None

    def features(
        self, ego: BevFeature, received: Sequence[ReceivedMap | BevFeature], poses: Sequence[Matrix]
    ) -> list[BevFeature]:
        """Decode and restore the neighbours' maps.

        Args:
            ego: its own map.
            received: of each neighbour; a `BevFeature` arrived whole.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.

        Returns:
            A map of each neighbour; its density is 1 in cells that may hold something, else 0.
        """
        maps = [
            ReceivedFeature.of_whole(each) if isinstance(each, BevFeature) else each.feature(self.tables)
            for each in received
        ]
        features = np.stack([each.feature for each in maps])
        density = np.stack([~each.known_empty for each in maps]).astype(np.float32)
        levels = np.stack([each.level for each in maps])
        if self._restorer is not None and (levels < 1).any():
            boxes = [None if isinstance(each, BevFeature) else each.boxes for each in received]
            features = self._restorer.restore(ego, features, density, levels, boxes, poses)
        return [BevFeature(*each) for each in zip(features, density, strict=True)]


class MapRestorer(ModelPart):
    """Runs `restore.onnx` of a model folder."""

    graph = RESTORE

    @staticmethod
    def shapes(card: ModelCard) -> Mapping[str, Shape]:
        """Shapes of the graph's inputs and outputs for this card; the neighbours vary."""
        size = card.grid.height, card.grid.width
        maps, each = (None, card.channels, *size), (None, 1, *size)
        return {
            'ego_feature': (1, card.channels, *size),
            'ego_density': (1, 1, *size),
            'features': maps,
            'density': each,
            'level': each,
            'boxes': (None, BOX_MAPS, *size),
            'ego_to_agent': (None, 2, 3),
            'restored': maps,
        }

    def restore(
        self,
        ego: BevFeature,
        features: np.ndarray,
        density: np.ndarray,
        levels: np.ndarray,
        boxes: Sequence[Boxes3D | None],
        poses: Sequence[Matrix],
    ) -> np.ndarray:
        """Restore neighbours' maps.

        Args:
            ego: its own map.
            features: (m, channels, height, width) as decoded.
            density: (m, height, width) 1 in cells that may hold something, else 0.
            levels: (m, height, width), see `ReceivedFeature`.
            boxes: that each neighbour sent, None if they did not arrive.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.

        Returns:
            (m, channels, height, width).
        """
        grid = self._card.grid
        nothing = np.zeros((BOX_MAPS, grid.height, grid.width), np.float32)
        drawn = [nothing if each is None else draw_boxes(each, grid) for each in boxes]
        inputs = {
            'ego_feature': ego.feature[None],
            'ego_density': ego.density[None, None],
            'features': features,
            'density': density[:, None],
            'level': levels[:, None],
            'boxes': np.stack(drawn),
            'ego_to_agent': grid_warps(poses, grid)[1:],
        }
        return self._session.run(['restored'], inputs)[0]
