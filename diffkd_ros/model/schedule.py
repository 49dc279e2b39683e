# SPDX-License-Identifier: Apache-2.0
"""The diffusion's noise schedule, its DDIM time grid and how a time is told to a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRAINING_STEPS = 1000


def cosine_alpha_bar(offset: float = 0.008) -> Tensor:
    """Cumulative signal share of the cosine schedule (Nichol & Dhariwal 2021), betas clipped at 0.999.

    Returns:
        (1000,) float64, strictly decreasing.
    """
    t = torch.arange(TRAINING_STEPS + 1, dtype=torch.float64) / TRAINING_STEPS
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - beta, dim=0)


def ddim_times(start: int, steps: int) -> list[int]:
    """Descending DDIM time grid: `steps` of them from `start`; -1, the clean end, is left out."""
    return [int(start - (start + 1) * step / steps) for step in range(steps)]


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017) of diffusion times: (n,) to (n, channels)."""
    frequency = torch.exp(
        torch.arange(channels // 2, device=t.device) * (-math.log(10000.0) / (channels // 2))
    )
    angle = t.float()[:, None] * frequency[None]
    return torch.cat((angle.sin(), angle.cos()), dim=1)
