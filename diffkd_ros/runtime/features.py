# SPDX-License-Identifier: Apache-2.0
"""The feature map an agent shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class BevFeature:
    """One agent's encoded sweep, in its own LiDAR frame.

    Attributes:
        feature: (channels, height, width) float32, zero where no point is near.
        density: (height, width) float32 log(1 + points in the cell); 0 where nothing was observed.
    """

    feature: NDArray[np.float32]
    density: NDArray[np.float32]

    @classmethod
    def empty(cls, channels: int, height: int, width: int) -> BevFeature:
        """The feature map of an agent that observed nothing."""
        return cls(np.zeros((channels, height, width), np.float32), np.zeros((height, width), np.float32))
