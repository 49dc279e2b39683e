# SPDX-License-Identifier: Apache-2.0
"""What the demo says while it runs: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# In a log file nobody watches a bar move.
_LINE_PERIOD = 10.0
_FRAME = re.compile(r'frame (\d+)')


class PhaseProgress:
    """One phase's progress.

    Args:
        console: where to.
        title: of the phase.
        total: steps it has.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done = 0
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn('{task.description:<26}'),
            BarColumn(bar_width=24),
            TextColumn('{task.completed:>3.0f}/{task.total:.0f}'),
            TimeElapsedColumn(),
            TextColumn('[dim]{task.fields[note]}'),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, note='')

    def update(self, done: int, note: str = '') -> None:
        """Show how far the phase is; `note` is what is known so far."""
        # A line that speaks of no frame does not set the bar back.
        self._done = min(max(done, self._done), self._total)
        self._bar.update(self._task, completed=self._done, note=note)
        if not self._console.is_terminal and time.monotonic() - self._told > _LINE_PERIOD:
            self._told = time.monotonic()
            self._console.print(
                f'{self._title}: {self._done}/{self._total}  {note}', highlight=False, soft_wrap=True
            )

    def __enter__(self) -> PhaseProgress:
        if self._console.is_terminal:
            self._bar.start()
        else:
            self._console.print(self._title, highlight=False)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


@contextmanager
def waiting(console: Console, text: str) -> Iterator[None]:
    """Say what is being waited for."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text, highlight=False)
        yield


def frame_number(line: str) -> int:
    """The frame a player's log line speaks of, 0 if none."""
    match = _FRAME.match(line)
    return int(match[1]) if match else 0
