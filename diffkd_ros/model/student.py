# SPDX-License-Identifier: Apache-2.0
"""The student, the network in use: every agent encodes; the ego restores, warps, fuses and detects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import Encoder, covered_cells
from diffkd_ros.model.baseline_fusion import AttentionFusion, MaximumFusion
from diffkd_ros.model.codebook import MapCodec
from diffkd_ros.model.context import ContextCondition, Part
from diffkd_ros.model.fusion import AdaptiveGatedFusion, by_frame, warp
from diffkd_ros.model.head import CentreHead
from diffkd_ros.model.pillars import PillarEncoder
from diffkd_ros.model.restoration import (
    DiffusionRestoration,
    PlainRestoration,
    Profile,
    Start,
    TeacherScale,
    TwoStepRestoration,
)
from diffkd_ros.model.sender import Sender
from diffkd_ros.model.sparse_encoder import SparseVoxelEncoder


@dataclass(frozen=True)
class StudentConfig:
    """Architecture of the student; the teacher shares the encoder's and the head's.

    Attributes:
        grid_range: x_min, y_min, z_min, x_max, y_max, z_max in metres, LiDAR frame.
        pillar_cell: pillar edge in metres; the edge of a feature cell is twice as long.
        encoder: `pillars`, which exports to ONNX, or `sparse`, 3D convolutions that run in torch only.
        pillar_channels: channels of the pillar map.
        stages: channels of the backbone's three stages.
        depth: convolutions per stage after the strided one.
        channels: channels of the shared feature map.
        vectors: number of channel pairs that encode directions and are rotated when a map is warped.
        head_channels: channels of the head's convolution.
        fusion: `adaptive` (AGF), or one of its baselines `attention` and `maximum`.
        modulation: False omits LGM from AGF.
        key_channels: channels of AGF's query and key.
        restoration: `diffusion` (PKD (a)), `plain` (the same without diffusion), `two_step` or `none`.
        profile: of the denoiser, `edge` or `faithful`.
        latent_channels: channels of the restoration's latent and denoiser, in the `edge` profile.
        blocks: blocks of the denoiser, in the `edge` profile.
        start_from: `truncated`, `pure` or `matched`, see `model.restoration`.
        start: diffusion time of the truncated and matched starts.
        steps: DDIM steps; 0 leaves features unchanged.
        link: whether maps are sent as layers of codes, see `model.codebook`.
        entries: codes of a cell in each level.
        levels: residual levels of a cell's codes.
        coarse_entries: codes of a tile.
        context: what the restoration sees in addition to the received map, see `model.context`.
    """

    __pydantic_config__ = {'extra': 'forbid', 'allow_inf_nan': False}  # noqa: RUF012 - when read from YAML

    grid_range: tuple[float, float, float, float, float, float] = (-51.2, -25.6, -3.0, 51.2, 25.6, 1.0)
    pillar_cell: float = 0.4
    encoder: Literal['pillars', 'sparse'] = 'pillars'
    pillar_channels: int = 16
    stages: tuple[int, int, int] = (32, 64, 128)
    depth: int = 3
    channels: int = 32
    vectors: int = 0
    head_channels: int = 64
    fusion: Literal['adaptive', 'attention', 'maximum'] = 'adaptive'
    modulation: bool = True
    key_channels: int = 32
    restoration: Literal['diffusion', 'plain', 'two_step', 'none'] = 'diffusion'
    profile: Profile = 'edge'
    latent_channels: int = 32
    blocks: int = 6
    start_from: Start = 'truncated'
    start: int = 400
    steps: int = 2
    link: bool = False
    entries: int = 256
    levels: int = 2
    coarse_entries: int = 64
    context: tuple[Part, ...] = ()

    @property
    def memory(self) -> bool:
        """Whether the restoration sees what was known of the agents' maps before."""
        return 'last' in self.context and self.restoration != 'none'

    @property
    def height(self) -> int:
        """Rows of the feature map."""
        return round((self.grid_range[4] - self.grid_range[1]) / self.pillar_cell) // 2

    @property
    def width(self) -> int:
        """Columns of the feature map."""
        return round((self.grid_range[3] - self.grid_range[0]) / self.pillar_cell) // 2

    def make_encoder(self) -> Encoder:
        """Create the configured encoder.

        Raises:
            SparseConvolutionError: if `encoder` is `sparse` and spconv is not installed.
        """
        kind = SparseVoxelEncoder if self.encoder == 'sparse' else PillarEncoder
        pillars = kind(self.grid_range, self.pillar_cell, self.pillar_channels)
        return Encoder(pillars, self.pillar_channels, self.stages, self.depth, self.channels, self.vectors)

    def make_fusion(self) -> AdaptiveGatedFusion | AttentionFusion | MaximumFusion:
        """Create the configured fusion."""
        if self.fusion == 'attention':
            return AttentionFusion()
        if self.fusion == 'maximum':
            return MaximumFusion()
        return AdaptiveGatedFusion(self.channels, self.key_channels, self.modulation)

    def make_restoration(self) -> TeacherScale:
        """Create the configured restoration."""
        channels, latent = self.channels, self.latent_channels
        context = ContextCondition(channels, latent, self.context) if self.context else None
        if self.restoration == 'none':
            return TeacherScale(channels)
        if self.restoration == 'plain':
            return PlainRestoration(channels, latent, self.blocks * self.steps, context)
        if self.restoration == 'two_step':
            return TwoStepRestoration(channels, latent, self.blocks, context)
        return DiffusionRestoration(
            channels,
            latent,
            self.blocks,
            self.start_from,
            self.start,
            self.steps,
            self.height,
            self.width,
            self.profile,
            context,
        )

    def make_sender(self) -> Sender | None:
        """Create what a vehicle needs to send layers of codes; None if it sends whole maps."""
        if not self.link:
            return None
        codec = MapCodec(self.channels, self.entries, self.levels, self.coarse_entries)
        return Sender(self.channels, self.head_channels, self.modulation, codec)


class Fusion(NamedTuple):
    """Features fused in the ego's grid, of one frame or of several with n agents each.

    Attributes:
        fused: (frames, c, h, w), the head's input.
        share: (frames * n, 1, h, w) each agent's share of every fused cell; sums to 1 over agents.
        coverage: (frames * n, 1, h, w) 1 where each agent's map is valid, else 0, in the ego's grid.
        reliability: (frames, 1, h, w) of the egos, in (0, 1); their share where the fusion estimates none.
        restored: (frames * n, c, h, w) restored features in the ego's grid.
    """

    fused: Tensor
    share: Tensor
    coverage: Tensor
    reliability: Tensor
    restored: Tensor


def _ego_and_others(maps: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Divide (frames * n, ...) into (frames, 1, ...) of the egos and (frames, n - 1, ...) of the others."""
    each = by_frame(maps, frames)
    return each[:, :1], each[:, 1:]


class Student(nn.Module):
    """Encoder, restoration (PKD a), Adaptive Gated Fusion and head."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.make_encoder()
        self.restoration = config.make_restoration()
        self.fusion = config.make_fusion()
        self.head = CentreHead(config.channels, config.head_channels)
        self.sender = config.make_sender()

    def fuse(
        self, features: Tensor, restored: Tensor, density: Tensor, ego_to_agent: Tensor, frames: int = 1
    ) -> Fusion:
        """Warp the agents of every frame into its ego's grid and fuse them.

        Args:
            features: (frames * n, c, h, w) as encoded, each in its agent's grid, frame by frame, n agents
                each, a frame's ego first. Agents whose warp is `fusion.ABSENT` fill frames of fewer agents.
                Not used with a layered message.
            restored: (frames * n, c, h, w) the same after restoration, or `features` for no restoration.
            density: (frames * n, 1, h, w).
            ego_to_agent: (frames * n, 2, 3), see `fusion.warp`.
            frames: number of frames.
        """
        own, others = _ego_and_others(torch.cat((restored, covered_cells(density)), dim=1), frames)
        warps = _ego_and_others(ego_to_agent, frames)[1]
        seen = warp(others.flatten(0, 1), warps.flatten(0, 1), self.config.vectors).view_as(others)
        # The ego's own map needs no resampling and is valid everywhere.
        maps = torch.cat((own[:, :, :-1], seen[:, :, :-1]), dim=1).flatten(0, 1)
        covered = (seen[:, :, -1:] > 0.5).to(seen.dtype)
        coverage = torch.cat((torch.ones_like(own[:, :, -1:]), covered), dim=1).flatten(0, 1)
        ego = own[:, 0, :-1]
        if self.config.link:
            # The exported fusion gets restored maps only.
            change = torch.zeros_like(own[:, 0, -1:])
        else:
            change = (ego - by_frame(features, frames)[:, 0]).abs().mean(dim=1, keepdim=True)
        fused, share, reliability = self.fusion(maps, coverage, by_frame(density, frames)[:, 0], change)
        return Fusion(fused, share, coverage, reliability, maps)

    def forward(
        self, features: Tensor, density: Tensor, ego_to_agent: Tensor
    ) -> tuple[Tensor, Tensor, Fusion]:
        """Restore every agent's feature in its own frame, then fuse and detect; arguments as for `fuse`.

        Maps of a layered message come restored.

        Returns:
            Heat map logits (1, 1, h, w), regression (1, 8, h, w) as in `model.head`, and the fusion.
        """
        restored = features if self.config.link else self.restoration(features, density)
        fusion = self.fuse(features, restored, density, ego_to_agent)
        return *self.head(fusion.fused), fusion
