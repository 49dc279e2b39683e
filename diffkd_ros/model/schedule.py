# SPDX-License-Identifier: Apache-2.0
"""The noise schedule of the diffusion, the DDIM time grid and the time embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRAINING_STEPS = 1000


def cosine_alpha_bar(offset: float = 0.008) -> Tensor:
    """Cumulative signal share of the cosine schedule (Nichol & Dhariwal, ICML 2021, Eq. 17).

    Args:
        offset: s in the paper; keeps beta from being too small near t = 0.

    Returns:
        (1000,) float64, strictly decreasing; betas are clipped at 0.999, as in the paper.
    """
    t = torch.arange(TRAINING_STEPS + 1, dtype=torch.float64) / TRAINING_STEPS
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - beta, dim=0)


def ddim_times(start: int, steps: int) -> list[int]:
    """Descending, evenly spaced grid of `steps` times from `start`, without the clean end at -1."""
    return [int(start - (start + 1) * step / steps) for step in range(steps)]


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding (n, channels) of times (n,), as in Vaswani et al., NeurIPS 2017, Sec. 3.5."""
    frequency = torch.exp(
        torch.arange(channels // 2, device=t.device) * (-math.log(10000.0) / (channels // 2))
    )
    angle = t.float()[:, None] * frequency[None]
    return torch.cat((angle.sin(), angle.cos()), dim=1)
