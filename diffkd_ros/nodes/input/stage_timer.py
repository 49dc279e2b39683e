# SPDX-License-Identifier: Apache-2.0
"""Times the stages of one sweep, starting with the cloud's publication."""

from __future__ import annotations

import time
from collections.abc import Mapping


class StageTimer:
    """Collects milliseconds by stage.

    The clock is the wall clock, as DDS stamps messages with it; if it steps back, a time is 0.

    Args:
        published: the cloud's `source_timestamp`, nanoseconds; 0 if the middleware gives none.
        arrived: when the callback received the cloud, nanoseconds.
    """

    def __init__(self, published: int, arrived: int) -> None:
        self._published = published or arrived
        self._last = arrived
        self.stages: dict[str, float] = {'transport': max(0, arrived - self._published) * 1e-6}

    def mark(self, stage: str) -> None:
        """End a stage that began at the previous mark."""
        now = time.time_ns()
        self.stages[stage] = max(0, now - self._last) * 1e-6
        self._last = now

    def add(self, stages: Mapping[str, float]) -> None:
        """Add stages timed elsewhere, milliseconds, that together take the time since the previous mark."""
        self.stages |= stages
        self._last = time.time_ns()

    def finish(self) -> dict[str, float]:
        """All stages, and the `total` since the cloud's publication."""
        self.stages['total'] = max(0, time.time_ns() - self._published) * 1e-6
        return self.stages
