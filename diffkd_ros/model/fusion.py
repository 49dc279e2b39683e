# SPDX-License-Identifier: Apache-2.0
"""Warping of neighbours' maps into the ego's grid, and Adaptive Gated Fusion (AGF)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.exported import convolve_parts, sum_over_agents
from diffkd_ros.model.modulation import LightweightGatedModulation, Unmodulated

MASKED = -1e4  # score of a masked agent; finite in half precision
ABSENT = ((0.0, 0.0, 10.0), (0.0, 0.0, 10.0))
"""Warp to a place outside every grid: the agent covers nothing."""


def warp(maps: Tensor, ego_to_agent: Tensor, vectors: int = 0) -> Tensor:
    """Resample agents' maps on the ego's grid: bilinear, zero outside.

    Args:
        maps: (n, c, h, w) each in its agent's own grid.
        ego_to_agent: (n, 2, 3) affine maps from the ego's normalised grid coordinates (x, y in [-1, 1] over
            the outer cell edges) to the agent's.
        vectors: number of leading channel pairs that are the x and y of a direction. They are rotated from
            the agent's axes to the ego's.

    Returns:
        (n, c, h, w) in the ego's grid.
    """
    height, width = maps.shape[2:]
    if vectors:
        # Not slices, whose gradients are padded with zeros to the size of the whole.
        pairs, others = maps.split((2 * vectors, maps.shape[1] - 2 * vectors), dim=1)
        maps = torch.cat((_rotated(pairs, ego_to_agent), others), dim=1)
    # Not affine_grid, which does not export to every ONNX opset, and not a matrix product, which autocast
    # would round to bfloat16: an error of a quarter of a cell at the grid's edge.
    dtype = ego_to_agent.dtype
    x = (torch.arange(width, device=maps.device, dtype=dtype) * 2 + 1) / width - 1
    y = (torch.arange(height, device=maps.device, dtype=dtype)[:, None] * 2 + 1) / height - 1
    to_x, to_y, offset = ego_to_agent[:, :, None, None].unbind(dim=-1)
    grid = (to_x * x + to_y * y + offset).permute(0, 2, 3, 1)
    return functional.grid_sample(
        maps.to(dtype), grid, mode='bilinear', padding_mode='zeros', align_corners=False
    )


def _rotated(pairs: Tensor, ego_to_agent: Tensor) -> Tensor:
    """Rotate directions (n, 2 v, h, w), x and y alternating, from each agent's axes to the ego's."""
    height, width = pairs.shape[2:]
    # Cells are square: the ratio of the grid's lengths is the ratio of its numbers of cells.
    cos = ego_to_agent[:, 0, 0, None, None, None]
    sin = ego_to_agent[:, 1, 0, None, None, None] * (height / width)
    x, y = pairs.unflatten(1, (-1, 2)).unbind(dim=2)
    return torch.stack((cos * x + sin * y, cos * y - sin * x), dim=2).flatten(1, 2)


def by_frame(maps: Tensor, frames: int) -> Tensor:
    """View maps (frames * n, ...), frame by frame, as (frames, n, ...)."""
    return maps.unflatten(0, (frames, -1))


class AdaptiveGatedFusion(nn.Module):
    """AGF: neighbours are weighted by how unreliable the ego's own view is.

    The Diff-KD paper states that neighbours are weighted dynamically by the ego's reliability and that AGF
    contains LGM. The formulas are derived here. With r the ego's reliability per cell, w a softmax over
    neighbours, F features, M coverage, and index 0 for the ego:

        r = sigmoid(conv(F_0, confidence, density, change, max_j M_j, max_j M_j (F_0 - sum_j w_j F_j)))
        N = sum_j w_j LGM(F_j; F_0),  v = (1 - r) max_j M_j,  out = LGM((1 - v) F_0 + v N; F_0)

    The last input of r is the difference between the ego's and the neighbours' features. With it, reliability
    decreases more under every corruption that removes returns.

    Without neighbours v = 0 and out = LGM(F_0; F_0), the single-agent path.

    Args:
        channels: channels of the feature maps.
        key_channels: channels of the attention's query and key.
        modulation: False omits both LGMs, for an ablation.
    """

    distance: Tensor

    def __init__(self, channels: int, key_channels: int, modulation: bool = True) -> None:
        super().__init__()
        self.confidence = nn.Conv2d(channels, 1, 1)
        self.reliability = nn.Sequential(
            nn.Conv2d(2 * channels + 4, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, 1, 1)
        )
        last = self.reliability[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.constant_(last.bias, 0.5)  # the ego dominates at the start of training
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.confidence_weight = nn.Parameter(torch.ones(()))
        block = LightweightGatedModulation if modulation else Unmodulated
        self.neighbour = block(channels)
        self.fused = block(channels)
        # Running median of the ego's squared distance from the teacher's feature: the unit of the
        # reliability's target, see `training.stages`.
        self.register_buffer('distance', torch.zeros(()))

    def forward(
        self, features: Tensor, coverage: Tensor, density: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse the egos of several frames with their neighbours, each frame in its ego's grid.

        Args:
            features: (frames * n, c, h, w), frame by frame, n agents each, a frame's ego first.
            coverage: (frames * n, 1, h, w) 1 where the agent's map is valid, else 0. An agent that covers
                nothing has no effect.
            density: (frames, 1, h, w) of the egos.
            change: (frames, 1, h, w) mean absolute change that restoration made to the egos' features; 0 with
                a layered message.

        Returns:
            fused: (frames, c, h, w).
            share: (frames * n, 1, h, w) each agent's share of the cell before the last modulation; sums to 1
                over the agents of a frame.
            reliability: (frames, 1, h, w) of the egos, in (0, 1).
        """
        frames = len(density)
        agents = by_frame(features, frames)
        ego = agents[:, 0]
        confidence = by_frame(torch.sigmoid(self.confidence(features)), frames)

        # The ego is part of the softmax with weight zero, so that one graph serves 1 to n agents.
        each = confidence[:, :, :, :1, :1]
        is_neighbour = torch.cat((torch.zeros_like(each[:, :1]), torch.ones_like(each[:, 1:])), dim=1)
        mask = by_frame(coverage, frames) * is_neighbour
        query, key = self.query(ego)[:, None], by_frame(self.key(features), frames)
        score = (query * key).sum(dim=2, keepdim=True) / query.shape[2] ** 0.5
        score = score + self.confidence_weight * confidence
        score = torch.where(mask > 0, score, torch.full_like(score, MASKED))
        weight = torch.exp(score - score.max(dim=1, keepdim=True).values) * mask
        weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
        covered = mask.max(dim=1).values

        others = sum_over_agents(weight * agents)
        difference = covered * (ego - others)
        first, *further = self.reliability
        assert isinstance(first, nn.Conv2d)
        single = torch.cat((confidence[:, 0], density, change, covered), dim=1)
        evidence = convolve_parts(first, (ego, single, difference))
        reliability = torch.sigmoid(nn.Sequential(*further)(evidence))

        # Without neighbours the weights sum to 0, not 1: what is modulated is multiplied by 0 below.
        standardised = sum_over_agents(weight * by_frame(self.neighbour.standardise(features), frames))
        given = (1 - reliability) * covered
        mixed = ego + given * (self.neighbour.modulate(others, standardised, ego) - ego)
        share = given[:, None] * weight + (1 - is_neighbour) * (1 - given[:, None])
        return self.fused(mixed, ego), share.flatten(0, 1), reliability
