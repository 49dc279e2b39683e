# SPDX-License-Identifier: Apache-2.0
"""Frames before a scored one, whose messages may still be fused with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


def needed_frames(positions: Sequence[int], history: int) -> Iterator[tuple[int, bool]]:
    """Positions to run in order, and whether each is scored, with `history` frames before each scored one."""
    scored = set(positions)
    needed = sorted({p - back for p in scored for back in range(history + 1) if p - back >= 0})
    for position in needed:
        yield position, position in scored


def history_frames(max_age: float, rate: float = 10.0) -> int:
    """Number of frames within the greatest age, seconds, of a message that is fused."""
    return math.ceil(max_age * rate)
