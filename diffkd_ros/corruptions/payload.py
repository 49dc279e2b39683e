# SPDX-License-Identifier: Apache-2.0
"""Damage to a feature map on its way: lost tiles, coarse numbers, a byte budget.

Maps are plain arrays: feature (channels, height, width) float32 and density (height, width) float32, in which
0 says that nothing was observed. A lost cell is 0 in both, so the receiver knows that it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError, require_within

Map = NDArray[np.float32]
SizeOf = Callable[[Map, Map], int]


def require_map(feature: Map, density: Map) -> None:
    """Refuse arrays that are no feature map.

    Raises:
        CorruptionError: if the shapes are not (channels, height, width) and (height, width).
    """
    if feature.ndim != 3 or density.shape != feature.shape[1:]:
        raise CorruptionError(
            'feature and density must be (channels, height, width) and (height, width), got '
            f'{feature.shape} and {density.shape}'
        )


def lose_tiles(
    feature: Map, density: Map, rng: np.random.Generator, share: float, tile: int = 8
) -> tuple[Map, Map]:
    """Lose square tiles, each with the same chance and independently, as packets of a datagram transport.

    Args:
        feature: (channels, height, width).
        density: (height, width).
        rng: draws the tiles.
        share: chance of a tile to be lost, in [0, 1].
        tile: cells along a tile's side; tiles start at row 0 and column 0, the last may be cut off.
    """
    require_map(feature, density)
    require_within('share', share, 0.0, 1.0)
    require_within('tile', tile, 1)
    height, width, tile = *density.shape, int(tile)
    arrived = rng.random((-(-height // tile), -(-width // tile))) >= share
    cells = arrived.repeat(tile, axis=0).repeat(tile, axis=1)[:height, :width]
    return _only(feature, density, cells)


def quantise(feature: Map, density: Map, bits: int) -> tuple[Map, Map]:
    """Round features to so many bits per value and back.

    Each channel has its own step, the largest magnitude / (2^(bits - 1) - 1); an error is at most half a
    step and zero stays zero. The density travels in a byte of its own and is left alone.

    Args:
        feature: (channels, height, width).
        density: (height, width).
        bits: per value, 2 to 16, sign included.
    """
    require_map(feature, density)
    require_within('bits', bits, 2, 16)
    largest = np.abs(feature).max(axis=(1, 2), keepdims=True, initial=0.0)
    step = np.where(largest > 0, largest / (2 ** (int(bits) - 1) - 1), 1.0).astype(np.float32)
    return np.rint(feature / step) * step, density


def raw_size(cells: int, channels: int, height: int, width: int, bits: int = 8) -> int:
    """Bytes of a sparse map before compression: cell mask, a byte of density and the values of each cell."""
    return (height * width + 7) // 8 + 4 * channels + cells + (cells * channels * bits + 7) // 8


def cap_bytes(
    feature: Map, density: Map, budget: float, bits: int = 8, size_of: SizeOf | None = None
) -> tuple[Map, Map]:
    """Keep the strongest cells that fit a byte budget.

    Strong is a cell whose feature is long (Euclidean over the channels). A budget too small for even an
    empty map still lets that through: what does not fit at all is the link's to lose.

    Args:
        feature: (channels, height, width).
        density: (height, width).
        budget: bytes.
        bits: per value, for the size before compression.
        size_of: measures the bytes of a map as really sent; without it, the size before compression counts.
    """
    require_map(feature, density)
    require_within('budget', budget, 0.0)
    channels, height, width = feature.shape
    strength = np.sqrt(np.einsum('chw,chw->hw', feature, feature)).ravel()
    known = np.flatnonzero((strength > 0) | (density.ravel() > 0))
    ranked = known[np.argsort(-strength[known], kind='stable')]

    def strongest(count: int) -> tuple[Map, Map]:
        cells = np.zeros(height * width, np.bool_)
        cells[ranked[:count]] = True
        return _only(feature, density, cells.reshape(height, width))

    def fits(count: int) -> bool:
        if size_of is None:
            return raw_size(count, channels, height, width, bits) <= budget
        return size_of(*strongest(count)) <= budget

    if fits(len(ranked)):
        return feature, density
    fitting, excessive = 0, len(ranked)
    while excessive - fitting > 1:
        middle = (fitting + excessive) // 2
        if fits(middle):
            fitting = middle
        else:
            excessive = middle
    return strongest(fitting)


def _only(feature: Map, density: Map, cells: NDArray[np.bool_]) -> tuple[Map, Map]:
    return np.where(cells, feature, np.float32(0)), np.where(cells, density, np.float32(0))
