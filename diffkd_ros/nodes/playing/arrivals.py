# SPDX-License-Identifier: Apache-2.0
"""What has come back for the frames a player sent: features by agent and stamp, answers by stamp."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

# Old entries are of no use to anyone; this bounds an endless run.
_KEPT = 2000


class Arrivals:
    """Notes arrivals from the executor's thread and lets the player's thread wait for them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._features: dict[tuple[str, int], None] = {}
        self._answers: dict[int, float] = {}
        self._stopping = False

    def feature(self, agent: str, stamp: int) -> None:
        """An agent's feature for a stamp was seen on the V2X topic."""
        with self._condition:
            self._features[agent, stamp] = None
            _trim(self._features)
            self._condition.notify_all()

    def answer(self, stamp: int, latency_ms: Sequence[float]) -> None:
        """The ego answered a stamp, with these times as in `FusionStatus`: the total stands last."""
        with self._condition:
            self._answers[stamp] = float(latency_ms[-1]) if len(latency_ms) else math.nan
            _trim(self._answers)
            self._condition.notify_all()

    def stop(self) -> None:
        """Make every wait return at once, now and later."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def wait_features(self, stamps: Mapping[str, int], timeout: float) -> list[str]:
        """Wait for each agent's feature of its stamp; returns the agents whose did not come in time."""
        wanted = sorted(stamps.items())

        def missing() -> list[str]:
            return [key[0] for key in wanted if key not in self._features]

        with self._condition:
            self._condition.wait_for(lambda: self._stopping or not missing(), timeout)
            return missing()

    def wait_answers(self, stamps: Iterable[int], timeout: float) -> list[float]:
        """Wait for the answers to all stamps; returns the latencies (ms) of those that came in time."""
        wanted = list(stamps)
        with self._condition:
            self._condition.wait_for(
                lambda: self._stopping or all(stamp in self._answers for stamp in wanted), timeout
            )
            return [self._answers[stamp] for stamp in wanted if stamp in self._answers]

    def sleep_until(self, deadline: float) -> bool:
        """Sleep until a `time.monotonic` deadline; False if stopped meanwhile."""
        with self._condition:
            return not self._condition.wait_for(lambda: self._stopping, max(0.0, deadline - time.monotonic()))


def _trim(table: dict) -> None:
    while len(table) > _KEPT:
        del table[next(iter(table))]
