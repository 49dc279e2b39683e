# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals by resampling whole scenarios.

The frames of one scenario are correlated, so they are drawn together: a resample of n scenarios is n draws
with replacement. Detections are sorted once; a resample only changes how often each counts.

A `ScenarioBootstrap` uses the same draws for all results, so its samples are paired: figures computed from
them sample by sample (mRCE, the difference of two detectors) have intervals too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError
from diffkd_ros.metrics.frame_results import DROPPED, FrameResults

_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % confidence interval.

    Attributes:
        estimate: of all scenarios.
        low, high: ends of the interval; NaN if unknown.
    """

    estimate: float
    low: float = math.nan
    high: float = math.nan


@kernel
def _area(
    hits: NDArray[np.bool_],
    scenario: NDArray[np.int64],
    times: NDArray[np.int64],
    judged: int,
    found: int,
    rows: tuple[int, int],
    best: float,
) -> tuple[float, int, int, float]:
    """Integrate the precision-recall curve backwards over rows[0]:rows[1], with repeated detections.

    Returns the area times the number of truths, and judged, found and best precision at rows[0]. Copies of a
    detection are adjacent: of a hit's copies the last has the best precision.
    """
    area = 0.0
    for i in range(rows[1] - 1, rows[0] - 1, -1):
        n = times[scenario[i]]
        if hits[i] and n > 0:
            best = max(best, found / judged)
            area += n * best
            found -= n
        judged -= n
    return area, judged, found, best


@kernel
def _sorted_areas(
    hits: NDArray[np.bool_],
    scenario: NDArray[np.int64],
    times: NDArray[np.int64],
    judged: NDArray[np.int64],
    found: NDArray[np.int64],
    areas: NDArray[np.float64],
) -> None:
    """Area under the curve of every resample, with the detections sorted by score."""
    for b in range(len(times)):
        areas[b] = _area(hits, scenario, times[b], judged[b], found[b], (0, len(hits)), 0.0)[0]


@kernel
def _concatenated_areas(
    hits: NDArray[np.bool_],
    scenario: NDArray[np.int64],
    times: NDArray[np.int64],
    judged: NDArray[np.int64],
    found: NDArray[np.int64],
    edges: NDArray[np.int64],
    areas: NDArray[np.float64],
) -> None:
    """Area under the curve of every resample, scenario after scenario, repeated as often as drawn."""
    once = np.ones(times.shape[1], np.int64)
    for b in range(len(times)):
        remaining, hit, best = judged[b], found[b], 0.0
        for s in range(times.shape[1] - 1, -1, -1):
            for _ in range(times[b, s]):
                part, remaining, hit, best = _area(
                    hits, scenario, once, remaining, hit, (edges[s], edges[s + 1]), best
                )
                areas[b] += part


class ScenarioBootstrap:
    """Draws scenarios with replacement.

    Intervals from fewer than about twenty scenarios are too narrow.

    Args:
        scenarios: unique names.
        resamples: number of draws.
        seed: the same seed and scenarios give the same draws.

    Raises:
        EvaluationError: if there are no scenarios or a name is repeated.
    """

    def __init__(self, scenarios: Sequence[str], resamples: int = 1000, seed: int = 0) -> None:
        self._row = {name: row for row, name in enumerate(scenarios)}
        if not scenarios or len(self._row) < len(scenarios):
            raise EvaluationError(f'scenario names must be unique, at least one; got {list(scenarios)}')
        count = len(scenarios)
        rng = np.random.default_rng(seed)
        self._times = rng.multinomial(count, np.full(count, 1.0 / count), size=resamples).astype(np.int64)

    def average_precision(
        self, results: FrameResults, iou_threshold: float, order: DetectionOrder = DetectionOrder.GLOBAL
    ) -> NDArray[np.float64]:
        """AP of every resample, (resamples,); NaN where no truth counts.

        With `DetectionOrder.PER_FRAME` the drawn scenarios keep the order of the names.

        Raises:
            EvaluationError: if the results are of other scenarios or were not scored at the threshold.
        """
        frame_scenario = self._scenario_of_frames(results)
        found = results.found(iou_threshold)
        judged = np.flatnonzero(found != DROPPED)
        scenario = frame_scenario[results.detections.frame[judged]]
        by_score = order is DetectionOrder.GLOBAL
        sorting = np.argsort(-results.detections.score[judged] if by_score else scenario, kind='stable')
        hits, scenario = (found[judged] >= 0)[sorting], scenario[sorting]
        names = len(self._row)
        totals = [
            self._times @ np.bincount(rows, minlength=names)
            for rows in (
                scenario,
                scenario[hits],
                frame_scenario[results.truths.frame[results.truths.counted]],
            )
        ]
        areas = np.zeros(len(self._times))
        if by_score:
            _sorted_areas(hits, scenario, self._times, totals[0], totals[1], areas)
        else:
            edges = np.searchsorted(scenario, np.arange(names + 1))
            _concatenated_areas(hits, scenario, self._times, totals[0], totals[1], edges, areas)
        with np.errstate(invalid='ignore'):
            return np.where(totals[2] > 0, areas / totals[2], np.nan)

    def _scenario_of_frames(self, results: FrameResults) -> NDArray[np.int64]:
        """Row of each frame's scenario."""
        names = results.scenarios
        if set(names) != set(self._row):
            odd = sorted(set(names) ^ set(self._row))
            raise EvaluationError(f'samples are paired only over the same scenarios; not in both: {odd}')
        return np.array([self._row[name] for name in results.scenario.tolist()], np.int64)


def interval(estimate: float, samples: ArrayLike) -> Interval:
    """95 % percentile interval of the samples of a figure.

    Args:
        estimate: the figure of all scenarios.
        samples: (resamples,) the figure of each resample; NaN samples are ignored.

    Returns:
        With NaN ends if fewer than two samples are finite, or all are equal (as with a single scenario).
    """
    values = np.asarray(samples, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2 or np.ptp(values) == 0.0:
        return Interval(estimate)
    low, high = np.quantile(values, [0.5 - 0.5 * _LEVEL, 0.5 + 0.5 * _LEVEL])
    return Interval(estimate, float(low), float(high))
