# SPDX-License-Identifier: Apache-2.0
"""Writes results as standard JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from diffkd_ros.files import write_text


def _plain(value: object) -> object:
    """The value with None for numbers that are not finite, which JSON cannot represent."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: object) -> None:
    """Write a nested structure of dicts, lists, strings and numbers, indented.

    Raises:
        DiffkdError: if the file cannot be written; an earlier one is then unchanged.
    """
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')
