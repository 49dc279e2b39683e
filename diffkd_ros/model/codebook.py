# SPDX-License-Identifier: Apache-2.0
"""The learnt codes in which feature maps are sent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 4  # cells along the edge of a tile, which has one coarse code and is ranked and sent as a whole
COUNT_MOMENTUM = 0.02
COMMITMENT = 0.25  # weight of the loss that moves features toward their codes (van den Oord et al., 2017)


class SimVQ(nn.Module):
    """Vector quantisation whose codebook is a fixed random matrix times a learnt one.

    All entries move together, so that none of them falls out of use (SimVQ, Zhu et al., arXiv 2411.02038).

    Args:
        entries: number of codes.
        channels: of a vector.
    """

    basis: Tensor

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.register_buffer('basis', torch.randn(entries, channels))
        self.transform = nn.Linear(channels, channels, bias=False)
        nn.init.eye_(self.transform.weight)

    def vectors(self) -> Tensor:
        """The codebook (entries, channels)."""
        return self.transform(self.basis)

    def nearest(self, latent: Tensor) -> Tensor:
        """Index of the nearest vector of each cell: (n, c, h, w) to (n, h, w) int64."""
        vectors = self.vectors()
        distance = functional.conv2d(latent, -2 * vectors[:, :, None, None], vectors.square().sum(dim=1))
        return distance.argmin(dim=1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors of codes: (n, h, w) to (n, c, h, w)."""
        return functional.embedding(codes, self.vectors()).permute(0, 3, 1, 2)


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
    """Feature maps as decoded from their codes, with what training needs.

    Attributes:
        codes: of the maps.
        coarse: (n, c, h, w) normalised feature from the coarse codes alone, constant over a tile.
        fine: (n, levels, c, h, w) contribution of each level to the normalised feature, which is their sum.
        loss: (n, 1, h, w) quantisation loss of each cell.
    """

    codes: MapCodes
    coarse: Tensor
    fine: Tensor
    loss: Tensor


class MapCodec(nn.Module):
    """Codes of normalised feature maps: residual levels for single cells, one code for a tile.

    Empty cells, whose feature is zero, have a code of their own. Decoding is linear in the codes' vectors, so
    that a receiver only adds rows of tables.

    Args:
        channels: of the feature map.
        code_channels: of the space in which the nearest code is searched.
        entries: codes of a level, the empty cell's included; at most 256.
        levels: of a cell's codes.
        coarse_entries: codes of a tile, the empty tile's included; at most 256.
    """

    coarse_frequency: Tensor
    fine_frequency: Tensor

    def __init__(
        self, channels: int, code_channels: int, entries: int, levels: int, coarse_entries: int
    ) -> None:
        super().__init__()
        # How often each code was used lately, for the entropy coder: all equally often at the start.
        self.register_buffer('coarse_frequency', torch.full((coarse_entries,), 1 / coarse_entries))
        self.register_buffer('fine_frequency', torch.full((levels, entries), 1 / entries))
        self.analysis = nn.Conv2d(channels, code_channels, 1)
        self.books = nn.ModuleList(SimVQ(entries - (not level), code_channels) for level in range(levels))
        self.synthesis = nn.Linear(code_channels, channels)
        self.coarse_analysis = nn.Conv2d(channels + 1, code_channels, TILE, stride=TILE)
        self.coarse_book = SimVQ(coarse_entries - 1, code_channels)
        self.coarse_synthesis = nn.Linear(code_channels, channels)
        # The transform is the transpose of its inverse at the start.
        nn.init.orthogonal_(self.analysis.weight)
        with torch.no_grad():
            self.synthesis.weight.copy_(self.analysis.weight[:, :, 0, 0].T)

    def forward(self, normal: Tensor, occupied: Tensor) -> Coded:
        """Code normalised features (n, c, h, w); `occupied` (n, 1, h, w) is 0 in empty cells, else 1."""
        rest = self.analysis(normal)
        codes, parts, loss = [], [], torch.zeros_like(occupied)
        for level, book in enumerate(self.books):
            assert isinstance(book, SimVQ)
            index, quantised, cost = _quantise(book, rest)
            part = functional.linear(quantised.movedim(1, -1), self.synthesis.weight).movedim(-1, 1)
            if level == 0:
                assert self.synthesis.bias is not None
                part = part + self.synthesis.bias[:, None, None]
                index = torch.where(occupied[:, 0] > 0, index + 1, 0)
            codes.append(index)
            parts.append(part * occupied)
            loss = loss + cost * occupied
            rest = rest - quantised
        held = functional.max_pool2d(occupied, TILE)
        index, quantised, cost = _quantise(self.coarse_book, self._of_tiles(normal, occupied))
        coarse = self.coarse_synthesis(quantised.movedim(1, -1)).movedim(-1, 1) * held
        return Coded(
            MapCodes(torch.where(held[:, 0] > 0, index + 1, 0), torch.stack(codes, dim=1)),
            over_tiles(coarse),
            torch.stack(parts, dim=1),
            loss + over_tiles(cost * held),
        )

    def coarse_codes(self, normal: Tensor, occupied: Tensor) -> Tensor:
        """`MapCodes.coarse` alone, arguments as for `forward`."""
        index = self.coarse_book.nearest(self._of_tiles(normal, occupied))
        return torch.where(functional.max_pool2d(occupied, TILE)[:, 0] > 0, index + 1, 0)

    def _of_tiles(self, normal: Tensor, occupied: Tensor) -> Tensor:
        """What the coarse codes are nearest to, (n, code_channels, h / 4, w / 4)."""
        return self.coarse_analysis(torch.cat((normal * occupied, occupied), dim=1))

    @torch.no_grad()
    def count(self, codes: MapCodes) -> None:
        """Update the frequencies of the codes."""
        # Levels after the first are sent for cells that hold something.
        sent = (codes.fine[:, :1] > 0).expand_as(codes.fine).clone()
        sent[:, 0] = True
        for level, frequency in enumerate(self.fine_frequency):
            _mix(frequency, codes.fine[:, level], sent[:, level])
        _mix(self.coarse_frequency, codes.coarse, torch.ones_like(codes.coarse))

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised features of the coarse codes and of the fine codes, and the fine codes' own vectors.

        Returns:
            (entries, c), (levels, entries, c) and (levels, entries, code_channels). A cell's code is that of
            the own vector nearest to its `analysis`, less the vectors of the levels before. Row 0 of the
            coarse codes and of the first level, for empty tiles and cells, is zero.
        """
        coarse = functional.pad(self.coarse_synthesis(self.coarse_book.vectors()), (0, 0, 1, 0))
        features, codes = [], []
        for level, book in enumerate(self.books):
            assert isinstance(book, SimVQ)
            vectors = book.vectors()
            feature = functional.linear(vectors, self.synthesis.weight)
            if level == 0:
                assert self.synthesis.bias is not None
                feature = functional.pad(feature + self.synthesis.bias, (0, 0, 1, 0))
                vectors = functional.pad(vectors, (0, 0, 1, 0))
            features.append(feature)
            codes.append(vectors)
        return coarse, torch.stack(features), torch.stack(codes)


def _quantise(book: SimVQ, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (n, h, w), their vectors with the gradient of the latent, and the loss (n, 1, h, w)."""
    index = book.nearest(latent.detach())
    vectors = book.lookup(index)
    to_latent = (vectors - latent.detach()).square().mean(dim=1, keepdim=True)
    to_vector = (vectors.detach() - latent).square().mean(dim=1, keepdim=True)
    return index, latent + (vectors - latent).detach(), to_latent + COMMITMENT * to_vector


def _mix(frequency: Tensor, codes: Tensor, sent: Tensor) -> None:
    """Move frequencies (entries,) toward those of the codes that are sent."""
    # Not bincount, which waits for the device.
    counts = torch.zeros_like(frequency).scatter_add_(0, codes.flatten(), sent.flatten().to(frequency.dtype))
    total = counts.sum()
    frequency.lerp_(torch.where(total > 0, counts / total.clamp(min=1), frequency), COUNT_MOMENTUM)


def over_tiles(tiles: Tensor) -> Tensor:
    """Repeat a value of each tile (n, c, h / 4, w / 4) over its cells: (n, c, h, w)."""
    return tiles.repeat_interleave(TILE, dim=2).repeat_interleave(TILE, dim=3)
