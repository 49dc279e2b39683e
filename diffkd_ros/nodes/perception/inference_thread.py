# SPDX-License-Identifier: Apache-2.0
"""A thread that processes the newest item submitted to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar('Item')


class InferenceThread(Generic[Item]):
    """Calls `work` with the newest item submitted, one at a time, in its own thread.

    At most one item waits: a newer one replaces it, so that a slow machine skips sweeps instead of lagging.

    Args:
        work: called with each item taken.
        on_error: called in the thread with an exception that `work` raised; the thread continues.

    Attributes:
        overwritten: number of items that were submitted, but never processed.
    """

    def __init__(self, work: Callable[[Item], None], on_error: Callable[[Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._condition = threading.Condition()
        self._slot: list[Item] = []
        self._busy = False
        self._stopping = False
        self.overwritten = 0
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Replace the waiting item; returns immediately."""
        with self._condition:
            self._overwrite([item])

    def drain(self, timeout: float = 2.0) -> None:
        """Drop the waiting item and wait until the current one is done, at most `timeout` seconds."""
        with self._condition:
            self._overwrite([])
            self._condition.wait_for(lambda: not self._busy, timeout)

    def stop(self, timeout: float = 2.0) -> None:
        """Drop the waiting item and end the thread after the current one; wait at most `timeout` seconds."""
        with self._condition:
            self._stopping = True
            self._overwrite([])
        self._thread.join(timeout)

    def _overwrite(self, slot: list[Item]) -> None:
        self.overwritten += len(self._slot)
        self._slot = slot
        self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._slot or self._stopping)
                if self._stopping:
                    return
                item = self._slot.pop()
                self._busy = True
            try:
                self._work(item)
            except Exception as error:
                self._on_error(error)
