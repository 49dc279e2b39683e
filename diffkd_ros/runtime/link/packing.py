# SPDX-License-Identifier: Apache-2.0
"""Sending as much of a sweep as a number of bytes allows, the most important first."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.card import ModelError
from diffkd_ros.runtime.link.boxes import BOX_BYTES
from diffkd_ros.runtime.link.chunk import LARGEST, MOST_BOXES, Chunk, depth_bits, encode_chunk
from diffkd_ros.runtime.link.maps import LAYERS, OutgoingMap
from diffkd_ros.runtime.link.tables import CELLS, TILE, LinkTables

DEFAULT_BUDGET = 4000
"""Bytes of a sweep with the other fields of its messages: 0.32 Mbit/s at 10 Hz."""
MOST_CHUNKS = 255
"""Of a sweep; `BevChunk` counts them in a byte."""
# What a further level of a tile is worth, as a share of the level before: the best tiles are refined before
# tiles of a small benefit are sent at all. Of 0.1, 0.3, 0.7 and 1, AP@0.7 is highest with 0.7 at 2 kB (sim:5,
# 100 frames: 88.1 on clean clouds, 87.0 with 0.1).
_WORTH_OF_LEVEL = 0.7
_MARGIN = 1.3  # of the bytes of the tiles that are coded, in case they take fewer than expected
_SPAN = 4  # bytes of two numbers in a chunk's header
REPEATED_SCORE = 0.3
"""Least score of the boxes that further chunks repeat."""
_MOST_REPEATED = 0.25  # of a chunk
# Fewest full chunks of a budget that is worth it: of 2 kB, boxes that are repeated cost a point of AP@0.7
# (sim:3, 100 frames).
_FEWEST = 2.5


class Packed(list[bytes]):
    """The chunks of a sweep.

    Attributes:
        bytes_of: their bytes by layer, as `ReceivedMap.bytes_of` if all arrive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes_of = dict.fromkeys(LAYERS, 0)

    def add(self, data: bytes, bytes_of: Mapping[str, int]) -> None:
        """Append a chunk with these bytes by layer."""
        self.append(data)
        for layer, size in bytes_of.items():
            self.bytes_of[layer] += size


class Packer:
    """Chooses what is sent of a sweep, and encodes it.

    Args:
        tables: of the model that prepares the sweeps.
    """

    def __init__(self, tables: LinkTables) -> None:
        self._tables = tables

    def pack(self, outgoing: OutgoingMap, budget: int, overhead: int = 0) -> Packed:
        """Code a sweep and encode it in chunks of at most `chunk.LARGEST` bytes.

        The boxes come first, then the coarse codes, then the fine codes of the tiles of the largest benefit.
        What does not fit into the budget is left out; of the boxes, those with the lowest scores. The chosen
        tiles are in `LinkTables.order`, which takes fewer bytes than the order of their benefit, and no lost
        chunk costs the best of them all.

        With a budget of two and a half full chunks or more, all others repeat the boxes with a score of
        `REPEATED_SCORE` or more, at most 23, so that any of them is enough to use the sweep; except for a
        chunk of which they would take more than a quarter.

        Args:
            outgoing: the sweep.
            budget: bytes of all chunks together, overhead included.
            overhead: bytes that each chunk costs in addition, such as the other fields of its message.

        Raises:
            ModelError: if the sweep does not fit the tables.
        """
        budget = min(budget, MOST_CHUNKS * (LARGEST + overhead))
        self._check(outgoing)
        sweep = _Sweep(outgoing, self._tables, budget >= _FEWEST * (LARGEST + overhead))
        for_tiles = budget - sweep.size
        sweep.code(sweep.choose(round(_MARGIN * for_tiles), overhead))
        while True:
            unsent = _Unsent(sweep, sweep.choose(for_tiles, overhead))
            chunks, left = Packed(), budget
            while len(chunks) < MOST_CHUNKS:
                data, bytes_of = unsent.next_chunk(min(LARGEST, left - overhead))
                if not data:
                    break
                chunks.add(data, bytes_of)
                left -= len(data) + overhead
            if not unsent.size:
                return chunks
            # The estimate of the tiles' bytes was too low.
            for_tiles -= unsent.size

    def _check(self, outgoing: OutgoingMap) -> None:
        tables = self._tables
        size, tiles = (tables.height, tables.width), (tables.height // TILE, tables.width // TILE)
        parts = outgoing.coarse, outgoing.normal, outgoing.occupied, outgoing.benefit
        shapes = tuple(part.shape for part in parts)
        expected = tiles, (tables.channels, *size), size, tiles
        if shapes != expected:
            raise ModelError(
                f'coarse codes, features, occupied cells and benefit of shapes {shapes}, expected {expected}'
            )
        highest, known = int(outgoing.coarse.max()), len(tables.coarse_vectors)
        if highest >= known:
            raise ModelError(f'coarse codes up to {highest}, the tables have {known}')


class _Sweep:
    """A sweep's codes in `LinkTables.order`, and what they cost.

    Attributes:
        tables: of the model.
        boxes: of the sweep.
        coarse: (tiles,) coarse codes.
        fine: (levels, tiles, 16) fine codes, 0 before they are coded.
        bits: (levels, tiles) cost of the fine codes; before they are coded, expected.
        size: bytes of boxes and coarse codes.

    Args:
        outgoing: the sweep.
        tables: of the model.
        repeats: whether further chunks repeat boxes.
    """

    def __init__(self, outgoing: OutgoingMap, tables: LinkTables, repeats: bool) -> None:
        self.tables, self.boxes = tables, outgoing.boxes
        self._repeats = repeats
        self.coarse = outgoing.coarse.ravel()[tables.order]
        self._normal = outgoing.normal.reshape(len(outgoing.normal), -1)
        self._occupied = outgoing.occupied.ravel()[tables.cells]
        self.fine = np.zeros((tables.levels, *self._occupied.shape), np.uint8)
        self.size = BOX_BYTES * len(outgoing.boxes) + round(tables.coarse.bits[self.coarse].sum() / 8)
        count = self._occupied.sum(axis=-1)
        self.bits = np.stack([model.expected(level == 0) * count for level, model in enumerate(tables.fine)])
        self.bits[0] += tables.fine[0].bits[0] * (CELLS - count)
        worth = outgoing.benefit.ravel()[tables.order] * _WORTH_OF_LEVEL ** np.arange(tables.levels)[:, None]
        # A tile that its coarse code calls empty, and is, has nothing more to say.
        wanted = (worth >= 0) & ((count > 0) | (self.coarse > 0))
        level, tile = np.nonzero(wanted)
        # No level comes before the level below.
        best = np.lexsort((level, -worth[level, tile]))
        self._level, self._tile = level[best], tile[best]

    def code(self, depth: NDArray[np.integer]) -> None:
        """Find the fine codes of so many levels of each tile; no others can be chosen afterwards."""
        tile, cell = np.nonzero(self._occupied & (depth > 0)[:, None])
        normal = self._normal[:, self.tables.cells[tile, cell]].T
        self.fine[:, tile, cell] = self.tables.code(normal, depth[tile])
        coded = np.arange(self.tables.levels)[:, None] < depth
        bits = [model.bits[part] for model, part in zip(self.tables.fine, self.fine, strict=True)]
        self.bits = np.stack([bits[0], *(part * self._occupied for part in bits[1:])]).sum(axis=-1)
        kept = coded[self._level, self._tile]
        self._level, self._tile = self._level[kept], self._tile[kept]

    def choose(self, budget: int, overhead: int) -> NDArray[np.int64]:
        """Choose the number of levels of each tile, so that they about fit into a budget."""
        levels, tiles = self.bits.shape
        # For the first 0, 1, ... levels of tiles: how many tiles have exactly 1, 2, ... levels.
        counts = _sums(self._level[:, None] == np.arange(levels))
        counts[:, :-1] -= counts[:, 1:]
        size = (_sums(self.bits[self._level, self._tile]) + depth_bits(tiles, counts)) / 8
        # Flags, places and numbers, the coder's initial state and rounding.
        repeated = self.repeated(LARGEST)
        each = overhead + 1 + (repeated is not None) + _SPAN + 2 * levels + 5
        # All chunks but the first repeat boxes, the last one about in proportion to its size.
        copies = BOX_BYTES * (repeated or 0)
        chunks = (self.size + size - copies) / (LARGEST + overhead - each - copies)
        size += np.ceil(chunks) * each + np.maximum(chunks - 1, 0) * copies
        (fitting,) = np.nonzero(size <= budget)
        return np.bincount(self._tile[: fitting[-1] if len(fitting) else 0], minlength=tiles)

    def repeated(self, size: int) -> int | None:
        """How many of the boxes, which begin with the best, a further chunk of this size repeats.

        None: it says nothing of boxes. 0: it says that there are none.
        """
        assert self.boxes.scores is not None, 'detections have scores'
        likely = int(np.count_nonzero(self.boxes.scores >= REPEATED_SCORE))
        count = min(likely, int(_MOST_REPEATED * LARGEST) // BOX_BYTES)
        tells = count > 0 or not len(self.boxes)
        return count if self._repeats and tells and BOX_BYTES * count <= _MOST_REPEATED * size else None


class _Unsent:
    """What is not yet sent of the chosen parts of a sweep.

    Args:
        sweep: the sweep.
        depth: (tiles,) number of levels to be sent of each tile.
    """

    def __init__(self, sweep: _Sweep, depth: NDArray[np.int64]) -> None:
        self._sweep, self._depth = sweep, depth
        self._boxes, self._begun = 0, False
        self._coarse, self._coarse_bits = 0, _sums(sweep.tables.coarse.bits[sweep.coarse])
        self._places = np.flatnonzero(depth)
        levels = np.arange(sweep.tables.levels)
        self._tile_bits = _sums((sweep.bits * (levels[:, None] < depth)).sum(axis=0)[self._places])
        self._counts = _sums(depth[self._places, None] == 1 + levels)
        self._tiles = 0

    @property
    def size(self) -> int:
        """Bytes of the tiles not sent."""
        return math.ceil((self._tile_bits[-1] - self._tile_bits[self._tiles]) / 8)

    def next_chunk(self, size: int) -> tuple[bytes, dict[str, int]]:
        """Encode the next chunk of at most so many bytes; empty if nothing is left or fits.

        Returns:
            The chunk, and its bytes by layer.
        """
        # The coder's bytes exceed the cost of the codes by the initial state and some rounding.
        reserve = 32
        while 8 * size > reserve:
            chunk, new = self._fill(size, reserve)
            if chunk is None:
                break
            data = encode_chunk(chunk, self._sweep.tables)
            if len(data) <= size:
                self._begun = True
                self._boxes += new
                self._coarse += len(chunk.coarse)
                self._tiles += int(np.count_nonzero(chunk.depth))
                return data, chunk.bytes_of(len(data), self._sweep.tables)
            reserve *= 2
        return b'', {}

    def _fill(self, size: int, reserve: int) -> tuple[Chunk | None, int]:
        """The contents of the next chunk, None if nothing fits, and how many boxes in it are new."""
        tables = self._sweep.tables
        boxes, new = self._next_boxes(size)
        bits = 8.0 * (size - 1 - (0 if boxes is None else 1 + BOX_BYTES * len(boxes))) - reserve
        costs = self._coarse_bits[self._coarse :] - self._coarse_bits[self._coarse]
        coarse = self._sweep.coarse[self._coarse :][: _fitting(costs, bits - 8 * _SPAN)]
        if len(coarse):
            bits -= 8 * _SPAN + costs[len(coarse)]
        places = self._places[:0]
        if self._coarse + len(coarse) == tables.tiles:
            places = self._next_tiles(bits - 8 * (_SPAN + 2 * tables.levels))
        if self._begun and not (new or len(coarse) or len(places)):
            return None, 0
        first = int(places[0]) if len(places) else 0
        chunk = Chunk(
            boxes,
            self._coarse,
            coarse,
            first,
            self._depth[first : places[-1] + 1] if len(places) else places,
            self._sweep.fine[:, places],
            partial=self._begun and bool(boxes),
        )
        return chunk, new

    def _next_boxes(self, size: int) -> tuple[Boxes3D | None, int]:
        """The boxes of the next chunk, None if it says nothing of them, and how many are new."""
        # The first chunk also says that there are none.
        repeated = self._sweep.repeated(size) if self._begun else 0
        room = min((size - 2) // BOX_BYTES, MOST_BOXES) - (repeated or 0)
        new = max(min(len(self._sweep.boxes) - self._boxes, room), 0)
        if repeated is None and not new:
            return None, 0
        return self._sweep.boxes[np.r_[: repeated or 0, self._boxes : self._boxes + new]], new

    def _next_tiles(self, bits: float) -> NDArray[np.int64]:
        """Places of the next tiles that fit."""
        costs = self._tile_bits[self._tiles :] - self._tile_bits[self._tiles]
        costs = costs[: 1 + _fitting(costs, bits)]
        places = self._places[self._tiles :][: len(costs) - 1]
        if not len(places):
            return places
        counts = self._counts[self._tiles + 1 :][: len(places)] - self._counts[self._tiles]
        costs = costs[1:] + depth_bits(places - places[0] + 1, counts)
        (fitting,) = np.nonzero(costs <= bits)
        return places[: fitting[-1] + 1 if len(fitting) else 0]


def _sums(values: NDArray) -> NDArray:
    """Sums of the first 0, 1, ... rows."""
    return np.concatenate((np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)))


def _fitting(costs: NDArray[np.float64], most: float) -> int:
    """How many fit, from the ascending costs of the first 0, 1, ..."""
    return max(int(np.searchsorted(costs, most, side='right')) - 1, 0)
