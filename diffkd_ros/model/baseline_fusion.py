# SPDX-License-Identifier: Apache-2.0
"""The fusions that Diff-KD's is compared with: cell-wise maximum (F-Cooper) and attention (AttFusion).

Both take and return what `AdaptiveGatedFusion` does. Neither estimates how reliable the ego is: they report
the share that the ego got.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffkd_ros.model.fusion import MASKED


class MaximumFusion(nn.Module):
    """The largest value per channel over the agents that cover a cell (F-Cooper, Chen et al., SEC 2019)."""

    estimates_reliability = False

    def forward(
        self, features: Tensor, coverage: Tensor, density: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `AdaptiveGatedFusion.forward`; a share is the part of the channels that an agent gave."""
        masked = torch.where(coverage > 0, features, torch.full_like(features, MASKED))
        fused = masked.max(dim=0, keepdim=True).values
        given = (masked == fused).to(features.dtype)
        # Where several agents are equal, mostly at zero, they share the channel.
        share = (given / given.sum(dim=0, keepdim=True)).mean(dim=1, keepdim=True)
        return fused, share, share[:1]


class AttentionFusion(nn.Module):
    """Scaled dot-product attention over agents in every cell, the ego asking (AttFusion, OPV2V, ICRA 2022).

    Queries, keys and values are the features themselves, as there; nothing is learnt in it.
    """

    estimates_reliability = False

    def forward(
        self, features: Tensor, coverage: Tensor, density: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `AdaptiveGatedFusion.forward`; a share is the attention weight."""
        score = (features[:1] * features).sum(dim=1, keepdim=True) / features.shape[1] ** 0.5
        score = torch.where(coverage > 0, score, torch.full_like(score, MASKED))
        share = torch.softmax(score, dim=0)
        return (share * features).sum(dim=0, keepdim=True), share, share[:1]
