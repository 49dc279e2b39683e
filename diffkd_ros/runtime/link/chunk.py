# SPDX-License-Identifier: Apache-2.0
"""One chunk of a layered message, which is decoded without any other chunk.

Layout, little-endian; an optional section is present if its flag is set. Places are those in
`LinkTables.order`.

    uint8       16 * `VERSION` + flags: 1 boxes, 2 coarse codes, 4 fine codes, 8 not all boxes, as the first
                chunk has more
    uint8       optional: number of boxes
    2 uint16    optional: place of the first coarse code, number of coarse codes
    2 uint16    optional: place of the first tile, number of tiles of which the chunk says how many fine
                levels it has
    L uint16    optional: how many of these tiles have exactly 1, 2, ... L fine levels
    12 bytes    each box, see `boxes.py`
    the rest    entropy-coded: the coarse codes; the number of fine levels of each tile; the first level of
                the tiles that have it, 16 cells each; the second level of the tiles that have it, only of
                cells that are not empty; and so on

All levels of a tile that are sent travel in the same chunk, because the number of codes of a further level
follows from the first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.codec import PayloadError
from diffkd_ros.runtime.link.boxes import BOX_BYTES, boxes_from_bytes, boxes_to_bytes
from diffkd_ros.runtime.link.entropy import Decompressor, EntropyModel, compress
from diffkd_ros.runtime.link.tables import CELLS, LinkTables

VERSION = 2
LARGEST = 1150
"""Bytes. With the other fields of its message and all headers a chunk fits into an Ethernet frame."""
MOST_BOXES = (LARGEST - 2) // BOX_BYTES
_BOXES, _COARSE, _FINE, _PARTIAL = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """The contents of a chunk. Places are those in `LinkTables.order`.

    Attributes:
        boxes: None if the chunk has none, which differs from a list without boxes.
        first_coarse: place of the first coarse code.
        coarse: (k,) coarse codes.
        first_tile: place of the first of the tiles of `depth`.
        depth: (m,) number of fine levels of each tile.
        fine: (levels, n, 16) codes of the n tiles with a depth above 0; those beyond it have no meaning.
        partial: whether the first chunk has more boxes; False without boxes.
    """

    boxes: Boxes3D | None
    first_coarse: int
    coarse: NDArray[np.integer]
    first_tile: int
    depth: NDArray[np.integer]
    fine: NDArray[np.integer]
    partial: bool = False

    def bytes_of(self, size: int, tables: LinkTables) -> dict[str, int]:
        """The bytes of this chunk by layer; shared ones by what the codes cost.

        Args:
            size: of the chunk.
            tables: of the model.
        """
        boxes = 0 if self.boxes is None else 2 + BOX_BYTES * len(self.boxes)
        coarse = rest = size - boxes
        if len(self.depth):
            bits = tables.coarse.bits[self.coarse].sum()
            coarse = min(rest, 4 + round(bits / 8)) if len(self.coarse) else 0
        return {'boxes': boxes, 'coarse': coarse, 'fine': rest - coarse}


def holds_boxes(data: bytes) -> bool:
    """Whether a chunk, of which only the first byte is read, says what its sender detected."""
    return bool(data) and data[0] // 16 == VERSION and bool(data[0] & _BOXES)


def depth_bits(tiles: NDArray[np.integer] | int, counts: NDArray) -> NDArray[np.float64]:
    """Cost of the number of levels of each of some tiles.

    Args:
        tiles: (...) how many they are.
        counts: (..., levels) how many of them have exactly 1, 2, ... levels.
    """
    tiles = np.asarray(tiles)[..., None]
    shares = np.concatenate((tiles - counts.sum(axis=-1, keepdims=True), counts), axis=-1)
    return (shares * np.log2(tiles / np.maximum(shares, 1))).sum(axis=-1)


def encode_chunk(chunk: Chunk, tables: LinkTables) -> bytes:
    """Encode a chunk."""
    flags, header, parts = 0, [], []
    boxes = b''
    if chunk.boxes is not None:
        flags |= _BOXES | (_PARTIAL if chunk.partial else 0)
        boxes = boxes_to_bytes(chunk.boxes)
        header.append(struct.pack('<B', len(boxes) // BOX_BYTES))
    if len(chunk.coarse):
        flags |= _COARSE
        header.append(struct.pack('<HH', chunk.first_coarse, len(chunk.coarse)))
        parts.append((chunk.coarse, tables.coarse))
    if len(chunk.depth):
        flags |= _FINE
        counts = np.bincount(chunk.depth, minlength=tables.levels + 1)
        header.append(struct.pack(f'<HH{tables.levels}H', chunk.first_tile, len(chunk.depth), *counts[1:]))
        parts += [(chunk.depth, EntropyModel(counts)), (chunk.fine[0].ravel(), tables.fine[0])]
        depth = chunk.depth[chunk.depth > 0]
        for level in range(1, tables.levels):
            deep = depth > level
            parts.append((chunk.fine[level, deep][chunk.fine[0, deep] > 0], tables.fine[level]))
    return b''.join((bytes([16 * VERSION + flags]), *header, boxes, compress(parts)))


def decode_chunk(data: bytes, tables: LinkTables) -> Chunk:
    """Decode a chunk.

    Raises:
        PayloadError: if it cannot be of `encode_chunk` with these tables.
    """
    if not 1 <= len(data) <= LARGEST:
        raise PayloadError(f'{len(data)} bytes, expected 1 to {LARGEST}')
    version, flags = divmod(data[0], 16)
    if version != VERSION or not flags % _PARTIAL or (flags & _PARTIAL and not flags & _BOXES):
        raise PayloadError(f'begins with {data[0]:#04x}, which is no chunk of version {VERSION}')
    header = _Header(data, tables)
    count = header.read('<B')[0] if flags & _BOXES else 0
    first_coarse, coarse_codes = header.read_places() if flags & _COARSE else (0, 0)
    first_tile, tiles = header.read_places() if flags & _FINE else (0, 0)
    counts = np.zeros(tables.levels, np.int64)
    if flags & _FINE:
        counts[:] = header.read(f'<{tables.levels}H')
        if not 1 <= counts.sum() <= tiles:
            raise PayloadError(f'{counts.sum()} of {tiles} tiles with fine codes')
    boxes = boxes_from_bytes(header.read_bytes(count * BOX_BYTES)) if flags & _BOXES else None
    codes = data[header.end :]
    least = coarse_codes * tables.coarse.bits.min() + counts.sum() * CELLS * tables.fine[0].bits.min()
    # Probabilities are rounded to 2^-24.
    if 0.99 * (least + depth_bits(tiles, counts) if tiles else least) > 8 * len(codes) + 32:
        raise PayloadError(f'{len(codes)} bytes of codes cannot be those that its header announces')
    decompressor = Decompressor(codes)
    coarse = decompressor.read(coarse_codes, tables.coarse)
    depth = np.zeros(0, np.int64)
    if tiles:
        depth = decompressor.read(tiles, EntropyModel([tiles - counts.sum(), *counts])).astype(np.int64)
        if (np.bincount(depth, minlength=len(counts) + 1)[1:] != counts).any():
            raise PayloadError('its tiles are not as many as its header announces')
    fine = _decode_fine(decompressor, depth[depth > 0], tables)
    decompressor.close()
    return Chunk(boxes, first_coarse, coarse, first_tile, depth, fine, bool(flags & _PARTIAL))


def _decode_fine(
    decompressor: Decompressor, depth: NDArray[np.int64], tables: LinkTables
) -> NDArray[np.int16]:
    """The fine codes, -1 beyond the depth; 0 in empty cells, also of further levels."""
    fine = np.full((tables.levels, len(depth), CELLS), -1, np.int16)
    fine[0] = decompressor.read(fine[0].size, tables.fine[0]).reshape(-1, CELLS)
    for level in range(1, tables.levels):
        deep, occupied = (depth > level)[:, None], fine[0] > 0
        fine[level] = np.where(deep & ~occupied, 0, -1)
        fine[level, deep & occupied] = decompressor.read(int((deep & occupied).sum()), tables.fine[level])
    return fine


class _Header:
    """Reads the bytes of a chunk in turn."""

    def __init__(self, data: bytes, tables: LinkTables) -> None:
        self._data, self._tiles = data, tables.tiles
        self.end = 1

    def read(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.read_bytes(struct.calcsize(layout)))

    def read_bytes(self, count: int) -> bytes:
        start, self.end = self.end, self.end + count
        if self.end > len(self._data):
            raise PayloadError(f'{len(self._data)} bytes, {self.end} or more announced')
        return self._data[start : self.end]

    def read_places(self) -> tuple[int, int]:
        """The first of some tiles, and their number."""
        first, count = self.read('<HH')
        if count == 0 or first + count > self._tiles:
            raise PayloadError(f'{count} tiles from {first} on, the map has {self._tiles}')
        return first, count
