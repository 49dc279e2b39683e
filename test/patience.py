# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for processes and messages. Timings are measured by the benchmark, not by tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

# Longest wait for one thing, seconds. A wait ends when it happens, so only a failing test takes that long.
PATIENCE = 240.0

Result = TypeVar('Result')


def until(condition: Callable[[], Result], what: str, seconds: float = PATIENCE) -> Result:
    """Wait until the condition returns something true, and return that."""
    give_up = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < give_up, f'waited {seconds:g} s for {what}'
        time.sleep(0.02)
    return result


def attempts() -> Iterator[float]:
    """Waits for the attempts of something that can get lost: from 1 s, longer and longer, PATIENCE in all."""
    wait, left = 1.0, PATIENCE
    while left > 0:
        yield wait
        left -= wait
        wait *= 1.2


def scaled(seconds: float) -> float:
    """A delay that is long enough on an idle machine, stretched where processes wait for a processor.

    For delays that always last their full time: those during which nothing can be observed.
    """
    running = int(Path('/proc/loadavg').read_text().split()[3].partition('/')[0])
    return seconds * max(1.0, max(running, os.getloadavg()[0]) / (os.cpu_count() or 1))
