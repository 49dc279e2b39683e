# SPDX-License-Identifier: Apache-2.0
"""The codes in which feature maps are sent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 4  # cells along the edge of a tile, which has one coarse code and is ranked and sent as a whole
RATE = 0.2
"""Squared error of a cell's normalised feature that a bit may save."""
LEAST_FREQUENCY = 1e-6  # of a code, so that its bits are finite


class MapCodes(NamedTuple):
    """Codes of feature maps.

    Attributes:
        coarse: (n, h / 4, w / 4) int64, 0 for a tile without anything, else 1 + the index of its code.
        fine: (n, levels, h, w) int64. Level 0: 0 for an empty cell, else 1 + the index of its code; further
            levels: index of the code of what the levels before leave.
    """

    coarse: Tensor
    fine: Tensor


class Coded(NamedTuple):
    """Feature maps as decoded from their codes.

    Attributes:
        codes: of the maps.
        coarse: (n, c, h, w) normalised feature from the coarse codes alone, constant over a tile.
        fine: (n, levels, c, h, w) contribution of each level to the normalised feature, which is their sum.
    """

    codes: MapCodes
    coarse: Tensor
    fine: Tensor


def bits_of(frequency: Tensor) -> Tensor:
    """Bits of codes that are this frequent."""
    return -frequency.clamp(min=LEAST_FREQUENCY).log2()


def cells_of(maps: Tensor) -> Tensor:
    """The cells (n * h * w, c) of maps (n, c, h, w), row by row."""
    return maps.movedim(1, -1).flatten(0, 2)


def nearest(cells: Tensor, vectors: Tensor, cost: Tensor | float = 0.0) -> Tensor:
    """Index of the vector with the least squared distance plus cost.

    Args:
        cells: (k, c).
        vectors: (codes, c).
        cost: (codes,) of a vector, in units of a squared distance; 0 for none.

    Returns:
        (k,) int64.
    """
    return torch.addmm(vectors.square().sum(dim=1) + cost, cells, vectors.T, alpha=-2).argmin(dim=1)


class MapCodec(nn.Module):
    """Codes of normalised feature maps: residual levels for single cells, one code for a tile.

    The vectors of the codes are fitted by `training.codebooks`, not by gradients. A code is chosen by the
    squared error and the bits it costs (entropy-constrained vector quantisation, Chou, Lookabaugh and Gray,
    1989). Empty cells, whose feature is zero, have a code of their own. Decoding adds vectors, so that a
    receiver only adds rows of tables.

    Args:
        channels: of the feature map.
        entries: codes of a level, the empty cell's included; at most 256.
        levels: of a cell's codes.
        coarse_entries: codes of a tile, the empty tile's included; at most 256.

    Attributes:
        coarse_vectors, fine_vectors: (coarse entries, c) and (levels, entries, c) normalised features. Row 0
            of the coarse codes and of the first level, for empty tiles and cells, is zero.
        coarse_frequency, fine_frequency: (coarse entries,) and (levels, entries) shares of the codes among
            those that are sent.
    """

    coarse_vectors: Tensor
    fine_vectors: Tensor
    coarse_frequency: Tensor
    fine_frequency: Tensor

    def __init__(self, channels: int, entries: int, levels: int, coarse_entries: int) -> None:
        super().__init__()
        self.register_buffer('coarse_vectors', torch.zeros(coarse_entries, channels))
        self.register_buffer('fine_vectors', torch.zeros(levels, entries, channels))
        # All equally often before they are fitted.
        self.register_buffer('coarse_frequency', torch.full((coarse_entries,), 1 / coarse_entries))
        self.register_buffer('fine_frequency', torch.full((levels, entries), 1 / entries))

    def costs(self) -> Tensor:
        """What the bits of the fine codes cost in units of a squared error, (levels, entries)."""
        return RATE * bits_of(self.fine_frequency)

    def forward(self, normal: Tensor, occupied: Tensor) -> Coded:
        """Code normalised features (n, c, h, w); `occupied` (n, 1, h, w) is 0 in empty cells, else 1."""
        n, _, height, width = normal.shape
        rest = cells_of(normal)
        codes, parts = [], []
        for level, (vectors, cost) in enumerate(zip(self.fine_vectors, self.costs(), strict=True)):
            first = int(level == 0)  # code 0 of the first level is the empty cell's
            index = nearest(rest, vectors[first:], cost[first:]) + first
            part = vectors[index]
            rest = rest - part
            index, part = index.view(n, height, width), part.view(n, height, width, -1).movedim(-1, 1)
            codes.append(index if level else torch.where(occupied[:, 0] > 0, index, 0))
            parts.append(part * occupied)
        coarse = self.coarse_codes(normal, occupied)
        decoded = functional.embedding(coarse, self.coarse_vectors).movedim(-1, 1)
        found = MapCodes(coarse, torch.stack(codes, dim=1))
        return Coded(found, over_tiles(decoded), torch.stack(parts, dim=1))

    def coarse_codes(self, normal: Tensor, occupied: Tensor) -> Tensor:
        """`MapCodes.coarse` alone, arguments as for `forward`."""
        means, held = means_of_tiles(normal, occupied)
        index = nearest(cells_of(means), self.coarse_vectors[1:]).view(held[:, 0].shape)
        return torch.where(held[:, 0] > 0, index + 1, 0)


def means_of_tiles(normal: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The mean feature (n, c, h / 4, w / 4) of each tile's occupied cells, and their share of its cells."""
    share = functional.avg_pool2d(occupied, TILE)
    means = functional.avg_pool2d(normal * occupied, TILE) / share.clamp(min=1 / TILE**2)
    return means, share


def over_tiles(tiles: Tensor) -> Tensor:
    """Repeat a value of each tile (n, c, h / 4, w / 4) over its cells: (n, c, h, w)."""
    return tiles.repeat_interleave(TILE, dim=2).repeat_interleave(TILE, dim=3)
