# SPDX-License-Identifier: Apache-2.0
"""The one exception of this room."""

from __future__ import annotations

import math
from numbers import Real

from diffkd_ros.errors import DiffkdError


class CorruptionError(DiffkdError):
    """A corruption that does not exist, has other parameters, or cannot do its work on this sweep."""


def require_within(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a parameter outside [low, high].

    Raises:
        CorruptionError: if it is, or if it is not a finite number.
    """
    if not (isinstance(value, Real) and math.isfinite(value) and low <= value <= high):
        raise CorruptionError(f'{name} must be a number in [{low:g}, {high:g}], got {value!r}')
