# SPDX-License-Identifier: Apache-2.0
"""Starts the processes of a Dask cluster on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patience import until

LOCAL = ('--host', '127.0.0.1', '--no-dashboard')


class DaskCluster:
    """A scheduler and workers that are not restarted when they end; test modules can be imported there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / 'scheduler.json'
        self.processes: list[subprocess.Popen] = []
        self.start('dask_scheduler', *LOCAL, '--port', '0', '--scheduler-file', str(self.file))
        until(self._started, 'the scheduler')

    def _started(self) -> bool:
        try:
            return 'address' in json.loads(self.file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    def worker(self, threads: int = 1, **environment: str) -> subprocess.Popen:
        """Start a worker, in another folder than that of the tests, and wait until it is connected."""
        from distributed import Client

        with Client(scheduler_file=str(self.file), set_as_default=False) as client:
            before = len(client.scheduler_info()['workers'])
            process = self.start(
                *('dask_worker', *LOCAL, '--scheduler-file', str(self.file), '--no-nanny'),
                *('--nthreads', str(threads), '--local-directory', str(self.folder)),
                **environment,
            )
            client.wait_for_workers(before + 1)
        return process

    def start(self, name: str, *options: str, **environment: str) -> subprocess.Popen:
        with (self.folder / f'{len(self.processes)}.log').open('w') as log:
            process = subprocess.Popen(
                [sys.executable, '-m', f'distributed.cli.{name}', *options],
                cwd=self.folder,
                env={**os.environ, 'PYTHONPATH': str(Path(__file__).parent), **environment},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[DaskCluster]:
    """A cluster of so many workers."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = DaskCluster(folder)
    try:
        for _ in range(workers):
            cluster.worker()
        yield cluster
    finally:
        cluster.stop()
