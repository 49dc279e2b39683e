# SPDX-License-Identifier: Apache-2.0
"""What a receiver knows in addition to a neighbour's incomplete map, as a condition of its restoration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.exported import convolve_parts, sum_over_agents
from diffkd_ros.model.fusion import warp
from diffkd_ros.model.head import REGRESSION

Part = Literal['mask', 'boxes', 'ego', 'others', 'last']
PATCH = 2  # cells along the edge of a cell of the restoration's latent

BOX_MAPS = 1 + REGRESSION
"""Score and regression of the sender's boxes in the cells of their centres, 0 elsewhere."""


class Context(NamedTuple):
    """What is known of n agents' maps, each in its agent's own grid.

    Attributes:
        missing: (n, 1, h, w) 1 in cells that did not arrive and may hold something, else 0.
        level: (n, 1, h, w) 0 where nothing arrived, 0.5 where only the code of a non-empty tile did, else 1.
        boxes: (n, 9, h, w) the sender's boxes, see `BOX_MAPS`.
        ego: (n, c + 1, h / 2, w / 2) normalised map of the ego and its coverage.
        others: (n, c + 1, h / 2, w / 2) mean of the other neighbours' maps where they cover, and coverage.
        last: (n, c + 2, h / 2, w / 2) the agent's last known map, see `last_of`; None if none is kept.
        remembered: (n, 1, h, w) 1 where the last known map holds something, else 0; None with `last`.
    """

    missing: Tensor
    level: Tensor
    boxes: Tensor
    ego: Tensor
    others: Tensor
    last: Tensor | None = None
    remembered: Tensor | None = None


class ContextCondition(nn.Module):
    """Maps a context to a condition (n, latent, h / 2, w / 2), which is 0 at the start of training.

    Args:
        channels: of the feature maps.
        latent_channels: of the condition.
        parts: of the context that are used; the others are ignored.
    """

    def __init__(self, channels: int, latent_channels: int, parts: Sequence[Part]) -> None:
        super().__init__()
        self._parts = frozenset(parts)
        self.local = nn.Conv2d(1 + BOX_MAPS, latent_channels, PATCH, stride=PATCH)
        self.views = nn.Conv2d(2 * (channels + 1), latent_channels, 1)
        self.last = nn.Conv2d(channels + 2, latent_channels, 1) if 'last' in self._parts else None
        for layer in filter(None, (self.local, self.views, self.last)):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, context: Context) -> Tensor:
        """Compute the condition."""
        known = {'mask': context.level, 'boxes': context.boxes, 'ego': context.ego, 'others': context.others}
        used = {name: part if name in self._parts else 0 * part for name, part in known.items()}
        local = self.local(torch.cat((used['mask'], used['boxes']), dim=1))
        condition = local + convolve_parts(self.views, (used['ego'], used['others']))
        if self.last is None:
            return condition
        last = context.last
        if last is None:  # nothing is remembered
            last = condition.new_zeros(len(condition), self.last.in_channels, *condition.shape[2:])
        return condition + self.last(last)


def inverse_warps(warps: Tensor) -> Tensor:
    """Inverse of affine maps (n, 2, 3), by formula, which exports to ONNX; of a singular one, zeros."""
    (a, b, x), (c, d, y) = (row.unbind(dim=1) for row in warps.unbind(dim=1))
    determinant = a * d - b * c
    scale = torch.where(determinant != 0, 1 / determinant, 0)
    rows = (
        torch.stack((d, -b, b * y - d * x), dim=1),
        torch.stack((-c, a, c * x - a * y), dim=1),
    )
    return torch.stack(rows, dim=1) * scale[:, None, None]


def pooled(normal: Tensor, coverage: Tensor) -> Tensor:
    """What `views_of` resamples: maps and their coverage at the resolution of the restoration's latent.

    Args:
        normal: (n, c, h, w) normalised features.
        coverage: (n, 1, h, w) 1 where something is known.

    Returns:
        (n, c + 1, h / 2, w / 2).
    """
    # Apart: a joined map of the full size takes as long to write as to pool.
    return torch.cat([functional.avg_pool2d(maps, PATCH) for maps in (normal * coverage, coverage)], dim=1)


def views_of(own: Tensor, others: Tensor, ego_to_agent: Tensor, vectors: int) -> tuple[Tensor, Tensor]:
    """The ego's map and the mean of the other neighbours', resampled to every neighbour's grid.

    Args:
        own: (frames, c + 1, h, w) map and coverage of each frame's ego, from `pooled`.
        others: (frames, m, c + 1, h, w) of its m neighbours.
        ego_to_agent: (frames * m, 2, 3) of the neighbours, see `fusion.warp`.
        vectors: see `fusion.warp`.

    Returns:
        `ego` and `others` of `Context` for the neighbours, (frames * m, c + 1, h, w) each.
    """
    seen = warp(others.flatten(0, 1), ego_to_agent, vectors).view_as(others)
    rest = sum_over_agents(seen)[:, None] - seen
    together = torch.cat((own[:, None].expand_as(others).flatten(0, 1), rest.flatten(0, 1)), dim=0)
    views = warp(together, inverse_warps(ego_to_agent).repeat(2, 1, 1), vectors)
    # Not chunk, which an export would give the size of its example.
    ego, rest = views[: ego_to_agent.shape[0]], views[ego_to_agent.shape[0] :]
    return ego, rest / rest[:, -1:].clamp(min=1)


def with_egos(views: Tensor, frames: int) -> Tensor:
    """Views of the neighbours (frames * m, ...) with rows of zeros for the egos, each before its frame's."""
    each = views.view(frames, views.shape[0] // frames, *views.shape[1:])
    return torch.cat((each.new_zeros((frames, 1, *views.shape[1:])), each), dim=1).flatten(0, 1)


def last_of(
    normal: Tensor, occupied: Tensor, age: Tensor, now_to_then: Tensor, vectors: int
) -> tuple[Tensor, Tensor]:
    """Agents' last known maps, resampled to where the agents are now.

    Args:
        normal: (n, c, h, w) normalised features as known then, each in its agent's grid of that time.
        occupied: (n, 1, h, w) 1 in cells known to hold something, else 0.
        age: (n, 1) seconds since then.
        now_to_then: (n, 2, 3) affine maps from an agent's normalised grid coordinates now to those of then.
        vectors: see `fusion.warp`.

    Returns:
        (n, c + 2, h / 2, w / 2) features, coverage, and age where covered, as pooled; and `remembered` of
        `Context`.
    """
    maps = warp(torch.cat((normal * occupied, occupied), dim=1), now_to_then, vectors)
    coverage = maps[:, -1:]
    known = torch.cat((maps, coverage * age[:, :, None, None]), dim=1)
    return functional.avg_pool2d(known, PATCH), (coverage > 0.5).to(maps.dtype)
