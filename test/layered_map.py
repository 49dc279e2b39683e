# SPDX-License-Identifier: Apache-2.0
"""Synthetic tables and codes of a layered message, with the statistics of real ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.link.chunk import decode_chunk, encode_chunk
from diffkd_ros.runtime.link.maps import OutgoingMap
from diffkd_ros.runtime.link.tables import TILE, LinkTables


@dataclass(frozen=True)
class SweepCodes:
    """The codes of a sweep: boxes, coarse (h / 4, w / 4), fine (levels, h, w) and benefit (h / 4, w / 4)."""

    boxes: Boxes3D
    coarse: np.ndarray
    fine: np.ndarray
    benefit: np.ndarray

    def outgoing(self, tables: LinkTables) -> OutgoingMap:
        """The sweep that has these codes."""
        occupied = self.fine[0] > 0
        normal = sum(vectors[codes] for vectors, codes in zip(tables.code_vectors, self.fine, strict=True))
        normal = normal.transpose(2, 0, 1).astype(np.float32)
        return OutgoingMap(self.boxes, self.coarse, normal, occupied, self.benefit)


def link_arrays(
    channels: int = 32, levels: int = 2, coarse_codes: int = 64, fine_codes: int = 256, empty: float = 0.5
) -> dict[str, np.ndarray]:
    """The arrays of a `link.npz`; this share of the cells and of the tiles is empty."""
    draw = np.random.default_rng(5)

    def probability(codes: int, zero: float) -> np.ndarray:
        return np.array([zero, *(1 - zero) * draw.dirichlet(np.full(codes - 1, 2.0))], np.float32)

    arrays = {
        'coarse_vectors': draw.normal(size=(coarse_codes, channels)).astype(np.float32),
        'fine_vectors': draw.normal(size=(levels, fine_codes, channels)).astype(np.float32),
        # Those of a level are far smaller than the distances of the level before: sums are unambiguous.
        'code_vectors': np.stack(
            [draw.normal(0, 0.01**k, (fine_codes, channels)).astype(np.float32) for k in range(levels)]
        ),
        'code_cost': np.zeros((levels, fine_codes), np.float32),
        'coarse_probability': probability(coarse_codes, empty / 2),
        'fine_probability': np.stack(
            [probability(fine_codes, empty if level == 0 else 1 / fine_codes) for level in range(levels)]
        ),
    }
    arrays['coarse_vectors'][0] = arrays['fine_vectors'][0, 0] = 0
    return arrays


def link_tables(height: int = 64, width: int = 128, **arrays: float) -> LinkTables:
    """Tables for a map of this many cells."""
    return LinkTables(link_arrays(**arrays), height, width)


def random_codes(tables: LinkTables, seed: int = 0, boxes: int = 20, empty: float = 0.5) -> SweepCodes:
    """The codes of a sweep: empty cells form areas, and the benefit gathers around a few places."""
    draw = np.random.default_rng(seed)
    shape = tables.height, tables.width
    rough = draw.normal(size=(tables.height // TILE, tables.width // TILE)).repeat(TILE, 0).repeat(TILE, 1)
    wavy = rough + 0.7 * draw.normal(size=shape)
    occupied = wavy > np.quantile(wavy, empty)

    def codes_of(model, size, least):
        share = 2.0 ** -model.bits[least:]
        return least + draw.choice(len(share), size, p=share / share.sum())

    fine = np.stack([codes_of(model, shape, int(k == 0)) for k, model in enumerate(tables.fine)])
    fine[0] *= occupied
    some = tables.as_tiles(occupied).any(axis=-1).reshape(shape[0] // TILE, -1)
    coarse = codes_of(tables.coarse, some.shape, 1) * some
    rows, columns = np.indices(some.shape)
    benefit = np.zeros(some.shape)
    for _ in range(12):
        row, column = draw.integers(some.shape[0]), draw.integers(some.shape[1])
        benefit += draw.random() * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)
    centres = draw.uniform((-50, -25, -2), (50, 25, 0), (boxes, 3))
    sizes = draw.uniform((3.5, 1.6, 1.4), (12, 2.6, 3.5), (boxes, 3))
    values = np.column_stack((centres, sizes, draw.uniform(-np.pi, np.pi, boxes)))
    scores = np.sort(draw.random(boxes))[::-1].astype(np.float32)
    return SweepCodes(
        Boxes3D(values, scores=scores),
        coarse.astype(np.uint8),
        fine.astype(np.uint8),
        (benefit * some).astype(np.float32),
    )


def without_boxes(data: bytes, tables: LinkTables) -> bytes:
    """A chunk as of a sender that does not repeat its boxes in it."""
    return encode_chunk(replace(decode_chunk(data, tables), boxes=None), tables)
