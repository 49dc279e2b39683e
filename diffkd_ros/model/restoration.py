# SPDX-License-Identifier: Apache-2.0
"""Progressive Knowledge Distillation, part (a): each agent's feature restored by conditional diffusion.

Known from the paper: restoration by diffusion of every agent's local feature before fusion, toward the
teacher's. Not printed there, and derived here: x0-prediction with a cosine schedule (as the same group's
CoopDiff), the starts, and a gate that never loses what was observed.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.denoiser import EdgeDenoiser, FaithfulDenoiser, PlainEstimator
from diffkd_ros.model.schedule import TRAINING_STEPS, cosine_alpha_bar, ddim_times

NOISE_SEED = 20260402
NOISE_LIMIT = 2.0  # predicted noise is clamped to this many standard deviations, as CoopDiff does
LATENT_LIMIT = 5.0
MATCHED_SHARE = 0.8  # of the observation in a matched start, before training

Start = Literal['truncated', 'pure', 'matched']
Profile = Literal['edge', 'faithful']


class TeacherScale(nn.Module):
    """Mean and deviation per channel of the teacher's feature; by itself, it leaves features as they are.

    Args:
        channels: channels of the feature map.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(1, channels, 1, 1))
        self.register_buffer('deviation', torch.ones(1, channels, 1, 1))

    def normalise(self, feature: Tensor) -> Tensor:
        """Feature to units of the teacher's standard deviation, clipped to +-5."""
        return ((feature - self.mean) / self.deviation).clamp(-LATENT_LIMIT, LATENT_LIMIT)

    def forward(self, feature: Tensor, density: Tensor) -> Tensor:
        """Restore features (n, c, h, w) with densities (n, 1, h, w), each in its own agent's frame."""
        return feature


class Restoration(TeacherScale):
    """What every restoration shares: the latent and the gate.

    A linear autoencoder carries a feature into the latent and back (one 2x2 patch to one latent cell; with
    patches of 1 it is the identity). The restored map replaces the observed one only through a gate and only
    near observed cells, so nothing can appear where no beam returned.

    Args:
        channels: channels of the feature map.
        latent_channels: width of the latent; `channels` if `patch` is 1.
        patch: cells along the side of a latent cell, 1 or 2.
    """

    def __init__(self, channels: int, latent_channels: int, patch: int) -> None:
        super().__init__(channels)
        self.to_latent: nn.Module
        self.from_latent: nn.Module
        if patch == 1:
            self.to_latent, self.from_latent = nn.Identity(), nn.Identity()
        else:
            self.to_latent = nn.Sequential(
                nn.Conv2d(channels, latent_channels, patch, stride=patch, bias=False),
                nn.BatchNorm2d(latent_channels, affine=False),
            )
            self.from_latent = nn.ConvTranspose2d(latent_channels, channels, patch, stride=patch)
        self.project = nn.Conv2d(channels, latent_channels, patch, stride=patch)
        self.condition = nn.Conv2d(channels + 1, latent_channels, patch, stride=patch)
        self.gate = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.gate.weight)
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, -2.0)

    def conditions(self, feature: Tensor, density: Tensor) -> Tensor:
        """What the estimate may look at: (n, c, h, w) and (n, 1, h, w) to (n, latent, h', w')."""
        return self.condition(torch.cat((self.normalise(feature), density), dim=1))

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """One training prediction of the clean latent.

        Args:
            clean: (n, latent, h', w') the truth, of which a diffusion shows a noisy version.
            projected: (n, latent, h', w') the observed feature projected into the latent.
            condition: (n, latent, h', w').
        """
        raise NotImplementedError

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """The clean latent as it is estimated on the vehicle; arguments as in `predict`."""
        raise NotImplementedError

    def forward(self, feature: Tensor, density: Tensor) -> Tensor:
        """Restore features, each in its own agent's frame.

        Args:
            feature: (n, c, h, w) as received.
            density: (n, 1, h, w).

        Returns:
            (n, c, h, w); equal to `feature` outside the covered cells.
        """
        normal = self.normalise(feature)
        decoded = self.from_latent(self.estimate(self.project(normal), self.conditions(feature, density)))
        gate = torch.sigmoid(self.gate(torch.cat((decoded, normal), dim=1)))
        restored = decoded * self.deviation + self.mean
        return feature + covered_cells(density) * gate * (restored - feature)


class DiffusionRestoration(Restoration):
    """Conditional diffusion of one agent's feature toward the teacher's, at the receiver.

    Args:
        channels: channels of the feature map.
        latent_channels: width of the latent and the denoiser.
        blocks: denoiser blocks of the `edge` profile.
        start_from: `truncated`, the projected observation with the noise of time `start`; `pure`, noise alone
            at time 999; `matched`, observation and noise in a learnt share per agent (DiffKD, NeurIPS 2023).
        start: diffusion time of the truncated and the matched start.
        steps: DDIM steps at inference; 0 leaves the feature as it is.
        height: rows of the feature map.
        width: columns of the feature map.
        profile: `edge`, in the latent of 2x2 patches; `faithful`, at full resolution and width.
    """

    noise: Tensor
    alpha_bar: Tensor

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        blocks: int,
        start_from: Start,
        start: int,
        steps: int,
        height: int,
        width: int,
        profile: Profile = 'edge',
    ) -> None:
        patch = 2 if profile == 'edge' else 1
        latent_channels = latent_channels if profile == 'edge' else channels
        super().__init__(channels, latent_channels, patch)
        self.denoiser: nn.Module = (
            EdgeDenoiser(latent_channels, blocks) if profile == 'edge' else FaithfulDenoiser(channels)
        )
        self.start_from = start_from
        if start_from == 'matched':
            self.bottleneck = nn.Sequential(nn.Conv2d(latent_channels, latent_channels // 4, 1), nn.ReLU())
            self.share = nn.Linear(latent_channels // 4, 2)
            nn.init.zeros_(self.share.weight)
            with torch.no_grad():
                self.share.bias.copy_(torch.tensor([MATCHED_SHARE, 1 - MATCHED_SHARE]).log())
        alpha_bar = cosine_alpha_bar()
        self.register_buffer('alpha_bar', alpha_bar.float(), persistent=False)
        # Plain numbers: the sampler unrolls into constants, and the exported graph has no control flow.
        self.times = ddim_times(TRAINING_STEPS - 1 if start_from == 'pure' else start, steps)
        self.schedule: list[float] = alpha_bar.tolist()
        # One stored draw for every agent and call: a replay gives the same boxes, in any order of agents.
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn((1, latent_channels, height // patch, width // patch), generator=generator)
        self.register_buffer('noise', noise)

    def diffuse(self, latent: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Forward process q(x_t | x_0) at times t (n,)."""
        signal = self.alpha_bar[t][:, None, None, None]
        return signal.sqrt() * latent + (1 - signal).sqrt() * noise

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """x0-prediction at a time and with a noise drawn for each agent."""
        t = torch.randint(TRAINING_STEPS, (len(clean),), device=clean.device)
        return self.denoiser(self.diffuse(clean, t, torch.randn_like(clean)), t, condition)

    def begin(self, projected: Tensor) -> Tensor:
        """The latent that sampling starts from: (n, latent, h', w') in and out."""
        if self.start_from == 'pure':
            return self.noise.expand_as(projected)
        if self.start_from == 'matched':
            share = torch.softmax(self.share(self.bottleneck(projected).mean(dim=(2, 3))), dim=1)
            signal = share[:, 0, None, None, None]
            return signal * projected + (1 - signal) * self.noise
        kept = self.schedule[self.times[0]]
        return math.sqrt(kept) * projected + math.sqrt(1 - kept) * self.noise

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """Deterministic DDIM (eta = 0) over the time grid; returns the clean latent."""
        times, schedule = self.times, self.schedule
        x = self.begin(projected)
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
        """As `Restoration.forward`; without steps, the feature itself."""
        return super().forward(feature, density) if self.times else feature


class PlainRestoration(Restoration):
    """The placebo: the same blocks, latent, target and gate, without diffusion.

    Args:
        channels: channels of the feature map.
        latent_channels: width of the latent.
        blocks: of the estimator.
    """

    def __init__(self, channels: int, latent_channels: int, blocks: int) -> None:
        super().__init__(channels, latent_channels, patch=2)
        self.estimator = PlainEstimator(latent_channels, blocks)

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """The estimate itself: there is no noisy version of the truth to look at."""
        return self.estimate(projected, condition)

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """One pass."""
        return self.estimator(projected, condition)
