# SPDX-License-Identifier: Apache-2.0
"""A thread that processes the newest item submitted to it, and counts how each item was used."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar('Item')


@dataclass
class Account:
    """How items were used: received = used + refused + overwritten + failed + pending.

    Attributes:
        received: items submitted.
        used: items that were used.
        refused: items that could not be used, by reason.
        overwritten: items dropped before they were processed, mostly because a newer one was submitted.
        failed: items whose processing raised an exception.
        pending: items waiting or being processed.
    """

    received: int = 0
    used: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    overwritten: int = 0
    failed: int = 0
    pending: int = 0


class InferenceThread(Generic[Item]):
    """Calls `work` with the newest item submitted, one at a time, in its own thread.

    At most one item waits: a newer one replaces it, so that a slow machine skips sweeps instead of lagging.

    Args:
        work: called with each item taken; returns why the item was refused, empty if it was used.
        on_error: called in the thread with an exception that `work` raised; the thread continues.
    """

    def __init__(self, work: Callable[[Item], str], on_error: Callable[[Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._condition = threading.Condition()
        self._slot: list[Item] = []
        self._busy = False
        self._stopping = False
        self._account = Account()
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Replace the waiting item; returns immediately."""
        with self._condition:
            self._account.received += 1
            self._overwrite([item])

    def account(self) -> Account:
        """How the items submitted so far were used."""
        with self._condition:
            account = deepcopy(self._account)
            account.pending = len(self._slot) + self._busy
            return account

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
        self._account.overwritten += len(self._slot)
        self._slot = slot
        self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._slot or self._stopping)
                if self._stopping:
                    return
                item = self._slot.pop()
                self._busy = True
            refusal, failed = '', False
            try:
                refusal = self._work(item)
            except Exception as error:
                failed = True
                self._on_error(error)
            with self._condition:
                self._busy = False
                self._account.failed += failed
                if refusal:
                    self._account.refused[refusal] += 1
                elif not failed:
                    self._account.used += 1
                self._condition.notify_all()
