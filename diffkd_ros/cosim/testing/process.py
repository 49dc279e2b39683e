# SPDX-License-Identifier: Apache-2.0
"""The CARLA stand-in as a process of its own, and a line to it beside the client's."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from diffkd_ros.cosim.testing.rpc import call
from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching.processes import child_environment, in_child

_START = 120.0  # seconds: the first frame of a simulated drive may have to be compiled


class StandInError(DiffkdError):
    """The stand-in did not start."""


class StandInProcess:
    """Starts the stand-in and waits until it answers; leaving the context kills it.

    Args:
        options: of its command line; without `--port` any free port is taken.

    Attributes:
        port: where it answers, on 127.0.0.1.

    Raises:
        StandInError: if it does not start.
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
            raise StandInError(f'the CARLA stand-in did not start: {line}{self._process.stderr.read()}')
        self.port = int(line.rpartition(' ')[2])

    def __enter__(self) -> StandInProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one of its methods, as a second client would."""
        return call('127.0.0.1', self.port, name, *arguments)

    def report(self) -> dict[str, Any]:
        """What was called, and the state of its world."""
        return self.call('stand_in_report')

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()
