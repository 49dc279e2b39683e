# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes of their own, as `ros2 launch` would start them, where no `launch` is installed.

It imports no ROS. Every process is its own group and dies with its parent, so none is left behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

import diffkd_ros
from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.graph import NodeSpec

# Ctrl-C promises an end within 3 s.
PATIENCE = 2.5
_TAIL = 15
_PR_SET_PDEATHSIG = 1


class NodeFailedError(DiffkdError):
    """A node's process ended before it should, or did not become ready."""


class NodeProcess:
    """One running node.

    Args:
        spec: what to run.
        params_file: the parameter file all nodes share.
        logs: folder for its log and its own parameters.
        label: name of the log; the spec's by default.
        environment: of the process.
        niceness: added to its scheduling priority; the higher, the more it yields to the others.
    """

    def __init__(
        self,
        spec: NodeSpec,
        params_file: Path,
        logs: Path,
        *,
        label: str = '',
        environment: Mapping[str, str] | None = None,
        niceness: int = 0,
    ) -> None:
        self.label = label or spec.label
        self.latest = ''
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._ready = threading.Event()
        own = logs / f'{self.label}.yaml'
        node = f'{spec.namespace.rstrip("/")}/{spec.executable}'
        own.write_text(yaml.safe_dump({node: {'ros__parameters': dict(spec.parameters)}}))
        command = [sys.executable, '-m', f'diffkd_ros.{spec.package}.{spec.executable}', '--ros-args']
        command += ['-r', f'__ns:={spec.namespace}']
        for remapping in spec.remappings:
            command += ['-r', ':='.join(remapping)]
        # The later file wins, if only its names are as specific: the shared one has wildcards.
        command += ['--params-file', str(params_file.resolve())]
        if spec.parameters:
            command += ['--params-file', str(own.resolve())]
        self._log = (logs / f'{self.label}.log').open('w')
        self._process = subprocess.Popen(
            command,
            cwd=logs,
            env=child_environment(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
            preexec_fn=lambda: in_child(niceness),
        )
        self._reader = threading.Thread(target=self._read, name=f'log {self.label}', daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log:
            for line in self._process.stdout:
                self._log.write(line)
                self._log.flush()
                # rclpy prints [INFO] [time] [node]: text
                text = line.rstrip().rpartition(']: ')[2]
                self._tail.append(line.rstrip())
                self.latest = text
                if text.startswith('ready'):
                    self._ready.set()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def is_ready(self) -> bool:
        """Whether it has logged that it is ready."""
        return self._ready.is_set()

    def tail(self) -> str:
        """The last lines of its log."""
        self._reader.join(0.5)
        return '\n'.join(self._tail)

    def signal(self, number: int) -> None:
        """Send a signal to the process group; none if it has ended."""
        if self.returncode is None:
            os.killpg(self._process.pid, number)

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False if it still runs."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


class NodeGroup:
    """The processes of one set-up; leaving the context ends them all."""

    def __init__(self, params_file: Path, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        self._params_file, self._logs, self._environment = params_file, logs, environment
        self._processes: list[NodeProcess] = []

    def __enter__(self) -> NodeGroup:
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C must not interrupt the clean-up after the first.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop(self._processes)
        finally:
            signal.signal(signal.SIGINT, previous)

    def start(self, spec: NodeSpec, label: str = '', niceness: int = 0) -> NodeProcess:
        """Start a node."""
        process = NodeProcess(
            spec,
            self._params_file,
            self._logs,
            label=label,
            environment=self._environment,
            niceness=niceness,
        )
        self._processes.append(process)
        return process

    def check(self) -> None:
        """Make sure that every node still runs, or ended well.

        Raises:
            NodeFailedError: if one failed; the message ends with its last log lines.
        """
        for process in self._processes:
            if process.returncode:
                raise NodeFailedError(
                    f'{process.label} ended with code {process.returncode}:\n{process.tail()}'
                )

    def wait_ready(self, timeout: float) -> None:
        """Wait until every node has said that it is ready.

        Raises:
            NodeFailedError: if one ends or the time is up.
        """
        give_up = time.monotonic() + timeout
        while waiting := [p for p in self._processes if not p.is_ready()]:
            self.check()
            if time.monotonic() > give_up:
                lines = '\n'.join(f'{p.label}: {p.tail()}' for p in waiting)
                raise NodeFailedError(f'not ready after {timeout:g} s:\n{lines}')
            time.sleep(0.05)

    def stop(self, processes: Iterable[NodeProcess], patience: float = PATIENCE) -> None:
        """Interrupt nodes, as Ctrl-C would, and kill those still there after so many seconds."""
        processes = list(processes)
        for process in processes:
            process.signal(signal.SIGINT)
        give_up = time.monotonic() + patience
        for process in processes:
            if not process.wait(max(0.0, give_up - time.monotonic())):
                process.signal(signal.SIGKILL)
                process.wait(1.0)
        self._processes = [p for p in self._processes if p not in processes]


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The own environment, such that the child imports the same copy of the package."""
    root = str(Path(diffkd_ros.__path__[0]).resolve().parent)
    path = os.pathsep.join(part for part in (root, os.environ.get('PYTHONPATH', '')) if part)
    return {**os.environ, 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1', **changes}


def in_child(niceness: int = 0) -> None:
    """Runs in a child before it becomes what it is to be: it dies with this process."""
    if sys.platform == 'linux':
        # Should this process be killed without a chance to clean up, the kernel interrupts the child.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    os.nice(niceness)
