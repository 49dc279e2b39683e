# SPDX-License-Identifier: Apache-2.0
"""Random draws that depend on what they are for, not on the order in which they are asked for."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator of its own for each seed and key; the same on every machine and in every process.

    Args:
        seed: of the whole experiment.
        key: what the draws are for, such as (corruption, scenario, frame, agent).
    """
    # NumPy's integers print differently from Python's, and differently in each NumPy.
    plain = [part if isinstance(part, str) else int(part) for part in (seed, *key)]
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, 'little'))
