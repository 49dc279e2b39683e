# SPDX-License-Identifier: Apache-2.0
"""What a sender computes of a sweep, and what a receiver has of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.codec import PayloadError
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.tables import TILE, LinkTables

LAYERS = ('boxes', 'coarse', 'fine')


class TileState(IntEnum):
    """How much of a tile arrived: nothing, its coarse code, fine codes, or that it is empty."""

    MISSING = 0
    COARSE = 1
    FINE = 2
    EMPTY = 3


@dataclass(frozen=True, slots=True)
class OutgoingMap:
    """A sweep as `sender.onnx` prepares it.

    Attributes:
        boxes: own detections in the own LiDAR frame, by descending score.
        coarse: (height / 4, width / 4) uint8 code of each tile; 0: the tile is empty.
        normal: (channels, height, width) float32 normalised features, see `LinkTables.code`.
        occupied: (height, width) cells that are not empty; the others' features have no meaning.
        benefit: (height / 4, width / 4) float32 what the fine codes of a tile are worth to the receiver.
    """

    boxes: Boxes3D
    coarse: NDArray[np.uint8]
    normal: NDArray[np.float32]
    occupied: NDArray[np.bool_]
    benefit: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ReceivedFeature:
    """A feature map of which parts arrived.

    Attributes:
        feature: (channels, height, width) float32, 0 where nothing arrived.
        level: (height, width) float32; 1 where fine codes arrived or the coarse code says that the tile is
            empty, so that nothing is missing; 0.5 where another coarse code arrived; 0 where nothing did.
        known_empty: (height, width) cells known to be empty.
    """

    feature: NDArray[np.float32]
    level: NDArray[np.float32]
    known_empty: NDArray[np.bool_]

    @classmethod
    def of_whole(cls, bev: BevFeature) -> ReceivedFeature:
        """A map that arrived whole, in version 1 of the exchange."""
        return cls(bev.feature, np.ones_like(bev.density), bev.density <= 0)


@dataclass(frozen=True, slots=True)
class ReceivedMap:
    """What arrived of one sweep, from any of its chunks.

    Attributes:
        boxes: by descending score; None if no chunk with boxes arrived.
        coarse: (height / 4, width / 4) int16 codes; -1: did not arrive.
        fine: (levels, height, width) int16 codes; -1: did not arrive. Those of further levels are 0 in empty
            cells.
        bytes_of: bytes by layer, the keys are `LAYERS`.
        refused: why chunks could not be used; each names the number of its chunk.
        partial: whether the sender has more boxes, which are in a chunk that did not arrive.
    """

    boxes: Boxes3D | None
    coarse: NDArray[np.int16]
    fine: NDArray[np.int16]
    bytes_of: dict[str, int]
    refused: tuple[PayloadError, ...] = ()
    partial: bool = False

    @property
    def level(self) -> NDArray[np.float32]:
        """(height, width) how much arrived of each cell, see `ReceivedFeature`."""
        coarse = self.coarse.repeat(TILE, axis=0).repeat(TILE, axis=1)
        known = (self.fine[0] >= 0) | (coarse == 0)
        return np.where(known, 1.0, np.where(coarse > 0, 0.5, 0.0)).astype(np.float32)

    def feature(self, tables: LinkTables) -> ReceivedFeature:
        """Look the codes up: a cell is the sum of its fine vectors, else its tile's coarse vector, else 0."""
        coarse = self.coarse.repeat(TILE, axis=0).repeat(TILE, axis=1).ravel()
        fine = self.fine.reshape(len(self.fine), -1)
        arrived = fine[0] >= 0
        vectors = np.concatenate((tables.coarse_vectors, tables.fine_vectors[0]))
        rows = np.where(arrived, len(tables.coarse_vectors) + fine[0], np.maximum(coarse, 0))
        # Cell by cell, whose vectors lie together, and at the end channel by channel.
        cells = vectors.take(rows, axis=0, mode='clip')
        for codes, residuals in zip(fine[1:], tables.fine_vectors[1:], strict=True):
            coded = np.flatnonzero((fine[0] > 0) & (codes >= 0))
            cells[coded] += residuals.take(codes[coded], axis=0, mode='clip')
        known_empty = np.where(arrived, fine[0], coarse) == 0
        shape = self.fine.shape[1:]
        feature = np.ascontiguousarray(cells.T).reshape(-1, *shape)
        return ReceivedFeature(feature, self.level, known_empty.reshape(shape))

    def occupied(self) -> NDArray[np.bool_]:
        """Mask of the cells (height, width) of which the sender's codes say that they are not empty."""
        coarse = self.coarse.repeat(TILE, axis=0).repeat(TILE, axis=1)
        return np.where(self.fine[0] >= 0, self.fine[0], coarse) > 0

    def tiles(self) -> NDArray[np.uint8]:
        """The `TileState` of each tile, (height / 4, width / 4)."""
        states = np.where(self.coarse > 0, TileState.COARSE, TileState.MISSING).astype(np.uint8)
        states[self.coarse == 0] = TileState.EMPTY
        # The first fine level of a tile arrives as a whole.
        states[self.fine[0, ::TILE, ::TILE] >= 0] = TileState.FINE
        return states
