# SPDX-License-Identifier: Apache-2.0
"""What a vehicle computes in order to send."""

from __future__ import annotations

from torch import Tensor, nn

from diffkd_ros.model.codebook import Coded, MapCodec
from diffkd_ros.model.head import CentreHead
from diffkd_ros.model.modulation import LightweightGatedModulation, Unmodulated
from diffkd_ros.model.ranking import TileRanking


class Sender(nn.Module):
    """What a vehicle computes of its feature map in order to send it: own detections, codes and their rank.

    Detection is that of a student without neighbours, whose weights it copies.

    Args:
        channels: of the feature map.
        head_channels: of the head's convolution.
        modulation: whether the student's fusion has LGM.
        codec: of the feature map.
    """

    def __init__(self, channels: int, head_channels: int, modulation: bool, codec: MapCodec) -> None:
        super().__init__()
        self.modulation = (LightweightGatedModulation if modulation else Unmodulated)(channels)
        self.head = CentreHead(channels, head_channels)
        self.codec = codec
        self.ranking = TileRanking(channels)

    def detect(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Heat map logits (n, 1, h, w) and regression (n, 8, h, w) from own features (n, c, h, w)."""
        return self.head(self.modulation(feature, feature))

    def forward(
        self, feature: Tensor, normal: Tensor, occupied: Tensor
    ) -> tuple[Tensor, Tensor, Coded, Tensor]:
        """Detect, code and rank.

        Args:
            feature: (n, c, h, w) own map.
            normal: (n, c, h, w) the same, normalised.
            occupied: (n, 1, h, w) 0 in empty cells, else 1.

        Returns:
            Heat map and regression as from `detect`, the codes, and the tiles' benefit as from `ranking`.
        """
        heatmap, regression = self.detect(feature)
        return heatmap, regression, self.codec(normal, occupied), self.ranking(normal, occupied, heatmap)
