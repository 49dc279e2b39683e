# SPDX-License-Identifier: Apache-2.0
"""Progress of the demo: a bar in a terminal, a line every few seconds in a log."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_PERIOD = 10.0  # seconds between lines in a log
_FRAME = re.compile(r'frame (\d+)')


class PhaseProgress:
    """One phase's progress.

    Args:
        console: for the output.
        title: of the phase.
        total: number of steps.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._done = 0
        self._printed = time.monotonic()
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
        """Show the number of steps done and a note."""
        # A log line without a frame number must not reset the bar.
        self._done = min(max(done, self._done), self._total)
        self._bar.update(self._task, completed=self._done, note=note)
        if not self._console.is_terminal and time.monotonic() - self._printed > _LINE_PERIOD:
            self._printed = time.monotonic()
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
    """Show a text while waiting."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text, highlight=False)
        yield


def frame_number(line: str) -> int:
    """The frame number in a player's log line, 0 if there is none."""
    match = _FRAME.search(line)
    return int(match[1]) if match else 0
