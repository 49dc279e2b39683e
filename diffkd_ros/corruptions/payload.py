# SPDX-License-Identifier: Apache-2.0
"""Degradation of a feature map on the link: lost tiles, quantisation, a limit of bytes.

Maps are arrays: feature (channels, height, width) float32 and density (height, width) float32, which is 0
where nothing was observed. Functions return new maps, in which a lost cell is 0, like an unobserved one. They
raise `CorruptionError` if the shapes do not match or a parameter is out of range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions.errors import CorruptionError, require_within

Map = NDArray[np.float32]
SizeOf = Callable[[Map, Map], int]


def require_map(feature: Map, density: Map) -> None:
    """Check that the shapes are (channels, height, width) and (height, width).

    Raises:
        CorruptionError: if they are not.
    """
    if feature.ndim != 3 or density.shape != feature.shape[1:]:
        raise CorruptionError(
            'feature and density must be (channels, height, width) and (height, width), got '
            f'{feature.shape} and {density.shape}'
        )


def lose_tiles(
    feature: Map, density: Map, rng: np.random.Generator, share: float, tile: int = 8
) -> tuple[Map, Map]:
    """Drop square tiles independently with probability `share`, like packets of a datagram transport.

    A tile is `tile` cells wide; tiles start at row 0 and column 0, the last may be smaller.
    """
    require_map(feature, density)
    require_within(0.0, 1.0, share=share)
    require_within(1, tile=tile)
    height, width, tile = *density.shape, int(tile)
    arrived = rng.random((-(-height // tile), -(-width // tile))) >= share
    cells = arrived.repeat(tile, axis=0).repeat(tile, axis=1)[:height, :width]
    return _only(feature, density, cells)


def quantise(feature: Map, density: Map, bits: int) -> tuple[Map, Map]:
    """Round features to a number of bits per value.

    Each channel has its own step, the largest magnitude / (2^(bits - 1) - 1). The error is at most half a
    step, and zero stays zero. The density is sent in a byte of its own and stays unchanged. `bits` are 2 to
    16, sign included.
    """
    require_map(feature, density)
    require_within(2, 16, bits=bits)
    largest = np.abs(feature).max(axis=(1, 2), keepdims=True, initial=0.0)
    step = np.where(largest > 0, largest / (2 ** (int(bits) - 1) - 1), 1.0).astype(np.float32)
    return np.rint(feature / step) * step, density


def raw_size(cells: int, channels: int, height: int, width: int, bits: int = 8) -> int:
    """Bytes of a sparse map before compression: cell mask, scales, densities and values."""
    return (height * width + 7) // 8 + 4 * channels + cells + (cells * channels * bits + 7) // 8


def cap_bytes(
    feature: Map, density: Map, budget: float, bits: int = 8, size_of: SizeOf | None = None
) -> tuple[Map, Map]:
    """Keep the strongest cells that fit `budget` bytes, or none if even an empty map exceeds it.

    A cell's strength is the Euclidean norm of its feature. `size_of` gives the bytes of a map as sent; by
    default, the size before compression with `bits` per value.
    """
    require_map(feature, density)
    require_within(0.0, budget=budget)
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
