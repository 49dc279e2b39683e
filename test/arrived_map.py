# SPDX-License-Identifier: Apache-2.0
"""What a receiver has of a map, from what training says of its arrival."""

from __future__ import annotations

import numpy as np
import torch

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.training.link import Arrival, Sent


def as_received(sent: Sent, arrival: Arrival, agent: int, boxes: Boxes3D | None) -> ReceivedMap:
    def over_cells(tiles: torch.Tensor) -> np.ndarray:
        return tiles.repeat_interleave(4, -2).repeat_interleave(4, -1).numpy() > 0

    fine = np.where(over_cells(arrival.levels[agent]), sent.coded.codes.fine[agent].numpy(), -1)
    fine[1:] = np.where((fine[:1] == 0) & (fine[1:] >= 0), 0, fine[1:])
    coarse = np.where(arrival.coarse[agent, 0].numpy() > 0, sent.coded.codes.coarse[agent].numpy(), -1)
    return ReceivedMap(boxes, coarse.astype(np.int16), fine.astype(np.int16), {})
