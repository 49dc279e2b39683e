# SPDX-License-Identifier: Apache-2.0
"""What this machine computes and copies at most, which no implementation of a network can exceed.

BLAS takes its number of threads from the environment when it is loaded, so this module also runs as a
program: `python -m diffkd_ros.benchmark.floor THREADS` prints its results as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from diffkd_ros.benchmark.clock import Job

ARITHMETIC, COPY = 'peak arithmetic GFLOP/s', 'memory copy GB/s'
_EDGE = 2048  # of the matrices
_COPIED = 1 << 28  # bytes, more than caches hold
_RUNS = 10
_THREADS_OF_BLAS = 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'


def measure(threads: int) -> dict[str, float]:
    """The most of ten runs in a process of its own.

    Returns:
        `ARITHMETIC`: 10^9 operations a second of a product of float32 matrices, where a multiply-add is two.
        `COPY`: 10^9 bytes a second that are read and written, as in the STREAM benchmark.
    """
    environment = os.environ | dict.fromkeys(_THREADS_OF_BLAS, str(threads))
    command = [sys.executable, '-m', __name__, str(threads)]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def _least_s(job: Job) -> float:
    durations = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        job()
        durations.append(time.perf_counter() - started)
    return min(durations)


def _arithmetic() -> float:
    left, right = np.random.default_rng(0).random((2, _EDGE, _EDGE), np.float32)
    product = np.empty_like(left)
    return 2 * _EDGE**3 / 1e9 / _least_s(lambda: np.matmul(left, right, out=product))


def _copy(threads: int) -> float:
    # Written before, so that the pages are there.
    source, target = (np.full(_COPIED, value, np.uint8) for value in (1, 0))
    parts = [np.array_split(each, threads) for each in (target, source)]
    with ThreadPoolExecutor(threads) as pool:
        return 2 * _COPIED / 1e9 / _least_s(lambda: list(pool.map(np.copyto, *parts)))


if __name__ == '__main__':
    print(json.dumps({ARITHMETIC: _arithmetic(), COPY: _copy(int(sys.argv[1]))}))
