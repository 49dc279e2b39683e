# SPDX-License-Identifier: Apache-2.0
"""Worker processes and the processors that a process may use."""

import os
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE, until

from diffkd_ros.errors import DiffkdError
from diffkd_ros.workers import worker_pool


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='no affinity here')
def test_only_the_processors_that_may_be_used_are_counted():
    code = 'from diffkd_ros.cli.verbs import all_cores; print(all_cores(0), all_cores(7))'
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
    )
    assert done.stdout == '1 7\n', done.stderr


def nothing():
    """Starts a worker."""


def killed_at_work():
    with worker_pool(1, nothing, ()) as pool:
        process = pool.submit(os.getpid).result(PATIENCE)
        job = pool.submit(time.sleep, PATIENCE)
        os.kill(process, signal.SIGKILL)
        job.result(PATIENCE)


def test_a_killed_worker_is_an_error_of_one_line():
    with pytest.raises(DiffkdError, match=r'worker process was killed.*fewer workers than 1'):
        killed_at_work()


def test_workers_end_with_a_killed_parent():
    code = """
import os, time
from diffkd_ros.workers import worker_pool
if __name__ == '__main__':
    with worker_pool(1, os.getpid, ()) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 3600).result()
"""
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until(lambda: not running(worker), 'the end of the worker')


def running(process):
    """Returns whether the process runs, and is not a zombie."""
    try:
        with open(f'/proc/{process}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False
