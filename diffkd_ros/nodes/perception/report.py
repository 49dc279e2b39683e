# SPDX-License-Identifier: Apache-2.0
"""Latency and latest failure of the inference, for diagnostics."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.runtime.card import ModelCard

# Sweeps that the percentiles are computed from.
_WINDOW = 200
# Nanoseconds between two results that are not continuous.
_PAUSE = 5 * NANOSECONDS


class InferenceReport:
    """Collects the latency of every sweep and compares it with a budget. Thread-safe.

    Args:
        card: of the model.
        device: that runs it.
        threads: that it may use.
        max_latency: budget from the publication of the cloud to the result, seconds; an overrun is a warning.
        max_overrun: how long results may stay over the budget, seconds of their stamps, without an error.
    """

    def __init__(
        self, card: ModelCard, device: str, threads: int, max_latency: float, max_overrun: float
    ) -> None:
        self._card, self._device, self._threads = card, device, threads
        self._max_latency, self._max_overrun = max_latency * 1e3, round(max_overrun * NANOSECONDS)
        self._lock = threading.Lock()
        self._stages: deque[dict[str, float]] = deque(maxlen=_WINDOW)
        self._overruns = self._reported = 0
        self._over_since: int | None = None
        self._over_for = 0
        self._last_failure = ''

    def add(self, stamp: int, stages: dict[str, float]) -> None:
        """Record a sweep.

        Args:
            stamp: of the sweep, nanoseconds.
            stages: milliseconds by stage; `total` is compared with the budget.
        """
        with self._lock:
            self._stages.append(stages)
            self._last_failure = ''
            if stages['total'] <= self._max_latency:
                self._over_since = None
                self._over_for = 0
                return
            self._overruns += 1
            # A step back in time, or a pause, starts a new period.
            if self._over_since is None or not 0 <= stamp - self._over_since - self._over_for <= _PAUSE:
                self._over_since = stamp
            self._over_for = stamp - self._over_since

    @property
    def overdue(self) -> str:
        """Why results come too late to be of use; empty if they are in time, or not for long."""
        with self._lock:
            over_for = self._over_for
        if over_for <= self._max_overrun:
            return ''
        return f'over the budget of {self._max_latency:g} ms for {over_for / NANOSECONDS:.1f} s'

    @property
    def failure(self) -> str:
        """Why the latest sweep has no result; empty if it has one."""
        with self._lock:
            return self._last_failure and f'inference failed: {self._last_failure}'

    def fail(self, error: Exception) -> None:
        """Record an exception."""
        with self._lock:
            self._last_failure = f'{type(error).__name__}: {error}'

    def items(self) -> list[diagnostics.Item]:
        """The items `inference` and `model`; each overrun is a warning in one call only."""
        with self._lock:
            stages, overruns = list(self._stages), self._overruns
            fresh = overruns - self._reported
            self._reported = overruns
            last = self._last_failure
        overdue = self.overdue
        values: dict[str, object] = {
            'over budget': overruns,
            'budget': f'{self._max_latency:g} ms',
        }
        for stage in stages[-1] if stages else ():
            times = [s[stage] for s in stages if stage in s]
            for percent in (50, 95):
                values[f'{stage} p{percent} [ms]'] = f'{np.percentile(times, percent):.2f}'
        model = {'model': self._card.model_id, 'device': self._device, 'threads': self._threads}
        budget = f'the budget of {self._max_latency:g} ms'
        if last:
            level, message = diagnostics.ERROR, last
        elif not stages:
            level, message = diagnostics.OK, 'no sweep yet'
        elif overdue:
            level, message = diagnostics.ERROR, overdue
        elif fresh:
            level, message = diagnostics.WARN, f'{fresh} sweeps over {budget} since the last report'
        else:
            level, message = diagnostics.OK, f'{values["total p50 [ms]"]} ms from cloud to result (median)'
        return [
            diagnostics.Item('inference', level, message, values),
            diagnostics.Item('model', diagnostics.OK, self._card.model_id, model),
        ]
