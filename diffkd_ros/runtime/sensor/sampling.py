# SPDX-License-Identifier: Apache-2.0
"""A sample of a sweep's returns, so that the checks cost the same for every LiDAR."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 5000
# Fixed, so that a replay gives the same results.
_JITTER = np.random.default_rng(0).random(MOST)


def sample(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most `MOST` returns, one drawn from each of as many equal parts of the sweep.

    Not every n-th return, which would pick the same rings of an organised cloud.

    Args:
        points: (n, 3 or more).
    """
    if len(points) <= MOST:
        return points
    return points[((np.arange(MOST) + _JITTER) * (len(points) / MOST)).astype(np.int64)]
