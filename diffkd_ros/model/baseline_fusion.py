# SPDX-License-Identifier: Apache-2.0
"""Baselines for Diff-KD's fusion: cell-wise maximum (F-Cooper) and attention (AttFusion).

Both have the interface of `AdaptiveGatedFusion`. Neither estimates the ego's reliability; they return the
ego's share in its place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffkd_ros.model.fusion import MASKED, by_frame


class MaximumFusion(nn.Module):
    """Maximum per channel over the agents that cover a cell (F-Cooper, Chen et al., SEC 2019)."""

    def forward(
        self, features: Tensor, coverage: Tensor, density: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `AdaptiveGatedFusion.forward`; a share is the fraction of channels that come from an agent."""
        masked = torch.where(coverage > 0, features, torch.full_like(features, MASKED))
        agents = by_frame(masked, len(density))
        fused = agents.max(dim=1, keepdim=True).values
        given = (agents == fused).to(features.dtype)
        # Agents with equal values, usually zero, share the channel.
        share = (given / given.sum(dim=1, keepdim=True)).mean(dim=2, keepdim=True)
        return fused[:, 0], share.flatten(0, 1), share[:, 0]


class AttentionFusion(nn.Module):
    """Scaled dot-product attention over agents in every cell (AttFusion; Xu et al., OPV2V, ICRA 2022).

    The ego's feature is the query; keys and values are the agents' features. There are no parameters.
    """

    def forward(
        self, features: Tensor, coverage: Tensor, density: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `AdaptiveGatedFusion.forward`; a share is the attention weight."""
        agents, coverage = (by_frame(maps, len(density)) for maps in (features, coverage))
        score = (agents[:, :1] * agents).sum(dim=2, keepdim=True) / features.shape[1] ** 0.5
        score = torch.where(coverage > 0, score, torch.full_like(score, MASKED))
        share = torch.softmax(score, dim=1)
        return (share * agents).sum(dim=1), share.flatten(0, 1), share[:, 0]
