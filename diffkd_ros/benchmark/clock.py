# SPDX-License-Identifier: Apache-2.0
"""Times jobs by the median of many runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

Job = Callable[[], object]


class Clock:
    """Times jobs, and notes how much of a core they got.

    Args:
        repetitions: runs of each job whose median is reported.
    """

    def __init__(self, repetitions: int) -> None:
        self._repetitions = repetitions
        self._computed = self._elapsed = 0.0

    def median_ms(self, job: Job, serial: bool = False) -> float:
        """Median duration of a job in milliseconds, after two runs to warm up.

        `serial`: the job computes all the time, in this thread, so that it shows how busy the machine is.
        """
        return self.medians_ms({'': job}, serial)['']

    def medians_ms(self, jobs: Mapping[str, Job], serial: bool = False) -> dict[str, float]:
        """As `median_ms`, of several jobs that run in turns: other processes slow all of them alike."""
        durations: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(self._repetitions + 2):
            for name, job in jobs.items():
                started, computed = time.perf_counter(), time.thread_time()
                job()
                durations[name].append(1e3 * (time.perf_counter() - started))
                if serial:
                    self._computed += time.thread_time() - computed
                    self._elapsed += durations[name][-1] / 1e3
        return {name: float(np.median(each[2:])) for name, each in durations.items()}

    @property
    def share(self) -> float:
        """Share of a core that the serial jobs got; 1 on an idle machine."""
        return self._computed / self._elapsed
