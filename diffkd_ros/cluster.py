# SPDX-License-Identifier: Apache-2.0
"""Workers that are the processes of a running Dask cluster.

Dask rather than Ray: dask-jobqueue starts it from Slurm and PBS, and it is Python but for two small packages,
while the wheel of Ray has 79 MB.

The process that starts a run writes the results. Workers read the data set and the model at the same paths as
that process. Refused are workers with other versions of anything that figures depend on, and those that run
several jobs in one process: models and open recordings are not safe for threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar
from uuid import uuid4

from distributed import Client, Future, KilledWorker, Reschedule, Worker, get_worker

from diffkd_ros import __version__
from diffkd_ros.documents import read_json_object, user_path
from diffkd_ros.errors import DiffkdError, missing_extra
from diffkd_ros.workers import POLL, Job, Result, Stopped, Task

_CONNECT = 10  # seconds within which a scheduler must answer
_TOPIC = 'diffkd_ros'
_INSTALL = 'install the version of diffkd_ros that is used here'
_ADDRESS = re.compile(r'(tcp|tls|wss?)://([^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}')
# Figures may depend on them.
_MODULES = ('numba', 'numpy', 'onnxruntime')

Versions = Mapping[str, str]


class ClusterWorkers:
    """The workers of a cluster.

    Args:
        client: connected to its scheduler.

    Raises:
        DiffkdError: if there is no worker, or one that cannot be used.
    """

    def __init__(self, client: Client) -> None:
        assert client.scheduler is not None, 'it is connected'
        self._client, self._address = client, str(client.scheduler.address)
        try:
            # The scheduler unpickles names of functions.
            client.run_on_scheduler(_versions)
        except Exception as error:
            raise DiffkdError(f'scheduler {self._address}: {_INSTALL}: {error}') from error
        answers = client.run(_refusal, _versions(), on_error='return')
        if not answers:
            raise DiffkdError(f'the cluster at {self._address} has no workers: start some by `dask worker`')
        for worker, answer in sorted(answers.items()):
            if answer is not None:
                reason = f'{_INSTALL}: {answer}' if isinstance(answer, Exception) else answer
                raise DiffkdError(f'worker {worker}: {reason}')
        self.number = len(answers)

    def run(
        self,
        task: Task[Job, Result],
        jobs: Sequence[Job],
        keep: Callable[[Result], None],
        progress: Callable[[int], None],
    ) -> None:
        """See `Workers.run`. Workers that join later are used too, and jobs of those that end run again."""
        run, versions, portable = uuid4().hex, _versions(), task.elsewhere()
        # The units of a job that is run again count once.
        done: dict[str, int] = {}
        running: dict[str, Future] = {}
        finished: SimpleQueue[Future] = SimpleQueue()

        def on_event(event: tuple[float, tuple[str, int]]) -> None:
            name, units = event[1]
            if name in running:
                done[name] = units

        self._client.subscribe_topic(_TOPIC, on_event)
        try:
            for number, job in enumerate(jobs):
                name = f'diffkd-{run}-{number}'
                content = pickle.dumps((portable, job))
                future = self._client.submit(_run, versions, run, name, content, key=name, pure=False)
                running[name] = future
                future.add_done_callback(finished.put)
            while running:
                try:
                    future = finished.get(timeout=POLL)
                except Empty:
                    pass
                else:
                    result, units = self._result(future)
                    done[str(future.key)] = units
                    keep(result)
                    del running[str(future.key)]
                progress(sum(done.values()))
        finally:
            self._client.cancel(list(running.values()), force=True)
            self._client.unsubscribe_topic(_TOPIC)

    def _result(self, future: Future) -> Any:
        try:
            return future.result()
        except KilledWorker as error:
            raise DiffkdError(
                f'a job was run again until it had ended several workers, the last one '
                f'{error.last_worker.address}, possibly for lack of memory'
            ) from error
        except ModuleNotFoundError as error:
            raise DiffkdError(f'a worker of {self._address}: {missing_extra(error) or error}') from error
        except CancelledError as error:
            raise DiffkdError(
                f'the scheduler at {self._address} has ended or dropped the jobs; the same command continues'
            ) from error


@contextmanager
def cluster_workers(place: str) -> Iterator[ClusterWorkers]:
    """Connect to a cluster.

    Args:
        place: address of its scheduler, as in `tcp://host:8786`, or its scheduler file.

    Raises:
        DiffkdError: if no scheduler answers there, there is no worker, or one that cannot be used.
    """
    address = _scheduler_address(place)
    try:
        client = Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, OverflowError) as error:
        raise DiffkdError(f'no Dask scheduler answers at {address}') from error
    # It would print tracebacks of errors that are raised here.
    logging.getLogger('distributed.client').setLevel(logging.CRITICAL)
    with client:
        yield ClusterWorkers(client)


def _scheduler_address(place: str) -> str:
    if _ADDRESS.fullmatch(place):
        return place
    path = user_path(place)
    if not os.path.isfile(path):
        raise DiffkdError(
            f'{place} is neither the address of a Dask scheduler, such as tcp://host:8786, nor its '
            'scheduler file'
        )
    address = str(read_json_object(path).get('address'))
    if not _ADDRESS.fullmatch(address):
        raise DiffkdError(f'{path}: not a scheduler file, its address is {address[:80]!r}')
    return address


class _Process:
    """State of a worker process: the run that it is prepared for."""

    run: ClassVar[str] = ''


def _run(versions: Versions, run: str, name: str, content: bytes) -> tuple[Any, int]:
    """Run the job of a name in a worker. Returns its result and the units of work done."""
    worker, done = get_worker(), 0

    def advance(units: int) -> None:
        nonlocal done
        # Also if the process that started the run has ended.
        state = worker.state.tasks.get(name)
        if state is None or state.state == 'cancelled':
            raise Stopped
        if units:
            done += units
            worker.log_event(_TOPIC, (name, done))

    try:
        if (refusal := _refusal(versions, worker)) is not None:
            raise DiffkdError(refusal)
        task, job = pickle.loads(content)
        if _Process.run != run:
            task.prepare()
            _Process.run = run
    except (DiffkdError, ModuleNotFoundError) as error:
        reason = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
        raise DiffkdError(f'worker {worker.address}: {reason or error}') from error
    try:
        return task(job, advance), done
    except Stopped as error:
        # Ignored, unless the scheduler has asked for the job again in the meantime.
        raise Reschedule from error


def _refusal(versions: Versions, dask_worker: Worker) -> str | None:
    """Why a worker cannot be used; None if it can. Dask passes the worker to a parameter of this name."""
    if (threads := dask_worker.state.nthreads) != 1:
        return (
            f'it runs {threads} jobs at a time in one process; start it with `--nthreads 1`, and with '
            '`--nworkers` for several processes'
        )
    differing = [
        f'{name} {found}, here {versions.get(name)}'
        for name, found in _versions().items()
        if found != versions.get(name)
    ]
    return f'it has {"; ".join(differing)}' if differing else None


@cache
def _versions() -> Versions:
    """What must be the same in all processes, for the same results."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        name = path.relative_to(package).as_posix()
        # Messages are generated when the package is built for ROS.
        if not name.startswith('msg/'):
            digest.update(name.encode() + path.read_bytes())
    return {
        'diffkd_ros': f'{__version__} (sources {digest.hexdigest()[:12]})',
        'Python': f'{sys.version_info.major}.{sys.version_info.minor}',
        **{name: import_module(name).__version__ for name in _MODULES},
    }
