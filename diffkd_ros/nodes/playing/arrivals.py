# SPDX-License-Identifier: Apache-2.0
"""Features and answers that arrived for published frames, by stamp."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence

# Limits the memory of an endless run.
_KEPT = 2000


class Arrivals:
    """Records arrivals in the executor's thread and lets another thread wait for them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._features: dict[tuple[str, int], None] = {}
        self._chunks: dict[tuple[str, int], set[int]] = {}
        self._answers: dict[int, float] = {}
        self._stopping = False

    def feature(self, agent: str, stamp: int) -> None:
        """Record an agent's feature of a stamp."""
        with self._condition:
            self._features[agent, stamp] = None
            _trim(self._features)
            self._condition.notify_all()

    def chunk(self, agent: str, stamp: int, number: int, announced: int) -> None:
        """Record a chunk of an agent's feature of a stamp, which has arrived once all announced ones have."""
        with self._condition:
            arrived = self._chunks.setdefault((agent, stamp), set())
            arrived.add(number)
            _trim(self._chunks)
        if arrived.issuperset(range(announced)):
            self.feature(agent, stamp)

    def answer(self, stamp: int, latency_ms: Sequence[float]) -> None:
        """Record the ego's answer to a stamp; `latency_ms` as in `FusionStatus`, the total last."""
        with self._condition:
            self._answers[stamp] = float(latency_ms[-1]) if len(latency_ms) else math.nan
            _trim(self._answers)
            self._condition.notify_all()

    def clear(self) -> None:
        """Forget everything that has arrived."""
        with self._condition:
            self._features.clear()
            self._chunks.clear()
            self._answers.clear()

    def stop(self) -> None:
        """Make every wait return at once, now and later."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def wait_features(self, stamps: Mapping[str, int], timeout: float) -> list[str]:
        """Wait for each agent's feature of its stamp; returns the agents whose feature did not arrive."""
        wanted = sorted(stamps.items())

        def missing() -> list[str]:
            return [key[0] for key in wanted if key not in self._features]

        with self._condition:
            self._condition.wait_for(lambda: self._stopping or not missing(), timeout)
            return missing()

    def wait_answers(self, stamps: Iterable[int], timeout: float) -> list[float]:
        """Wait for the answers to all stamps; returns the latencies (ms) of those in time."""
        wanted = list(stamps)
        with self._condition:
            self._condition.wait_for(
                lambda: self._stopping or all(stamp in self._answers for stamp in wanted), timeout
            )
            return [self._answers[stamp] for stamp in wanted if stamp in self._answers]

    def sleep(self, seconds: float) -> bool:
        """Sleep; returns False if stopped."""
        with self._condition:
            return not self._condition.wait_for(lambda: self._stopping, max(0.0, seconds))


def _trim(table: dict) -> None:
    while len(table) > _KEPT:
        del table[next(iter(table))]
