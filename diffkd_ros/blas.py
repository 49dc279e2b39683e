# SPDX-License-Identifier: Apache-2.0
"""The threads of NumPy's matrix products."""

from __future__ import annotations

import os


def use_one_thread() -> None:
    """Keep OpenBLAS, which NumPy has not loaded yet, to one thread, unless the environment says otherwise.

    The products here are small: with a thread a core, waiting for each other, they take three times the
    processor time, and several times as long where other processes need the cores.
    """
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
