# SPDX-License-Identifier: Apache-2.0
"""The classic design with random weights, in torch's eager mode on a CPU; no other module here uses torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.model.classic import ClassicEgo, ClassicEncoder


class ClassicDesign:
    """`ClassicEncoder` and `ClassicEgo` on the pillars of a model, whose cells are twice as large.

    Args:
        grid: of the model's feature map.
        threads: CPU threads of torch.
    """

    def __init__(self, grid: BevGrid, threads: int) -> None:
        torch.set_num_threads(threads)
        self._grid = grid
        self._encoder, self._ego = ClassicEncoder(grid.range, grid.cell / 2).eval(), ClassicEgo().eval()
        # The maps have this layout, since pillars are rows of channels. With weights in another one, torch
        # takes eight times as long for the head.
        for part in (self._encoder, self._ego):
            convert_conv2d_weight_memory_format(part, torch.channels_last)

    @torch.inference_mode()
    def encode(self, points: NDArray[np.float32]) -> Tensor:
        """Map (c, height, width) of points (n, 4) of x, y, z in metres, intensity, of those in range."""
        return self._encoder(torch.from_numpy(points[self._grid.contains(points)]))[0]

    @torch.inference_mode()
    def detect(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores and boxes, as of `ClassicEgo`, from maps that are taken to be in the ego's grid."""
        return self._ego(maps)
