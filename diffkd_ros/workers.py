# SPDX-License-Identifier: Apache-2.0
"""Workers that run jobs, as processes that end with this one; and the processors it may use.

`diffkd_ros.cluster` has workers of the same interface on other machines. Dask's local cluster could replace
the processes of this module. But two of its workers take 1.6 s to start, not 0.2 s, they listen on ports, and
13 more packages (33 MB) would be required for `diffkd evaluate`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any, Protocol, TypeVar

from diffkd_ros.errors import DiffkdError

# A forked child of a process with threads (ONNX Runtime's, rclpy's) may hang.
_CONTEXT: SpawnContext = multiprocessing.get_context('spawn')
POLL = 0.2
"""Seconds between progress updates."""

Job = TypeVar('Job')
JobT = TypeVar('JobT', contravariant=True)
Result = TypeVar('Result')
ResultT = TypeVar('ResultT', covariant=True)
Advance = Callable[[int], None]
"""Called by a job, often, with the units of work done since the last call; raises `Stopped`."""


class Stopped(Exception):  # noqa: N818
    """The result of the job is no longer wanted."""


class Task(Protocol[JobT, ResultT]):
    """What is done with each job. Task, jobs and results are pickled."""

    def __call__(self, job: JobT, advance: Advance) -> ResultT:
        """Run a job."""

    def elsewhere(self) -> Task[JobT, ResultT]:
        """The same task for processes of other machines, with other working folders."""

    def prepare(self) -> None:
        """Called there in each process before its first job of a run.

        Raises:
            DiffkdError: if the machine lacks something that the task needs.
        """


class Workers(Protocol):
    """Runs jobs, several at a time."""

    @property
    def number(self) -> int:
        """How many jobs run at a time."""

    def run(
        self,
        task: Task[Job, Result],
        jobs: Sequence[Job],
        keep: Callable[[Result], None],
        progress: Callable[[int], None],
    ) -> None:
        """Run jobs.

        Args:
            task: what is done with a job.
            jobs: each is run once; those that are not finished when a worker ends may be run again.
            keep: called with each result, in any order.
            progress: called repeatedly with the units of work done.

        Raises:
            DiffkdError: if a worker fails.
            Exception: the first one that a job raises; the other jobs are stopped.
        """


@dataclass(frozen=True, slots=True)
class LocalWorkers:
    """Processes on this machine; a single worker is this process itself."""

    number: int

    def run(
        self,
        task: Task[Job, Result],
        jobs: Sequence[Job],
        keep: Callable[[Result], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `Workers.run`. After an error or an interruption it returns when all processes have ended."""
        if self.number == 1:
            done = 0

            def advance(units: int) -> None:
                nonlocal done
                done += units
                progress(done)

            for job in jobs:
                keep(task(job, advance))
            return
        counter, stop = _CONTEXT.Value('q', 0), _CONTEXT.Event()
        with worker_pool(self.number, _Shared.start, (counter, stop)) as pool:
            running: set[Future[Result]] = {pool.submit(_run, task, job) for job in jobs}
            try:
                while running:
                    finished, running = wait(running, POLL, FIRST_COMPLETED)
                    for future in finished:
                        keep(future.result())
                    progress(counter.value)
            except BaseException:
                stop.set()
                raise


HERE = LocalWorkers(1)
"""This process."""


class _Shared:
    """Shared by worker processes and their parent: the units of work done, and whether the run is stopped."""

    counter: Any
    stop: Any

    @classmethod
    def start(cls, counter: Any, stop: Any) -> None:
        cls.counter, cls.stop = counter, stop

    @classmethod
    def advance(cls, units: int) -> None:
        if cls.stop.is_set():
            raise Stopped
        with cls.counter.get_lock():
            cls.counter.value += units


def _run(task: Task[Job, Result], job: Job) -> Result:
    return task(job, _Shared.advance)


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
    with ProcessPoolExecutor(workers, _CONTEXT, _start, (start, arguments)) as pool:
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
