# SPDX-License-Identifier: Apache-2.0
"""Functions that the CARLA client calls from its own threads."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any


class ClientCallbacks:
    """Shows when the client has released the functions given to it.

    The client aborts the process (`terminate called without an active exception`) if Python ends while one of
    its threads is about to call one of them, and `Sensor.stop` returns before the last call. A function that
    the client has released is not called any more.
    """

    def __init__(self) -> None:
        self._released: list[threading.Event] = []

    def give(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap a function; only the client may keep the result."""

        def callback(value: Any) -> None:
            function(value)

        released = threading.Event()
        weakref.finalize(callback, released.set)
        self._released.append(released)
        return callback

    def wait_released(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds in total; returns whether the client has released all functions."""
        end = time.monotonic() + timeout
        return all(released.wait(max(0.0, end - time.monotonic())) for released in self._released)
