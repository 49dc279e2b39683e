# SPDX-License-Identifier: Apache-2.0
"""Whether the returns of a sweep are scattered, as by vibration, fog or snow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Metres. Roads have about 0.01.
_SCATTERED = 0.06
_NEAR = 15
# The vehicle itself may be within these.
_OWN = 3
# Returns in a square metre, and such squares, from which the scatter is known: with fewer there is little but
# objects, the sides of which are scattered in height.
_RETURNS = 3
_SQUARES = 120


def scatter(points: NDArray[np.float32]) -> str | None:
    """Check a sweep by the scatter of its returns in height, in squares of a metre on the ground nearby.

    In most squares of a street some returns are of the road alone, so the fifth of the squares with the
    smallest scatter decides.

    Args:
        points: (n, 3 or more) a sample of its returns.

    Returns:
        What is wrong; empty if nothing is, None if that is not known.
    """
    x, y, z = points.T[:3]
    distance = np.maximum(np.abs(x), np.abs(y))
    near = (distance > _OWN) & (distance < _NEAR) & (z < 0)
    column, row = (np.floor(axis[near]).astype(np.int64) + _NEAR for axis in (x, y))
    square, height = column * 2 * _NEAR + row, z[near].astype(np.float64)
    count = np.bincount(square)
    enough = count >= _RETURNS
    if enough.sum() < _SQUARES:
        return None
    count = count[enough]
    mean = np.bincount(square, height)[enough] / count
    variance = np.bincount(square, height**2)[enough] / count - mean**2
    variance *= count / (count - 1)
    fifth = len(variance) // 5
    deviation = float(np.sqrt(max(0.0, np.partition(variance, fifth)[fifth])))
    return f'by {deviation:.2f} m in height' if deviation > _SCATTERED else ''
