# SPDX-License-Identifier: Apache-2.0
"""Percentiles of the stages' durations over a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from diffkd_ros.metrics.average_precision import EvaluationError


class StageLatency(TypedDict):
    """One stage's durations in milliseconds, and their number."""

    p50: float
    p95: float
    mean: float
    n: int


class LatencyTable:
    """Collects durations by stage; stages may differ from call to call."""

    def __init__(self) -> None:
        self._stages: dict[str, list[float]] = {}

    def add(self, stages: Mapping[str, float]) -> None:
        """Record one sweep's durations, milliseconds by stage.

        Raises:
            EvaluationError: if a duration is negative or not finite; nothing of the call is recorded.
        """
        for stage, milliseconds in stages.items():
            if not (np.isfinite(milliseconds) and milliseconds >= 0.0):
                raise EvaluationError(
                    f'stage {stage!r} took {milliseconds} ms, expected a finite duration of at least 0'
                )
        for stage, milliseconds in stages.items():
            self._stages.setdefault(stage, []).append(float(milliseconds))

    def summary(self) -> dict[str, StageLatency]:
        """Median, 95th percentile (linear between samples) and mean by stage, in the order first seen."""
        return {
            stage: {
                'p50': float(np.percentile(values, 50)),
                'p95': float(np.percentile(values, 95)),
                'mean': float(np.mean(values)),
                'n': len(values),
            }
            for stage, values in self._stages.items()
        }
