# SPDX-License-Identifier: Apache-2.0
"""Progressive Knowledge Distillation, part (a): restoration of each agent's feature by conditional diffusion.

The Diff-KD paper states that every agent's local feature is restored toward the teacher's by diffusion before
fusion. Details it does not give are derived here: x0-prediction with a cosine schedule (as in CoopDiff, arXiv
2603.01688), the starting points of the sampler, and a gate that preserves what was observed.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.context import Context, ContextCondition
from diffkd_ros.model.denoiser import EdgeDenoiser, FaithfulDenoiser
from diffkd_ros.model.exported import convolve_parts
from diffkd_ros.model.schedule import TRAINING_STEPS, cosine_alpha_bar, ddim_times

INTERMEDIATE = 900  # time of the second of two supervised steps, t* = 0.9 (Pan et al., arXiv 2512.01809)
NOISE_SEED = 20260402
NOISE_LIMIT = 2.0  # predicted noise is clamped to this many standard deviations, as in CoopDiff
LATENT_LIMIT = 5.0  # standard deviations to which normalised features are clamped
MATCHED_SHARE = 0.8  # initial share of the observation in a matched start

Start = Literal['truncated', 'pure', 'matched']
Profile = Literal['edge', 'faithful']


class TeacherScale(nn.Module):
    """Mean and standard deviation per channel of the teacher's feature; as a restoration, the identity."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(1, channels, 1, 1))
        self.register_buffer('deviation', torch.ones(1, channels, 1, 1))

    def normalise(self, feature: Tensor) -> Tensor:
        """Standardise a feature (n, c, h, w) by the teacher's mean and deviation, clamped to +-5."""
        return ((feature - self.mean) / self.deviation).clamp(-LATENT_LIMIT, LATENT_LIMIT)

    def forward(self, feature: Tensor, density: Tensor, context: Context | None = None) -> Tensor:
        """Restore features (n, c, h, w), given densities (n, 1, h, w), each in its own agent's frame."""
        return feature


class Restoration(TeacherScale):
    """Base of the restorations: the latent space and the gate.

    A linear autoencoder maps a feature to the latent space and back (one 2x2 patch to one latent cell; the
    identity for patches of 1). The gate mixes the restored map with the observed one, near cells observed now
    or remembered only, so that no object appears where no beam returned. Cells that did not arrive are
    replaced. A map that arrived completely, with nothing remembered, stays as it is.

    Args:
        channels: channels of the feature map.
        latent_channels: channels of the latent; `channels` if `patch` is 1.
        patch: cells along the side of a latent cell, 1 or 2.
        context: makes a further condition from what a receiver knows; None if there is none.
    """

    def __init__(
        self, channels: int, latent_channels: int, patch: int, context: ContextCondition | None = None
    ) -> None:
        super().__init__(channels)
        self.context = context
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

    def conditions(self, feature: Tensor, density: Tensor, context: Context | None = None) -> Tensor:
        """The condition (n, latent, h', w') from features (n, c, h, w) and densities (n, 1, h, w)."""
        condition = convolve_parts(self.condition, (self.normalise(feature), density))
        if self.context is None:
            return condition
        assert context is not None, 'a restoration with a context needs one'
        return condition + self.context(context)

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """Predict the clean latent in training.

        Args:
            clean: (n, latent, h', w') the target, to which a diffusion adds noise.
            projected: (n, latent, h', w') the observed feature projected into the latent space.
            condition: (n, latent, h', w'), from `conditions`.
        """
        raise NotImplementedError

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """Estimate the clean latent at inference; arguments and result as for `predict`."""
        raise NotImplementedError

    def forward(self, feature: Tensor, density: Tensor, context: Context | None = None) -> Tensor:
        """As `TeacherScale.forward`; the result is equal to `feature` outside the covered cells."""
        normal = self.normalise(feature)
        conditions = self.conditions(feature, density, context)
        decoded = self.from_latent(self.estimate(self.project(normal), conditions))
        gate = torch.sigmoid(convolve_parts(self.gate, (decoded, normal)))
        restored = decoded * self.deviation + self.mean
        covered = covered_cells(density)
        if context is not None:
            gate, covered = torch.maximum(gate, context.missing), torch.maximum(covered, context.missing)
            if context.remembered is None:
                covered = covered * context.missing.amax(dim=(1, 2, 3), keepdim=True)
            else:
                covered = torch.maximum(covered, context.remembered)
        return feature + covered * gate * (restored - feature)


class DiffusionRestoration(Restoration):
    """Conditional diffusion of each agent's feature toward the teacher's, run by the receiver.

    Args:
        channels: channels of the feature map.
        latent_channels: channels of the latent and the denoiser, in the `edge` profile.
        blocks: denoiser blocks of the `edge` profile.
        start_from: `truncated`, the projected observation plus noise of time `start`; `pure`, noise alone at
            time 999; `matched`, observation and noise in a learnt ratio per agent (Huang et al., Knowledge
            Diffusion for Distillation, NeurIPS 2023).
        start: diffusion time of the truncated and the matched start.
        steps: DDIM steps at inference; 0 leaves the feature unchanged.
        height: rows of the feature map.
        width: columns of the feature map.
        profile: `edge`, in the latent of 2x2 patches; `faithful`, at full resolution and width.
        context: as for `Restoration`.
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
        context: ContextCondition | None = None,
    ) -> None:
        patch = 2 if profile == 'edge' else 1
        latent_channels = latent_channels if profile == 'edge' else channels
        super().__init__(channels, latent_channels, patch, context)
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
        # Plain numbers: the sampler unrolls into constants and the exported graph has no control flow.
        self.times = ddim_times(TRAINING_STEPS - 1 if start_from == 'pure' else start, steps)
        self.schedule: list[float] = alpha_bar.tolist()
        # One stored draw for all agents and calls: results are repeatable, whatever the order of agents.
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn((1, latent_channels, height // patch, width // patch), generator=generator)
        self.register_buffer('noise', noise)

    def diffuse(self, latent: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The noisy latent x_t at times t (n,), given x_0 and noise (Ho et al., NeurIPS 2020, Eq. 4)."""
        signal = self.alpha_bar[t][:, None, None, None]
        return signal.sqrt() * latent + (1 - signal).sqrt() * noise

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """x0-prediction, with a time and noise drawn for each agent."""
        t = torch.randint(TRAINING_STEPS, (len(clean),), device=clean.device)
        return self.denoiser(self.diffuse(clean, t, torch.randn_like(clean)), t, condition)

    def begin(self, projected: Tensor) -> Tensor:
        """The latent (n, latent, h', w') that sampling starts from."""
        if self.start_from == 'pure':
            return self.noise.expand_as(projected)
        if self.start_from == 'matched':
            share = torch.softmax(self.share(self.bottleneck(projected).mean(dim=(2, 3))), dim=1)
            signal = share[:, 0, None, None, None]
            return signal * projected + (1 - signal) * self.noise
        kept = self.schedule[self.times[0]]
        return math.sqrt(kept) * projected + math.sqrt(1 - kept) * self.noise

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """Deterministic DDIM over the time grid (Song et al., ICLR 2021, Eq. 12 with sigma = 0)."""
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

    def forward(self, feature: Tensor, density: Tensor, context: Context | None = None) -> Tensor:
        """As `Restoration.forward`; with 0 steps, the feature itself."""
        return super().forward(feature, density, context) if self.times else feature


class PlainRestoration(Restoration):
    """The control: the same blocks, latent, target and gate as `DiffusionRestoration`, without diffusion.

    Args:
        channels: channels of the feature map.
        latent_channels: channels of the latent.
        blocks: number of blocks; for equal cost, as many as a sampler runs in all its steps.
        context: as for `Restoration`.
    """

    def __init__(
        self, channels: int, latent_channels: int, blocks: int, context: ContextCondition | None = None
    ) -> None:
        super().__init__(channels, latent_channels, 2, context)
        self.estimator = EdgeDenoiser(latent_channels, blocks, timed=False)

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """The estimate; the target is not an input."""
        return self.estimate(projected, condition)

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """One pass of the estimator."""
        return self.estimator(projected, None, condition)


class TwoStepRestoration(Restoration):
    """Two supervised steps with noise between them, without a diffusion's sampler (arXiv 2512.01809).

    The first step estimates the clean latent from nothing but the condition; the second improves an estimate
    and is trained on the clean latent mixed with noise.

    Args:
        channels: channels of the feature map.
        latent_channels: channels of the latent.
        blocks: blocks of the network, which runs twice.
        context: as for `Restoration`.
    """

    def __init__(
        self, channels: int, latent_channels: int, blocks: int, context: ContextCondition | None = None
    ) -> None:
        super().__init__(channels, latent_channels, 2, context)
        self.estimator = EdgeDenoiser(latent_channels, blocks)

    def predict(self, clean: Tensor, projected: Tensor, condition: Tensor) -> Tensor:
        """Predict in one of the two steps, drawn for each agent."""
        share = INTERMEDIATE / TRAINING_STEPS
        second = (torch.rand(len(clean), device=clean.device) < 0.5).to(clean.dtype)
        mixed = share * clean + (1 - share) * torch.randn_like(clean)
        time = (second * INTERMEDIATE).long()
        return self.estimator(second[:, None, None, None] * mixed, time, condition)

    def estimate(self, projected: Tensor, condition: Tensor) -> Tensor:
        """Both steps."""
        estimate = torch.zeros_like(projected)
        for time in (0, INTERMEDIATE):
            begin = time / TRAINING_STEPS * estimate
            estimate = self.estimator(begin, torch.full((1,), time, device=begin.device), condition)
        return estimate
