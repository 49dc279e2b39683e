# SPDX-License-Identifier: Apache-2.0
"""The holistic-view teacher: one network on the union of all agents' clean clouds, used in training only."""

from __future__ import annotations

from torch import Tensor, nn

from diffkd_ros.model.fusion import warp
from diffkd_ros.model.head import CentreHead
from diffkd_ros.model.modulation import LightweightGatedModulation
from diffkd_ros.model.student import StudentConfig


class Teacher(nn.Module):
    """The student's encoder and head on the union cloud, with LGM on the global feature (Diff-KD, Fig. 1)."""

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
            points: (p, 4) x, y, z, intensity of all agents, in the frame's ego's LiDAR frame unless `views`
                is given.
            cloud: (p,) int64 index of each point's frame.
            clouds: number of frames.
            views: (clouds, 2, 3) affine maps from the ego's normalised grid coordinates to those of the
                points; the maps are resampled to the ego's grid. None if the two are the same.

        Returns:
            Feature (clouds, c, h, w) after modulation, density (clouds, 1, h, w), heat map logits
            (clouds, 1, h, w), regression (clouds, 8, h, w), all in the ego's grid.
        """
        feature, density = self.encoder(points, cloud, clouds)
        if views is not None:
            feature, density = warp(feature, views, self.vectors), warp(density, views)
        feature = self.modulation(feature, feature)
        return feature, density, *self.head(feature)
