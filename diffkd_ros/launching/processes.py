# SPDX-License-Identifier: Apache-2.0
"""Starts nodes as processes, as `ros2 launch` does, without needing `launch`. No ROS is imported.

Every process has its own process group and ends with its parent, so none is left behind.
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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

import diffkd_ros
from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.graph import NodeSpec

# Seconds that interrupted nodes get to end, by default; then they are killed.
PATIENCE = 2.5
_TAIL = 15  # lines of a log that are kept for error messages
_PR_SET_PDEATHSIG = 1


class NodeProcess:
    """One running node of a `NodeGroup`, which gives the arguments.

    Attributes:
        latest: text of the last log line.
        ready: set once the node has logged that it is ready.
    """

    def __init__(
        self,
        spec: NodeSpec,
        params_files: Sequence[Path],
        logs: Path,
        label: str,
        environment: Mapping[str, str],
        niceness: int,
    ) -> None:
        self.label = label
        self.latest = ''
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self.ready = threading.Event()
        own = logs / f'{self.label}.yaml'
        node = f'{spec.namespace.rstrip("/")}/{spec.executable}'
        own.write_text(yaml.safe_dump({node: {'ros__parameters': dict(spec.parameters)}}))
        command = [sys.executable, '-m', f'diffkd_ros.{spec.package}.{spec.executable}', '--ros-args']
        command += ['-r', f'__ns:={spec.namespace}', '--log-level', f'{spec.label}:=debug']
        for remapping in spec.remappings:
            command += ['-r', ':='.join(remapping)]
        # The node's own file comes last, names the node in full and so overrides the shared ones' wildcards.
        for file in params_files:
            command += ['--params-file', str(file.resolve())]
        if spec.parameters:
            command += ['--params-file', str(own.resolve())]
        self._log = (logs / f'{self.label}.log').open('w')
        self._process = subprocess.Popen(
            command,
            cwd=logs,
            env=child_environment(environment),
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
                # rclpy prints "[INFO] [time] [node]: text".
                text = line.rstrip().rpartition(']: ')[2]
                self._tail.append(line.rstrip())
                self.latest = text
                if text.startswith('ready'):
                    self.ready.set()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code; None while the process runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines of the log."""
        self._reader.join(0.5)
        return '\n'.join(self._tail)

    def signal(self, number: int) -> None:
        """Send a signal to the process group, unless the process has ended."""
        if self.returncode is None:
            os.killpg(self._process.pid, number)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the process to end; returns whether it has."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


class NodeGroup:
    """The nodes of one set-up; leaving the context stops them.

    Args:
        params_files: parameter files shared by all nodes; later ones override earlier ones.
        logs: folder for logs and parameter files.
        environment: variables set in addition to those of this process.
    """

    def __init__(
        self, params_files: Sequence[Path], logs: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._params_files, self._logs, self._environment = params_files, logs, environment or {}
        self._processes: list[NodeProcess] = []

    def __enter__(self) -> NodeGroup:
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C must not interrupt the clean-up.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.stop(self._processes)
        finally:
            signal.signal(signal.SIGINT, previous)

    def start(self, spec: NodeSpec, label: str = '', niceness: int = 0) -> NodeProcess:
        """Start a node.

        Args:
            spec: the node.
            label: name of its log; `spec.label` by default.
            niceness: added to the niceness of this process.
        """
        label = label or spec.label
        process = NodeProcess(spec, self._params_files, self._logs, label, self._environment, niceness)
        self._processes.append(process)
        return process

    def check(self) -> None:
        """Check that every node is running or has ended with code 0.

        Raises:
            DiffkdError: if one has not; the message ends with its last log lines.
        """
        for process in self._processes:
            if process.returncode:
                raise DiffkdError(f'{process.label} ended with code {process.returncode}:\n{process.tail()}')

    def wait_ready(self, timeout: float) -> None:
        """Wait until every node has logged that it is ready.

        Raises:
            DiffkdError: if one fails or is not ready after `timeout` seconds.
        """
        give_up = time.monotonic() + timeout
        while waiting := [p for p in self._processes if not p.ready.is_set()]:
            self.check()
            if time.monotonic() > give_up:
                lines = '\n'.join(f'{p.label}: {p.tail()}' for p in waiting)
                raise DiffkdError(f'not ready after {timeout:g} s:\n{lines}')
            time.sleep(0.05)

    def stop(self, processes: Iterable[NodeProcess], patience: float = PATIENCE) -> None:
        """Interrupt nodes as Ctrl-C does, and kill those that still run after `patience` seconds."""
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
    """The environment of this process plus `changes`; a child imports the same copy of the package."""
    root = str(Path(diffkd_ros.__path__[0]).resolve().parent)
    path = os.pathsep.join(part for part in (root, os.environ.get('PYTHONPATH', '')) if part)
    return {**os.environ, 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1', **changes}


def in_child(niceness: int = 0) -> None:
    """Prepare a forked child before it executes its program (`preexec_fn`)."""
    # A process started in the background of a script inherits that SIGINT is ignored. Nodes are ended by it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == 'linux':
        # If this process is killed and cannot clean up, the kernel interrupts the child.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    os.nice(niceness)
