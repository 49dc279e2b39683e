# SPDX-License-Identifier: Apache-2.0
"""Runs the CARLA stand-in as a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from diffkd_ros.cosim.errors import CosimError
from diffkd_ros.cosim.testing.rpc import call
from diffkd_ros.launching.processes import child_environment, in_child

_START = 120.0  # seconds: the simulator may have to be compiled first


class StandInProcess:
    """Starts the stand-in and waits until it answers; leaving the context kills it.

    Args:
        options: command-line options; without `--port` any free port is used.

    Attributes:
        port: RPC port on 127.0.0.1.

    Raises:
        CosimError: if it does not start.
    """

    def __init__(self, *options: str) -> None:
        command: Sequence[str] = [
            sys.executable, '-m', 'diffkd_ros.cosim.testing.carla_stand_in', '--port', '0', *options,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            env=child_environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=in_child,
        )
        assert self._process.stdout is not None
        watchdog = threading.Timer(_START, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line.startswith('ready'):
            self.kill()
            assert self._process.stderr is not None
            raise CosimError(f'the CARLA stand-in did not start: {line}{self._process.stderr.read()}')
        self.port = int(line.rpartition(' ')[2])

    def __enter__(self) -> StandInProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the server, as a second client."""
        return call('127.0.0.1', self.port, name, *arguments)

    def report(self) -> dict[str, Any]:
        """Counts of calls, and the state of the world."""
        return self.call('stand_in_report')

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP, which makes the server hang until SIGCONT."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the server, like a crash."""
        self._process.kill()
        self._process.wait()
