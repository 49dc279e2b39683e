# SPDX-License-Identifier: Apache-2.0
"""One thread owns the model; callbacks only hand it the newest input."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar('Item')


class InferenceThread(Generic[Item]):
    """Runs `work` on the newest item submitted, one at a time, in a thread of its own.

    There is one slot: an item that comes while another one waits in it replaces that one, which is counted in
    `overwritten`. So the work always continues on fresh data, and a slow machine skips instead of lagging.

    Args:
        work: called with each item taken.
        on_error: called, still in the thread, with an exception that `work` let through; the thread goes on.
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
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Put an item into the slot; returns at once."""
        with self._condition:
            self._overwrite([item])

    def drain(self, timeout: float = 2.0) -> None:
        """Drop the item that waits, counted as overwritten too, and wait until the one at work is done."""
        with self._condition:
            self._overwrite([])
            self._condition.wait_for(lambda: not self._busy, timeout)

    def stop(self, timeout: float = 2.0) -> None:
        """Finish the item at work, drop the one waiting, and end the thread."""
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
