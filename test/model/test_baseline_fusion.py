# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import nn

from diffkd_ros.model.baseline_fusion import AttentionFusion, MaximumFusion

AGENTS, CHANNELS, HEIGHT, WIDTH = 3, 4, 5, 6


def frame() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    coverage = (torch.rand(AGENTS, 1, HEIGHT, WIDTH) > 0.4).float()
    coverage[:1] = 1
    features = torch.rand(AGENTS, CHANNELS, HEIGHT, WIDTH)
    return features, coverage, torch.rand(1, 1, HEIGHT, WIDTH), torch.rand(1, 1, HEIGHT, WIDTH)


def test_the_maximum_is_taken_per_channel_over_the_agents_that_cover_a_cell() -> None:
    features = torch.tensor([[1.0, 5.0, 0.0, 2.0], [3.0, 4.0, 0.0, 9.0], [9.0, 9.0, 9.0, 9.0]])
    coverage = torch.tensor([1.0, 1.0, 0.0])
    fused, share, _ = MaximumFusion()(
        features[:, :, None, None],
        coverage[:, None, None, None],
        torch.ones(1, 1, 1, 1),
        torch.zeros(1, 1, 1, 1),
    )
    assert fused.flatten().tolist() == [3.0, 5.0, 0.0, 9.0]
    # The ego gave one channel and half of the tie at zero, the neighbour the rest.
    assert share.flatten().tolist() == [1.5 / 4, 2.5 / 4, 0.0]


def test_attention_is_a_softmax_of_the_egos_scalar_products() -> None:
    features, coverage, *rest = frame()
    fused, share, _ = AttentionFusion()(features, coverage, *rest)
    maps, valid = features.numpy().astype(np.float64), coverage.numpy()[:, 0] > 0
    for row in range(HEIGHT):
        for column in range(WIDTH):
            here = maps[valid[:, row, column], :, row, column]
            weight = np.exp(here @ maps[0, :, row, column] / np.sqrt(CHANNELS))
            weight /= weight.sum()
            np.testing.assert_allclose(fused[0, :, row, column], weight @ here, rtol=1e-5)
            np.testing.assert_allclose(share[valid[:, row, column], 0, row, column], weight, rtol=1e-5)


@pytest.mark.parametrize('fusion', [MaximumFusion(), AttentionFusion()])
def test_shares_sum_to_one_and_are_zero_without_coverage(fusion: nn.Module) -> None:
    features, coverage, *rest = frame()
    _, share, reliability = fusion(features, coverage, *rest)
    torch.testing.assert_close(share.sum(dim=0), torch.ones_like(share[0]))
    assert (share[coverage == 0] == 0).all()
    assert torch.equal(reliability, share[:1])


@pytest.mark.parametrize('fusion', [MaximumFusion(), AttentionFusion()])
def test_alone_the_ego_is_unchanged(fusion: nn.Module) -> None:
    features, _, *rest = frame()
    fused, share, _ = fusion(features[:1], torch.ones(1, 1, HEIGHT, WIDTH), *rest)
    torch.testing.assert_close(fused, features[:1])
    assert torch.equal(share, torch.ones_like(share))


@pytest.mark.parametrize('fusion', [MaximumFusion(), AttentionFusion()])
def test_the_order_of_neighbours_does_not_matter(fusion: nn.Module) -> None:
    features, coverage, *rest = frame()
    order = torch.tensor([0, 2, 1])
    torch.testing.assert_close(
        fusion(features[order], coverage[order], *rest)[0], fusion(features, coverage, *rest)[0]
    )
