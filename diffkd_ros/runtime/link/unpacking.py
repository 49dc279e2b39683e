# SPDX-License-Identifier: Apache-2.0
"""Receiving a layered message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.codec import PayloadError
from diffkd_ros.runtime.link.chunk import decode_chunk
from diffkd_ros.runtime.link.maps import LAYERS, ReceivedMap
from diffkd_ros.runtime.link.tables import CELLS, TILE, LinkTables

MOST_BOXES = 255
"""Of a sweep; a stranger can send 24,000."""


class Unpacker:
    """Decodes chunks.

    Args:
        tables: of the model that made the codes.
    """

    def __init__(self, tables: LinkTables) -> None:
        self._tables = tables

    def unpack(self, chunks: Iterable[bytes] | Mapping[int, bytes]) -> ReceivedMap:
        """Decode any of a sweep's chunks; neither their order nor repeated ones matter.

        A chunk that cannot be decoded is left out, with the reason in `ReceivedMap.refused`, which names its
        number.

        Args:
            chunks: by number, or those of a sequence, which are numbered by their places.
        """
        tables = self._tables
        lists: list[Boxes3D] = []
        partial = True
        refused: dict[int, PayloadError] = {}
        coarse = np.full(tables.tiles, -1, np.int16)
        fine = np.full((tables.levels, tables.tiles, CELLS), -1, np.int16)
        bytes_of = dict.fromkeys(LAYERS, 0)
        numbers: dict[bytes, list[int]] = {}
        for number, data in chunks.items() if isinstance(chunks, Mapping) else enumerate(chunks):
            numbers.setdefault(data, []).append(number)
        # Sorted, so that chunks that contradict each other give one result, too, whatever their order.
        for data in sorted(numbers):
            try:
                chunk = decode_chunk(data, tables)
            except PayloadError as error:
                refused |= {number: PayloadError(f'chunk {number}: {error}') for number in numbers[data]}
                continue
            if chunk.boxes is not None:
                lists.append(chunk.boxes)
                partial &= chunk.partial
            coarse[tables.order[chunk.first_coarse :][: len(chunk.coarse)]] = chunk.coarse
            fine[:, tables.order[chunk.first_tile + np.flatnonzero(chunk.depth)]] = chunk.fine
            for layer, size in chunk.bytes_of(len(data), tables).items():
                bytes_of[layer] += size
        return ReceivedMap(
            _joined(lists) if lists else None,
            coarse.reshape(tables.height // TILE, tables.width // TILE),
            tables.as_cells(fine),
            bytes_of,
            tuple(refused[number] for number in sorted(refused)),
            partial=partial and bool(lists),
        )


def _joined(lists: Sequence[Boxes3D]) -> Boxes3D:
    """The boxes of the highest scores, each once, at most `MOST_BOXES`, by descending score."""
    scores = np.concatenate([boxes.scores for boxes in lists])
    boxes = Boxes3D(np.concatenate([boxes.boxes for boxes in lists]), scores=scores)
    # As bytes, which are compared in a third of the time of numbers.
    rows = np.column_stack((boxes.boxes, scores))
    _, first = np.unique(rows.view(f'V{rows.itemsize * rows.shape[1]}'), return_index=True)
    first.sort()
    return boxes[first[np.argsort(-scores[first], kind='stable')[:MOST_BOXES]]]
