# SPDX-License-Identifier: Apache-2.0
"""What a receiver knows in addition to a neighbour's incomplete map, as a condition of its restoration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.exported import convolve_parts, sum_over_agents
from diffkd_ros.model.fusion import by_frame, warp
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


def views_of(
    normal: Tensor, coverage: Tensor, ego_to_agent: Tensor, vectors: int, frames: int = 1
) -> tuple[Tensor, Tensor]:
    """The ego's map and the mean of the other neighbours', resampled to every agent's grid.

    Arguments are as for `Student.fuse`: n agents of each frame, a frame's ego first, at half the resolution
    of the feature map, as the latent has it.

    Args:
        normal: (frames * n, c, h, w) normalised features.
        coverage: (frames * n, 1, h, w) 1 where something is known.
        ego_to_agent: (frames * n, 2, 3).
        vectors: see `fusion.warp`.
        frames: number of frames.

    Returns:
        `ego` and `others` of `Context`, as pooled; rows of egos are 0.
    """
    count = normal.shape[0] // frames  # not len, which an export would make a constant
    maps = functional.avg_pool2d(torch.cat((normal * coverage, coverage), dim=1), PATCH)
    is_neighbour = torch.ones_like(maps[:, :1, :1, :1])
    by_frame(is_neighbour, frames)[:, :1] = 0
    ego = by_frame(maps, frames)[:, :1].expand(-1, count, -1, -1, -1).flatten(0, 1)
    theirs = warp(maps, ego_to_agent, vectors) * is_neighbour
    theirs = by_frame(theirs, frames)
    others = (sum_over_agents(theirs)[:, None] - theirs).flatten(0, 1)
    together = torch.cat((ego, others), dim=0)
    back = inverse_warps(ego_to_agent).repeat(2, 1, 1)
    seen = warp(together, back, vectors) * is_neighbour.repeat(2, 1, 1, 1)
    # Not chunk, which an export would give the size of its example.
    ego, others = seen[: normal.shape[0]], seen[normal.shape[0] :]
    return ego, others / others[:, -1:].clamp(min=1)


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
    pooled = functional.avg_pool2d(torch.cat((maps, coverage * age[:, :, None, None]), dim=1), PATCH)
    return pooled, (coverage > 0.5).to(maps.dtype)
