# SPDX-License-Identifier: Apache-2.0
"""The model and what it costs, for diagnostics."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from diffkd_ros.nodes import diagnostics
from diffkd_ros.runtime.card import ModelCard

_WINDOW = 200


class InferenceReport:
    """Keeps the latest durations of one kind of work. Thread-safe.

    Args:
        card: of the model at work.
        device: it runs on.
        threads: it may use.
    """

    def __init__(self, card: ModelCard, device: str, threads: int) -> None:
        self._card, self._device, self._threads = card, device, threads
        self._lock = threading.Lock()
        self._stages: deque[dict[str, float]] = deque(maxlen=_WINDOW)
        self._done = self._failures = 0
        self._last_failure = ''

    def add(self, stages: dict[str, float]) -> None:
        """Record one sweep's milliseconds by stage."""
        with self._lock:
            self._stages.append(stages)
            self._done += 1
            self._last_failure = ''

    def fail(self, error: Exception) -> None:
        """Record work that raised."""
        with self._lock:
            self._failures += 1
            self._last_failure = f'{type(error).__name__}: {error}'

    def items(self) -> list[diagnostics.Item]:
        """The items `inference` and `model`."""
        with self._lock:
            stages, done, failures = list(self._stages), self._done, self._failures
            last = self._last_failure
        values: dict[str, object] = {'sweeps done': done, 'failures': failures}
        for stage in stages[-1] if stages else ():
            times = [s[stage] for s in stages if stage in s]
            for percent in (50, 95):
                values[f'{stage} p{percent} [ms]'] = f'{np.percentile(times, percent):.2f}'
        if last:
            level, message = diagnostics.ERROR, last
        elif stages:
            level, message = diagnostics.OK, f'{values["total p50 [ms]"]} ms from cloud to result (median)'
        else:
            level, message = diagnostics.OK, 'no sweep yet'
        model = {'model': self._card.model_id, 'device': self._device, 'threads': self._threads}
        return [
            diagnostics.Item('inference', level, message, values),
            diagnostics.Item('model', diagnostics.OK, self._card.model_id, model),
        ]
