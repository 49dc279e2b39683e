# SPDX-License-Identifier: Apache-2.0
"""The exception of the corruptions, and the check of their parameters."""

from __future__ import annotations

import math
from numbers import Real

from diffkd_ros.errors import DiffkdError


class CorruptionError(DiffkdError):
    """A corruption that is unknown, has invalid parameters, or does not apply to a sweep."""


def require_within(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Check that a parameter is a finite number in [low, high].

    Raises:
        CorruptionError: if it is not.
    """
    if not (isinstance(value, Real) and math.isfinite(value) and low <= value <= high):
        raise CorruptionError(f'{name} must be a number in [{low:g}, {high:g}], got {value!r}')
