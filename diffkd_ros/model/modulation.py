# SPDX-License-Identifier: Apache-2.0
"""Lightweight Gated Modulation (LGM), used by the teacher, the fusion and the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.exported import convolve_to_parts


class LightweightGatedModulation(nn.Module):
    """LGM(x; c) = x + s * sigmoid(g) * ((1 + gamma) * Norm(x) + beta), with gamma, beta, g computed from c.

    The Diff-KD paper names the block (Fig. 1 d; part of the teacher and of AGF) without a formula. This form
    is derived from the gated scale-and-shift of CoopDiff (arXiv 2603.01688). s is a learnt scale per channel,
    initialised to 0, so that the block starts as the identity.

    Args:
        channels: channels of x and c; a multiple of 8.
        time_channels: channels of a diffusion time embedding added to the condition; 0 for none.
    """

    def __init__(self, channels: int, time_channels: int = 0) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, 3 * channels, 1)
        )
        self.pooled = nn.Sequential(
            nn.Linear(channels, channels // 4), nn.SiLU(), nn.Linear(channels // 4, 3 * channels)
        )
        self.time = nn.Linear(time_channels, 3 * channels) if time_channels else None
        self.norm = nn.GroupNorm(8, channels)
        self.scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, condition: Tensor, time: Tensor | None = None) -> Tensor:
        """Modulate x (n, c, h, w) by a condition (n or 1, c, h, w) and a time embedding (n or 1, t)."""
        return self.modulate(x, self.standardise(x), condition, time)

    def standardise(self, x: Tensor) -> Tensor:
        """Norm(x) without the gains and offsets of its channels, which `modulate` applies."""
        return functional.group_norm(x, self.norm.num_groups, eps=self.norm.eps)

    def modulate(
        self, x: Tensor, standardised: Tensor, condition: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """As `forward`, with the result of `standardise` given.

        The block is linear in x and in what is standardised: of the weighted means of several, with weights
        that sum to 1, it is the weighted mean of the modulated x.

        With a and b of the norm, s ((1 + gamma) (a z + b) + beta) is computed as (gain z + offset), whose
        factors are those of gamma and beta in the 1x1 convolution: fewer operations on maps.
        """
        condition = functional.silu(condition)
        pooled = self.pooled(condition.mean(dim=(2, 3)))
        if self.time is not None:
            assert time is not None, 'the block has a time embedding and was called without a time'
            pooled = pooled + self.time(functional.silu(time))
        around, mixing = self.local
        assert isinstance(mixing, nn.Conv2d)
        assert mixing.bias is not None
        shifts = self._folded(pooled.T).T[:, :, None, None].chunk(3, dim=1)
        one = torch.zeros_like(mixing.bias)
        one[: x.shape[1]] = 1
        weight, bias = self._folded(mixing.weight.flatten(1)), self._folded((mixing.bias + one)[:, None])
        local = convolve_to_parts(weight[:, :, None, None], bias[:, 0], around(condition), 3)
        gain, offset, gate = (each + shift for each, shift in zip(local, shifts, strict=True))
        return x + torch.sigmoid(gate) * (gain * standardised + offset)

    def _folded(self, rows: Tensor) -> Tensor:
        """Rows (3 c, k) of 1 + gamma, beta and gate to those of gain, offset and gate."""
        scale = self.scale.flatten()[:, None]
        gamma, beta, gate = rows.chunk(3)
        gain = scale * self.norm.weight[:, None]
        return torch.cat((gain * gamma, scale * (self.norm.bias[:, None] * gamma + beta), gate))


class Unmodulated(nn.Module):
    """Identity in place of an LGM, for the ablation; `channels` is ignored."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return x."""
        return x

    def standardise(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def modulate(self, x: Tensor, standardised: Tensor, condition: Tensor) -> Tensor:
        """Return x."""
        return x
