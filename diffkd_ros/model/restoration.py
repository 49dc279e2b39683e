# SPDX-License-Identifier: Apache-2.0
"""Progressive Knowledge Distillation, part (a): each agent's feature restored by conditional diffusion.

Known from the paper: restoration by diffusion of every agent's local feature before fusion, toward the
teacher's. Not printed there, and derived here: x0-prediction with a cosine schedule (as the same group's
CoopDiff), a truncated start from the observed feature, and a gate that never loses what was observed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.modulation import LightweightGatedModulation

TRAINING_STEPS = 1000
NOISE_SEED = 20260402
NOISE_LIMIT = 2.0  # predicted noise is clamped to this many standard deviations, as CoopDiff does
LATENT_LIMIT = 5.0


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


class DenoisingBlock(nn.Module):
    """LGM on the condition and time, then a residual dilated 3x3 convolution."""

    def __init__(self, channels: int, time_channels: int, dilation: int) -> None:
        super().__init__()
        self.modulation = LightweightGatedModulation(channels, time_channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        """(n, c, h, w) in and out."""
        x = self.modulation(x, condition, time)
        return x + functional.silu(self.norm(self.convolution(x)))


class Denoiser(nn.Module):
    """The `edge` denoiser: a stem, gated residual blocks with dilations 1, 2, 4, ... and a linear head.

    Args:
        channels: width, of the latent too.
        blocks: number of gated blocks.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.channels = channels
        self.time = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )
        self.stem = nn.Conv2d(channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(DenoisingBlock(channels, channels, 2 ** (i % 3)) for i in range(blocks))
        self.head = nn.Conv2d(channels, channels, 1)

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict the clean latent from a noisy one.

        Args:
            noisy: (n, c, h, w) latent at time t.
            t: (n,) diffusion times, 0..999.
            condition: (n, c, h, w).

        Returns:
            (n, c, h, w) predicted clean latent.
        """
        time = self.time(time_embedding(t, self.channels))
        x = self.stem(noisy)
        for block in self.blocks:
            x = block(x, condition, time)
        return self.head(x)


class DiffusionRestoration(nn.Module):
    """Conditional diffusion of one agent's feature toward the teacher's, at the receiver.

    A linear autoencoder (one 2x2 patch to one latent cell) carries the diffusion; the feature and its density
    are the condition. The restored map replaces the observed one only through a gate and only near observed
    cells, so nothing can appear where no beam returned.

    Args:
        channels: channels of the feature map.
        latent_channels: width of the latent and the denoiser.
        blocks: denoiser blocks.
        start: diffusion time of the truncated start.
        steps: DDIM steps at inference.
        height: rows of the feature map, even.
        width: columns of the feature map, even.
    """

    noise: Tensor
    alpha_bar: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        blocks: int,
        start: int,
        steps: int,
        height: int,
        width: int,
    ) -> None:
        super().__init__()
        self.to_latent = nn.Sequential(
            nn.Conv2d(channels, latent_channels, 2, stride=2, bias=False),
            nn.BatchNorm2d(latent_channels, affine=False),
        )
        self.from_latent = nn.ConvTranspose2d(latent_channels, channels, 2, stride=2)
        self.project = nn.Conv2d(channels, latent_channels, 2, stride=2)
        self.condition = nn.Conv2d(channels + 1, latent_channels, 2, stride=2)
        self.denoiser = Denoiser(latent_channels, blocks)
        self.gate = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.gate.weight)
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, -2.0)
        self.register_buffer('mean', torch.zeros(1, channels, 1, 1))
        self.register_buffer('deviation', torch.ones(1, channels, 1, 1))
        alpha_bar = cosine_alpha_bar()
        self.register_buffer('alpha_bar', alpha_bar.float(), persistent=False)
        # Plain numbers: the sampler unrolls into constants, and the exported graph has no control flow.
        self.times = ddim_times(start, steps)
        self.schedule: list[float] = alpha_bar.tolist()
        # One stored draw for every agent and call: a replay gives the same boxes, in any order of agents.
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn((1, latent_channels, height // 2, width // 2), generator=generator)
        self.register_buffer('noise', noise)

    def normalise(self, feature: Tensor) -> Tensor:
        """Feature to units of the teacher's standard deviation, clipped to +-5."""
        return ((feature - self.mean) / self.deviation).clamp(-LATENT_LIMIT, LATENT_LIMIT)

    def conditions(self, feature: Tensor, density: Tensor) -> Tensor:
        """What the denoiser may look at: (n, c, h, w) and (n, 1, h, w) to (n, latent, h/2, w/2)."""
        return self.condition(torch.cat((self.normalise(feature), density), dim=1))

    def diffuse(self, latent: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Forward process q(x_t | x_0) at times t (n,)."""
        signal = self.alpha_bar[t][:, None, None, None]
        return signal.sqrt() * latent + (1 - signal).sqrt() * noise

    def sample(self, projected: Tensor, condition: Tensor) -> Tensor:
        """Deterministic DDIM (eta = 0) from the truncated start; returns the clean latent.

        Args:
            projected: (n, latent, h/2, w/2) the observed feature projected into the latent.
            condition: (n, latent, h/2, w/2).
        """
        times, schedule = self.times, self.schedule
        x = math.sqrt(schedule[times[0]]) * projected + math.sqrt(1 - schedule[times[0]]) * self.noise
        clean = x
        for t, following in zip(times, [*times[1:], None], strict=True):
            clean = self.denoiser(x, torch.full((1,), t, device=x.device), condition)
            if following is None:
                break
            noise = (x - math.sqrt(schedule[t]) * clean) / math.sqrt(1 - schedule[t])
            noise = noise.clamp(-NOISE_LIMIT, NOISE_LIMIT)
            x = math.sqrt(schedule[following]) * clean + math.sqrt(1 - schedule[following]) * noise
        return clean

    def forward(self, feature: Tensor, density: Tensor) -> Tensor:
        """Restore features, each in its own agent's frame.

        Args:
            feature: (n, c, h, w) as received.
            density: (n, 1, h, w).

        Returns:
            (n, c, h, w); equal to `feature` outside the covered cells.
        """
        normal = self.normalise(feature)
        clean = self.sample(self.project(normal), self.conditions(feature, density))
        decoded = self.from_latent(clean)
        gate = torch.sigmoid(self.gate(torch.cat((decoded, normal), dim=1)))
        restored = decoded * self.deviation + self.mean
        return feature + covered_cells(density) * gate * (restored - feature)
