# SPDX-License-Identifier: Apache-2.0
"""Codes of feature maps."""

import pytest
import torch
from torch.nn import functional

from diffkd_ros.model.codebook import RATE, TILE, MapCodec, nearest, over_tiles


@pytest.fixture
def codec() -> MapCodec:
    generator = torch.Generator().manual_seed(0)
    codec = MapCodec(channels=8, entries=16, levels=2, coarse_entries=8)
    codec.coarse_vectors[1:].normal_(generator=generator)
    codec.fine_vectors.normal_(generator=generator)
    codec.fine_vectors[0, 0] = 0
    return codec


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised features (2, 8, 8, 16) and occupied cells, some tiles without any."""
    generator = torch.Generator().manual_seed(1)
    occupied = (torch.rand(2, 1, 8, 16, generator=generator) < 0.4).float()
    occupied[:, :, :TILE, :TILE] = 0
    return torch.randn(2, 8, 8, 16, generator=generator), occupied


def test_nearest_is_the_nearest_by_distance_and_cost() -> None:
    generator = torch.Generator().manual_seed(2)
    cells, vectors = (torch.randn(k, 4, generator=generator) for k in (30, 32))
    cost = 3 * torch.rand(32, generator=generator)
    expected = (torch.cdist(cells, vectors).square() + cost).argmin(dim=1)
    assert torch.equal(nearest(cells, vectors, cost), expected)
    assert not torch.equal(nearest(cells, vectors, 0 * cost), expected)


def test_each_level_codes_what_the_levels_before_leave_at_a_cost(codec: MapCodec) -> None:
    codec.fine_frequency[:] = torch.tensor([0.5, 0.25, 0.125, *13 * [0.125 / 13]])
    normal, occupied = maps()
    fine = codec(normal, occupied).codes.fine
    bits = -codec.fine_frequency.log2()
    for row, column in occupied[1, 0].nonzero():
        rest = normal[1, :, row, column]
        for level, codes in enumerate(codec.fine_vectors):
            scores = (rest - codes).square().sum(dim=1) + RATE * bits[level]
            if level == 0:
                scores[0] = torch.inf
            best = int(scores.argmin())
            assert fine[1, level, row, column] == best
            rest = rest - codes[best]


def test_a_receiver_decodes_with_the_vectors_what_training_decodes(codec: MapCodec) -> None:
    normal, occupied = maps()
    coded = codec(normal, occupied)
    first = codec.fine_vectors[0][coded.codes.fine[:, 0]]
    # What follows the first level is of use where that has something.
    second = codec.fine_vectors[1][coded.codes.fine[:, 1]] * (coded.codes.fine[:, 0] > 0)[..., None]
    torch.testing.assert_close((first + second).movedim(-1, 1), coded.fine.sum(dim=1))
    coarse = codec.coarse_vectors[coded.codes.coarse].movedim(-1, 1)
    torch.testing.assert_close(over_tiles(coarse), coded.coarse)


def test_the_coarse_code_is_that_of_the_mean_of_a_tile(codec: MapCodec) -> None:
    normal, occupied = maps()
    held = occupied[0, 0, 4:8, 8:12] > 0
    mean = normal[0, :, 4:8, 8:12][:, held].mean(dim=1)
    expected = 1 + (codec.coarse_vectors[1:] - mean).square().sum(dim=1).argmin()
    assert codec(normal, occupied).codes.coarse[0, 1, 2] == expected


def test_empty_cells_and_tiles_have_a_code_of_their_own(codec: MapCodec) -> None:
    normal, occupied = maps()
    codes = codec(normal, occupied).codes
    assert torch.equal(codes.fine[:, 0] == 0, occupied[:, 0] == 0)
    assert torch.equal(codes.coarse == 0, functional.max_pool2d(occupied, TILE)[:, 0] == 0)
    assert (codes.coarse == 0).any()
    assert codes.fine.max() < 16
    assert codes.coarse.max() < 8
