# SPDX-License-Identifier: Apache-2.0
"""Codes of feature maps."""

import pytest
import torch
from torch.nn import functional

from diffkd_ros.model.codebook import TILE, MapCodec, SimVQ, over_tiles


@pytest.fixture
def codec() -> MapCodec:
    torch.manual_seed(0)
    return MapCodec(channels=8, code_channels=4, entries=16, levels=2, coarse_entries=8)


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised features (2, 8, 8, 16) and occupied cells, some tiles without any."""
    generator = torch.Generator().manual_seed(1)
    occupied = (torch.rand(2, 1, 8, 16, generator=generator) < 0.4).float()
    occupied[:, :, :TILE, :TILE] = 0
    # Of four dimensions, as many as the space of the codes has.
    mixed = torch.randn(8, 4, generator=generator)
    return torch.einsum('cd,ndhw->nchw', mixed, torch.randn(2, 4, 8, 16, generator=generator)), occupied


def test_nearest_is_the_nearest_by_distance() -> None:
    torch.manual_seed(2)
    book = SimVQ(32, 4)
    with torch.no_grad():
        book.transform.weight.add_(0.3 * torch.randn(4, 4))
    latent = torch.randn(2, 4, 3, 5)
    expected = torch.cdist(latent.permute(0, 2, 3, 1).reshape(-1, 4), book.vectors()).argmin(dim=1)
    assert torch.equal(book.nearest(latent).flatten(), expected)


def test_a_receiver_decodes_with_the_tables_what_training_decodes(codec: MapCodec) -> None:
    normal, occupied = maps()
    coded = codec(normal, occupied)
    coarse, fine, _ = codec.tables()
    first = fine[0][coded.codes.fine[:, 0]]
    # What follows the first level is of use where that has something.
    second = fine[1][coded.codes.fine[:, 1]] * (coded.codes.fine[:, 0] > 0)[..., None]
    torch.testing.assert_close((first + second).movedim(-1, 1), coded.fine.sum(dim=1))
    torch.testing.assert_close(over_tiles(coarse[coded.codes.coarse].movedim(-1, 1)), coded.coarse)


def test_empty_cells_and_tiles_have_a_code_of_their_own(codec: MapCodec) -> None:
    normal, occupied = maps()
    codes = codec(normal, occupied).codes
    assert torch.equal(codes.fine[:, 0] == 0, occupied[:, 0] == 0)
    assert torch.equal(codes.coarse == 0, functional.max_pool2d(occupied, TILE)[:, 0] == 0)
    assert (codes.coarse == 0).any()
    assert codes.fine.max() < 16
    assert codes.coarse.max() < 8


def test_codes_learn_the_maps_and_each_level_helps(codec: MapCodec) -> None:
    normal, occupied = maps()
    optimiser = torch.optim.Adam(codec.parameters(), 1e-2)

    @torch.no_grad()
    def errors() -> tuple[float, float]:
        fine = codec(normal, occupied).fine
        decoded = fine[:, 0], fine.sum(dim=1)
        first, every = (float(((part - normal) * occupied).square().mean()) for part in decoded)
        return first, every

    one, both = errors()
    for _ in range(200):
        coded = codec(normal, occupied)
        error = ((coded.fine.sum(dim=1) - normal) * occupied).square().mean()
        optimiser.zero_grad()
        (error + coded.loss.mean()).backward()
        optimiser.step()
    learnt, refined = errors()
    assert learnt < 0.8 * one
    assert refined < 0.5 * both
    assert refined < 0.8 * learnt


def test_the_frequencies_of_codes_become_those_of_the_maps(codec: MapCodec) -> None:
    codes = codec(*maps()).codes
    for _ in range(400):
        codec.count(codes)
    coarse = torch.bincount(codes.coarse.flatten(), minlength=8) / codes.coarse.numel()
    torch.testing.assert_close(codec.coarse_frequency, coarse, atol=1e-3, rtol=0)
    first = torch.bincount(codes.fine[:, 0].flatten(), minlength=16) / codes.fine[:, 0].numel()
    torch.testing.assert_close(codec.fine_frequency[0], first, atol=1e-3, rtol=0)
    sent = codes.fine[:, 1][codes.fine[:, 0] > 0]
    second = torch.bincount(sent, minlength=16) / len(sent)
    torch.testing.assert_close(codec.fine_frequency[1], second, atol=1e-3, rtol=0)
