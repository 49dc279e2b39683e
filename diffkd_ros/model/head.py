# SPDX-License-Identifier: Apache-2.0
"""Centre-based detection head (CenterPoint, Yin et al., CVPR 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from diffkd_ros.model.backbone import conv_block

REGRESSION = 8  # x and y offset in cells, z in metres, log length, width, height, sin and cos of yaw


class CentreHead(nn.Module):
    """One heat map of box centres and eight regressed values per cell.

    Args:
        channels: channels of the fused map.
        hidden: channels of the shared convolution.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.shared = conv_block(channels, hidden)
        self.heatmap = nn.Conv2d(hidden, 1, 1)
        self.regression = nn.Conv2d(hidden, REGRESSION, 1)
        assert self.heatmap.bias is not None
        nn.init.constant_(self.heatmap.bias, -2.19)  # logit of a prior probability of 0.1, for the focal loss

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Fused map (n, c, h, w) to heat map logits (n, 1, h, w) and regression (n, 8, h, w)."""
        shared = self.shared(fused)
        return self.heatmap(shared), self.regression(shared)
