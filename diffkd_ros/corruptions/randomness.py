# SPDX-License-Identifier: Apache-2.0
"""Random generators that depend on the purpose of a draw and not on the order of draws."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator for a seed and a key, the same on every machine and in every process.

    Args:
        seed: of the experiment.
        key: purpose of the draws, such as (corruption, scenario, frame, agent).
    """
    # The repr of NumPy's integers differs from Python's and between versions of NumPy.
    plain = [part if isinstance(part, str) else int(part) for part in (seed, *key)]
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, 'little'))
