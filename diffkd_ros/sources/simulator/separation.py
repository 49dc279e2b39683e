# SPDX-License-Identifier: Apache-2.0
"""Overlap of rectangles on the ground: buildings that are placed, and vehicles that move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel


@kernel
def overlap(
    dx: float, dy: float, yaw_a: float, length_a: float, width_a: float, yaw_b: float, length_b: float,
    width_b: float,
) -> bool:  # fmt: skip
    """Whether two rectangles overlap, by the separating-axis test; dx, dy lead from centre a to centre b."""
    for axis in (yaw_a, yaw_a + np.pi / 2, yaw_b, yaw_b + np.pi / 2):
        reach = (
            length_a * abs(np.cos(axis - yaw_a))
            + width_a * abs(np.sin(axis - yaw_a))
            + length_b * abs(np.cos(axis - yaw_b))
            + width_b * abs(np.sin(axis - yaw_b))
        ) / 2
        if abs(dx * np.cos(axis) + dy * np.sin(axis)) >= reach:
            return False
    return True


@kernel
def ever_overlap(motion: NDArray[np.float64], sizes: NDArray[np.float64], apart: int) -> bool:
    """Whether the footprints of two vehicles overlap in any frame.

    Args:
        motion: (frames, n, 3) map x, y and yaw of the centres of the footprints.
        sizes: (n, 2) lengths and widths, metres.
        apart: so many of the first vehicles are known not to overlap each other.
    """
    frames, n, _ = motion.shape
    radius = np.hypot(sizes[:, 0], sizes[:, 1]) / 2
    for frame in range(frames):
        for a in range(n):
            for b in range(a if a >= apart else 0):
                dx = motion[frame, b, 0] - motion[frame, a, 0]
                dy = motion[frame, b, 1] - motion[frame, a, 1]
                reach = radius[a] + radius[b]
                if dx * dx + dy * dy <= reach * reach and overlap(
                    dx, dy, motion[frame, a, 2], sizes[a, 0], sizes[a, 1], motion[frame, b, 2], sizes[b, 0],
                    sizes[b, 1],
                ):  # fmt: skip
                    return True
    return False
