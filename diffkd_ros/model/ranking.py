# SPDX-License-Identifier: Apache-2.0
"""The order in which a vehicle sends the tiles of its map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.codebook import TILE

HIDDEN = 32


class TileRanking(nn.Module):
    """Predicts what the codes of each tile are worth to a receiver.

    Before training, tiles rank by the highest score of the sender's own heat map in and around them; training
    adds what the feature map says.

    Args:
        channels: of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tiles = nn.Conv2d(channels + 2, HIDDEN, TILE, stride=TILE)
        self.around = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.worth = nn.Conv2d(HIDDEN, 1, 1)
        nn.init.zeros_(self.worth.weight)
        assert self.worth.bias is not None
        nn.init.zeros_(self.worth.bias)

    def forward(self, normal: Tensor, occupied: Tensor, heatmap: Tensor) -> Tensor:
        """Benefit (n, 1, h / 4, w / 4), at least 0, of the tiles.

        Args:
            normal: (n, c, h, w) normalised features.
            occupied: (n, 1, h, w) 0 in empty cells, else 1.
            heatmap: (n, 1, h, w) logits of the sender's own detections.
        """
        peak = functional.max_pool2d(heatmap, TILE + 2, stride=TILE, padding=1)
        maps = torch.cat((normal * occupied, occupied, torch.sigmoid(heatmap)), dim=1)
        seen = functional.silu(self.around(functional.silu(self.tiles(maps))))
        return functional.softplus(peak + self.worth(seen))
