# SPDX-License-Identifier: Apache-2.0
"""The two denoisers: networks that predict a clean latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.modulation import LightweightGatedModulation
from diffkd_ros.model.schedule import time_embedding

PYRAMID = (3, 5, 5)  # gated blocks at strides 1, 2, 4 of the `faithful` denoiser, as in CoopDiff


class GatedBlock(nn.Module):
    """LGM on the condition and the optional time, then a residual dilated 3x3 convolution.

    Args:
        channels: channels of x and the condition; a multiple of 8.
        time_channels: channels of the time embedding; 0 for none.
        dilation: of the convolution.
    """

    def __init__(self, channels: int, time_channels: int, dilation: int) -> None:
        super().__init__()
        self.modulation = LightweightGatedModulation(channels, time_channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(8, channels)

    def forward(self, x: Tensor, condition: Tensor, time: Tensor | None = None) -> Tensor:
        """Process x (n, c, h, w) given a condition (n, c, h, w) and a time embedding (n or 1, t)."""
        x = self.modulation(x, condition, time)
        return x + functional.silu(self.norm(self.convolution(x)))


class TimeNetwork(nn.Module):
    """Diffusion times (n,) to the embeddings (n, channels) that all blocks share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed times in 0..999."""
        return self.layers(time_embedding(t, self.channels))


class EdgeDenoiser(nn.Module):
    """A stem, gated residual blocks with dilations 1, 2, 4, 1, ... and a linear head.

    Args:
        channels: channels of the latent and of every layer.
        blocks: number of gated blocks.
        timed: False omits the time: an estimator without diffusion, for comparison.
    """

    def __init__(self, channels: int, blocks: int, timed: bool = True) -> None:
        super().__init__()
        self.time = TimeNetwork(channels) if timed else None
        self.stem = nn.Conv2d(channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            GatedBlock(channels, channels if timed else 0, 2 ** (i % 3)) for i in range(blocks)
        )
        self.head = nn.Conv2d(channels, channels, 1)

    def forward(self, noisy: Tensor, t: Tensor | None, condition: Tensor) -> Tensor:
        """Predict the clean latent from a noisy one.

        Args:
            noisy: (n, c, h, w) latent at time t; the result has this shape.
            t: (n,) diffusion times in 0..999; ignored without time.
            condition: (n, c, h, w).
        """
        time = None if self.time is None else self.time(t)
        x = self.stem(noisy)
        for block in self.blocks:
            x = block(x, condition, time)
        return self.head(x)


class FaithfulDenoiser(nn.Module):
    """Gated blocks at strides 1, 2 and 4, merged by a pyramid.

    The layout follows CoopDiff (arXiv 2603.01688), by the same group; Diff-KD's own layers are not published.
    Height and width must be multiples of 4. The latent and all layers have the same number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = TimeNetwork(channels)
        self.stem = nn.Conv2d(channels, channels, 3, padding=1)
        self.levels = nn.ModuleList()
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, count in enumerate(PYRAMID):
            self.levels.append(nn.ModuleList(GatedBlock(channels, channels, 1) for _ in range(count)))
            scale = 2**level
            self.up.append(nn.ConvTranspose2d(channels, channels, scale, stride=scale))
            if level:
                self.down.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        self.head = nn.Conv2d(channels * len(PYRAMID), channels, 1)

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """As `EdgeDenoiser.forward`."""
        time = self.time(t)
        x = self.stem(noisy)
        merged = []
        for level, (blocks, up) in enumerate(zip(self.levels, self.up, strict=True)):
            if level:
                x, condition = self.down[level - 1](x), functional.avg_pool2d(condition, 2)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(x, condition, time)
            merged.append(up(x))
        return self.head(torch.cat(merged, dim=1))
