# SPDX-License-Identifier: Apache-2.0
"""Worker processes that end with this one, and the processors it may use."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from typing import Any

from diffkd_ros.errors import DiffkdError

# A forked child of a process with threads (ONNX Runtime's, rclpy's) may hang.
CONTEXT: SpawnContext = multiprocessing.get_context('spawn')
"""For values and events that workers share with this process."""


def usable_cores() -> int:
    """Number of processors that this process may use, at least 1."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[ProcessPoolExecutor]:
    """Processes that run jobs. If the block is left by an exception, no further job is started.

    Args:
        workers: number of processes.
        start: called first in each process; a function of a module.
        arguments: of `start`.

    Raises:
        DiffkdError: if a process is killed.
    """
    with ProcessPoolExecutor(workers, CONTEXT, _start, (start, arguments)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise DiffkdError(
                f'a worker process was killed, possibly for lack of memory: use fewer workers than {workers}'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # A terminal interrupts this process and its parent, which lets the workers finish their jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
