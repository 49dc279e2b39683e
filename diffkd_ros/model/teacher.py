# SPDX-License-Identifier: Apache-2.0
"""The holistic-view teacher: one network that saw all agents' clean clouds at once. Training only."""

from __future__ import annotations

from torch import Tensor, nn

from diffkd_ros.model.fusion import warp
from diffkd_ros.model.head import CentreHead
from diffkd_ros.model.modulation import LightweightGatedModulation
from diffkd_ros.model.student import StudentConfig


class Teacher(nn.Module):
    """The student's encoder and head on the union cloud, with LGM on the global feature (paper's Fig. 1)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.vectors = config.vectors
        self.encoder = config.make_encoder()
        self.modulation = LightweightGatedModulation(config.channels)
        self.head = CentreHead(config.channels, config.head_channels)

    def forward(
        self, points: Tensor, cloud: Tensor, clouds: int, views: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect on union clouds.

        Args:
            points: (p, 4) every agent's points in its ego's LiDAR frame, or in that of `views`.
            cloud: (p,) int64 frame of each point.
            clouds: number of frames.
            views: (clouds, 2, 3) ego's normalised grid coordinates to those of the points, to have the maps
                resampled in the egos' grids; by default they lie there already.

        Returns:
            feature (n, c, h, w) after modulation, density (n, 1, h, w), heat map logits, regression.
        """
        feature, density = self.encoder(points, cloud, clouds)
        if views is not None:
            feature, density = warp(feature, views, self.vectors), warp(density, views)
        feature = self.modulation(feature, feature)
        return feature, density, *self.head(feature)
