# SPDX-License-Identifier: Apache-2.0
"""The ego's estimate of what did not arrive of its neighbours' maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import RESTORE, ModelCard
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.boxes import draw_boxes
from diffkd_ros.runtime.link.maps import ReceivedFeature, ReceivedMap
from diffkd_ros.runtime.link.memory import Moment, Recalled, occupied_cells
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.session import ModelPart, Shape

BOX_MAPS = 9
LAST_INPUTS = ['last_features', 'last_occupied', 'last_age', 'now_to_then']
"""Further inputs of a graph with a memory."""

Received = ReceivedMap | BevFeature


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
        self._card = card
        self._restorer = MapRestorer(card, threads, device) if card.restores else None

    def features(
        self,
        ego: BevFeature,
        received: Sequence[Received],
        poses: Sequence[Matrix],
        moment: Moment | None = None,
    ) -> list[BevFeature]:
        """Decode and restore the neighbours' maps; with a memory, restore the ego's, too.

        Args:
            ego: its own map.
            received: of each neighbour; a `BevFeature` arrived whole.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
            moment: in the memory of a model that has one; None: nothing is remembered.

        Returns:
            A map of the ego and of each neighbour; a neighbour's density is 1 in cells that may hold
            something, else 0.
        """
        maps = self._decoded(ego, received)
        restorer = self._restorer
        if restorer is None or not (self._card.memory or any((each.level < 1).any() for each in maps)):
            return [ego, *(BevFeature(each.feature, _density(each)) for each in maps[1:])]
        boxes = [None if isinstance(each, BevFeature) else each.boxes for each in received]
        before: Sequence[Recalled | None] = [None] * len(maps) if moment is None else moment.before()
        restored = restorer.restore(ego, maps, boxes, poses, before)
        if moment is not None:
            _keep(moment, ego, received, maps, poses)
        return restored

    def remember(
        self, ego: BevFeature, received: Sequence[Received], poses: Sequence[Matrix], moment: Moment
    ) -> None:
        """Remember what arrived, as `features` does, without restoring it."""
        _keep(moment, ego, received, self._decoded(ego, received), poses)

    def _decoded(self, ego: BevFeature, received: Sequence[Received]) -> list[ReceivedFeature]:
        return [
            ReceivedFeature.of_whole(each) if isinstance(each, BevFeature) else each.feature(self.tables)
            for each in (ego, *received)
        ]


def _density(known: ReceivedFeature) -> NDArray[np.float32]:
    return (~known.known_empty).astype(np.float32)


def _keep(
    moment: Moment,
    ego: BevFeature,
    received: Sequence[Received],
    maps: Sequence[ReceivedFeature],
    poses: Sequence[Matrix],
) -> None:
    occupied = [occupied_cells(each) for each in (ego, *received)]
    moment.keep([each.feature for each in maps], occupied, poses)


class MapRestorer(ModelPart):
    """Runs `restore.onnx` of a model folder."""

    graph = RESTORE

    @staticmethod
    def shapes(card: ModelCard) -> Mapping[str, Shape]:
        """Shapes of the graph's inputs and outputs for this card; the neighbours vary."""
        size = card.grid.height, card.grid.width
        maps, each = (None, card.channels, *size), (None, 1, *size)
        shapes: dict[str, Shape] = {
            'ego_feature': (1, card.channels, *size),
            'ego_density': (1, 1, *size),
            'features': maps,
            'density': each,
            'level': each,
            'boxes': (None, BOX_MAPS, *size),
            'ego_to_agent': (None, 2, 3),
            'restored': maps,
        }
        if card.memory:
            last: tuple[Shape, ...] = (maps, each, (None, 1), (None, 2, 3))
            shapes |= {**dict(zip(LAST_INPUTS, last, strict=True)), 'possible': each}
        return shapes

    def restore(
        self,
        ego: BevFeature,
        maps: Sequence[ReceivedFeature],
        boxes: Sequence[Boxes3D | None],
        poses: Sequence[Matrix],
        before: Sequence[Recalled | None],
    ) -> list[BevFeature]:
        """Restore neighbours' maps; with a memory, the ego's, too.

        Args:
            ego: its own map.
            maps: of the ego and of each neighbour, as decoded.
            boxes: that each neighbour sent, None if they did not arrive.
            poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
            before: what is remembered of the ego and of each neighbour; without a memory not used.

        Returns:
            As `MapReceiver.features`.
        """
        grid = self._card.grid
        nothing = np.zeros((BOX_MAPS, grid.height, grid.width), np.float32)
        drawn = [nothing if each is None else draw_boxes(each, grid) for each in (None, *boxes)]
        # With the ego's, whose rows are left out: there may be no neighbour.
        features = np.stack([each.feature for each in maps])
        density = np.stack([_density(each) for each in maps])
        inputs = {
            'ego_feature': ego.feature[None],
            'ego_density': ego.density[None, None],
            'features': features[1:],
            'density': density[1:, None],
            'level': np.stack([each.level for each in maps])[1:, None],
            'boxes': np.stack(drawn)[1:],
            'ego_to_agent': grid_warps(poses, grid)[1:],
        }
        if not self._card.memory:
            (restored,) = self._session.run(['restored'], inputs)
            return [ego, *map(BevFeature, restored, density[1:])]
        inputs |= dict(zip(LAST_INPUTS, _last_inputs(before, features, poses, grid), strict=True))
        restored, possible = self._session.run(['restored', 'possible'], inputs)
        return list(map(BevFeature, restored, [ego.density, *possible[:, 0]]))


def _last_inputs(
    before: Sequence[Recalled | None], features: NDArray[np.float32], poses: Sequence[Matrix], grid: BevGrid
) -> tuple[NDArray[np.float32], ...]:
    """The last known maps, as inputs of a graph with a memory.

    Args:
        before: what is remembered of the ego and of each neighbour.
        features: (n, channels, height, width) their maps now.
        poses: (4, 4) map <- LiDAR of each now.
        grid: of the maps.

    Returns:
        Float32 values of `LAST_INPUTS`: the maps (n, channels, height, width), 1 in their occupied cells else
        0 (n, 1, height, width), age in seconds (n, 1), and warps from the grid of now to that of then
        (n, 2, 3). Zeros and the identity for an agent of which nothing is remembered.
    """
    maps = np.zeros_like(features)
    occupied = np.zeros((len(features), 1, *features.shape[2:]), np.float32)
    age = np.zeros((len(features), 1), np.float32)
    warps = np.tile(np.eye(2, 3, dtype=np.float32), (len(features), 1, 1))
    for k, recalled in enumerate(before):
        if recalled is not None:
            known, age[k] = recalled
            maps[k], occupied[k, 0] = known.feature, known.occupied
            warps[k] = grid_warps([poses[k], known.pose], grid)[1]
    return maps, occupied, age, warps
