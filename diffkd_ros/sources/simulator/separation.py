# SPDX-License-Identifier: Apache-2.0
"""Checks that the vehicles of a scene never overlap."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def first_overlap(motion: NDArray[np.float64], sizes: NDArray[np.float64]) -> int:
    """First frame in which the footprints of two vehicles overlap, or -1.

    Args:
        motion: (frames, n, 3) map x, y and yaw of the centres of the footprints.
        sizes: (n, 2) lengths and widths, metres.
    """
    return int(_first_overlap(motion, sizes, np.hypot(sizes[:, 0], sizes[:, 1]) / 2))


@njit(cache=True, nogil=True, error_model='numpy')
def _first_overlap(
    motion: NDArray[np.float64], sizes: NDArray[np.float64], radius: NDArray[np.float64]
) -> int:
    frames, n, _ = motion.shape
    for frame in range(frames):
        for a in range(n):
            for b in range(a):
                dx = motion[frame, b, 0] - motion[frame, a, 0]
                dy = motion[frame, b, 1] - motion[frame, a, 1]
                reach = radius[a] + radius[b]
                if dx * dx + dy * dy > reach * reach:
                    continue
                yaw_a = motion[frame, a, 2]
                yaw_b = motion[frame, b, 2]
                apart = False
                for k in range(4):
                    axis = (yaw_a if k < 2 else yaw_b) + (k % 2) * np.pi / 2
                    span = (
                        sizes[a, 0] * abs(np.cos(axis - yaw_a))
                        + sizes[a, 1] * abs(np.sin(axis - yaw_a))
                        + sizes[b, 0] * abs(np.cos(axis - yaw_b))
                        + sizes[b, 1] * abs(np.sin(axis - yaw_b))
                    ) / 2
                    if abs(dx * np.cos(axis) + dy * np.sin(axis)) >= span:
                        apart = True
                        break
                if not apart:
                    return frame
    return -1
