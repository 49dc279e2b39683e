# SPDX-License-Identifier: Apache-2.0
"""The exception of the corruptions, and the check of their parameters."""

from __future__ import annotations

import math
from numbers import Real

from diffkd_ros.errors import DiffkdError


class CorruptionError(DiffkdError):
    """A corruption that is unknown, has invalid parameters, or does not apply to a sweep."""


def require_within(low: float, high: float = math.inf, **values: float) -> None:
    """Check that parameters, given by name, are finite numbers in [low, high].

    Raises:
        CorruptionError: if one is not; the message names it.
    """
    for name, value in values.items():
        if not (isinstance(value, Real) and math.isfinite(value) and low <= value <= high):
            raise CorruptionError(f'{name} must be a number in [{low:g}, {high:g}], got {value!r}')
