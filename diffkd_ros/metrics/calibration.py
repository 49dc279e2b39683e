# SPDX-License-Identifier: Apache-2.0
"""Whether a score means what it says: D-ECE, LaECE, LRP, reliability diagrams, and scaling after training.

A detector is calibrated if, of the detections with score p, a share p is right (D-ECE, at an IoU threshold),
or if their overlap with what they found is p on average (LaECE, Oksuz et al., CVPR 2023; without a threshold
LaECE0, Kuzucu et al., ECCV 2024). Both are one sum over bins of the scores with different targets. Detections
on ignored truths have no target and are left out.

Errors are in [0, 1]. Calibration says nothing about accuracy, so print it beside LRP or AP.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.metrics.average_precision import ANY_OVERLAP, EvaluationError
from diffkd_ros.metrics.frame_results import DROPPED, FrameResults
from diffkd_ros.metrics.robustness import Condition

# Well below the score at which detections are used, or the lower tail would be cut off.
MIN_SCORE = 0.05
BINS = 25
MIN_DETECTIONS = 500

Scaling = Callable[[NDArray[np.floating]], NDArray[np.float64]]
"""Maps scores to calibrated scores in [0, 1], never a higher score to a lower one."""


class CalibrationUnavailableError(DiffkdError):
    """The library that fits calibrators is not installed."""


class Binning(str, Enum):
    """How the scores are cut into bins."""

    EQUAL_MASS = 'equal_mass'
    """As many detections in each bin, but for equal scores, which stay together."""
    EQUAL_WIDTH = 'equal_width'
    """Bins of [0, 1] of one width, as the published definitions have them; empty ones are left out."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram: the bins of the scores in ascending order, none empty.

    Attributes:
        count: (bins,) int64 detections.
        score: (bins,) mean score.
        target: (bins,) what the score should have been: precision for D-ECE, mean overlap for LaECE.
    """

    count: NDArray[np.int64]
    score: NDArray[np.float64]
    target: NDArray[np.float64]

    @property
    def detections(self) -> int:
        """Number of detections in all bins."""
        return int(self.count.sum())

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of score and target, weighted by count; NaN if empty."""
        return self._mean(np.abs(self.score - self.target))

    @property
    def overconfidence(self) -> float:
        """Mean score less mean target: above 0 if scores promise too much; NaN if empty."""
        return self._mean(self.score - self.target)

    def _mean(self, values: NDArray[np.float64]) -> float:
        return float(np.average(values, weights=self.count)) if self.detections else float('nan')


def reliability(
    scores: NDArray[np.floating],
    targets: NDArray[np.floating],
    bins: int = BINS,
    binning: Binning = Binning.EQUAL_MASS,
) -> Reliability:
    """Compare scores with their targets, bin by bin.

    Args:
        scores: (n,) in [0, 1].
        targets: (n,) in [0, 1].
        bins: most bins there may be.
        binning: how they are cut.

    Raises:
        EvaluationError: if scores or targets lie outside [0, 1] or there is not at least one bin.
    """
    if bins < 1:
        raise EvaluationError(f'at least one bin is needed, got {bins}')
    for name, values in (('score', scores), ('target', targets)):
        if not ((values >= 0.0) & (values <= 1.0)).all():
            raise EvaluationError(f'calibration needs each {name} in [0, 1]')
    order = np.argsort(scores, kind='stable')
    ordered = scores[order].astype(np.float64)
    if len(ordered) == 0:
        return Reliability(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    if binning is Binning.EQUAL_MASS:
        lowest = ordered[np.arange(bins) * len(ordered) // bins]
    else:
        lowest = np.arange(bins) / bins
    # Equal scores fall on one side of every cut: scaled scores often are equal.
    cuts = np.unique(np.searchsorted(ordered, lowest, side='left'))
    cuts = cuts[cuts < len(ordered)]
    count = np.diff([*cuts, len(ordered)])
    return Reliability(
        count,
        np.add.reduceat(ordered, cuts) / count,
        np.add.reduceat(targets[order].astype(np.float64), cuts) / count,
    )


def _judged(
    results: FrameResults, iou_threshold: float, min_score: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """Score, hit and overlap of the detections that have a target."""
    found = results.found(iou_threshold)
    judged = (found != DROPPED) & (results.detections.score >= min_score)
    iou = results.detections.iou[results.row(iou_threshold)]
    return results.detections.score[judged], found[judged] >= 0, iou[judged]


def detection_calibration(
    results: FrameResults,
    iou_threshold: float,
    scaling: Scaling | None = None,
    min_score: float = MIN_SCORE,
    bins: int = BINS,
    binning: Binning = Binning.EQUAL_MASS,
) -> Reliability:
    """D-ECE at an IoU threshold: scores against precision.

    Args:
        results: scored frames.
        iou_threshold: one they were scored at.
        scaling: applied to the scores first.
        min_score: detections below it, before scaling, are left out.
        bins: most bins there may be.
        binning: how they are cut.
    """
    scores, hits, _ = _judged(results, iou_threshold, min_score)
    return reliability(scaling(scores) if scaling else scores, hits.astype(np.float64), bins, binning)


def localisation_aware_calibration(
    results: FrameResults,
    iou_threshold: float = ANY_OVERLAP,
    scaling: Scaling | None = None,
    min_score: float = MIN_SCORE,
    bins: int = BINS,
    binning: Binning = Binning.EQUAL_MASS,
) -> Reliability:
    """LaECE, by default LaECE0: scores against overlap, which is 0 for a false alarm.

    A bin's precision times the mean overlap of its hits is the mean overlap of all its detections. Arguments
    as for `detection_calibration`.
    """
    scores, _, iou = _judged(results, iou_threshold, min_score)
    return reliability(scaling(scores) if scaling else scores, iou, bins, binning)


@dataclass(frozen=True, slots=True)
class LocalisationRecallPrecision:
    """LRP error (Oksuz et al., ECCV 2018) at an operating point, in [0, 1], and its three parts.

    Attributes:
        error: (false alarms + missed + sum over hits of (1 - IoU) / (1 - threshold)) / (all three counts);
            NaN with neither truths nor detections.
        localisation: mean 1 - IoU of the hits, NaN without hits.
        false_alarms: share of the detections that hit nothing, NaN without detections.
        missed: share of the truths not found, NaN without truths.
        min_score: the operating point: detections below it were left out.
    """

    error: float
    localisation: float
    false_alarms: float
    missed: float
    min_score: float


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float('nan')


def localisation_recall_precision(
    results: FrameResults, iou_threshold: float, min_score: float
) -> LocalisationRecallPrecision:
    """LRP at an IoU threshold below 1 with the detections of at least `min_score`."""
    _, hits, iou = _judged(results, iou_threshold, min_score)
    found = int(hits.sum())
    false_alarms, missed = len(hits) - found, results.counted_truths - found
    distance = float((1.0 - iou[hits].astype(np.float64)).sum())
    return LocalisationRecallPrecision(
        _ratio(false_alarms + missed + distance / (1.0 - iou_threshold), false_alarms + missed + found),
        _ratio(distance, found),
        _ratio(false_alarms, len(hits)),
        _ratio(missed, results.counted_truths),
        min_score,
    )


def best_operating_point(validation: FrameResults, iou_threshold: float) -> LocalisationRecallPrecision:
    """The `min_score` with the least LRP (oLRP): to be chosen on validation frames and kept for all others.

    Raises:
        EvaluationError: if there are no detections to choose among.
    """
    scores, hits, iou = _judged(validation, iou_threshold, 0.0)
    if len(scores) == 0:
        raise EvaluationError('an operating point needs detections')
    order = np.argsort(-scores, kind='stable')
    found, kept = np.cumsum(hits[order]), np.arange(1, len(scores) + 1)
    distance = np.cumsum(np.where(hits, 1.0 - iou.astype(np.float64), 0.0)[order])
    outside = kept - found + validation.counted_truths - found
    error = (outside + distance / (1.0 - iou_threshold)) / (outside + found)
    # Detections of one score are kept or left out together.
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    best = float(scores[order][last[np.argmin(error[last])]])
    return localisation_recall_precision(validation, iou_threshold, best)


@dataclass(frozen=True, slots=True)
class CalibrationRobustness:
    """What corruption does to calibration.

    Attributes:
        change: error less the clean error by (corruption, severity), in [-1, 1]: ΔLaECE0, say.
        mean_change: the mean over the severities of each corruption, then over the corruptions.
        mrce: likewise of the change relative to the clean error, percent. The clean error is near 0, so the
            ratio is unstable: it is floored, and `mean_change` is the figure to quote.
        skipped: conditions left out for too few detections.
    """

    change: dict[Condition, float]
    mean_change: float
    mrce: float
    skipped: list[Condition]


def calibration_robustness(
    clean: Reliability,
    corrupted: Mapping[Condition, Reliability],
    floor: float = 0.01,
    min_detections: int = MIN_DETECTIONS,
) -> CalibrationRobustness:
    """Compare calibration under corruption with calibration on clean frames.

    Args:
        clean: of clean frames.
        corrupted: of the same frames by (corruption, severity).
        floor: least clean error to divide by.
        min_detections: conditions with fewer detections are skipped; the means are NaN if all are.
    """
    kept = {key: part for key, part in corrupted.items() if part.detections >= min_detections}
    change = {key: part.error - clean.error for key, part in kept.items()}
    names = dict.fromkeys(name for name, _ in change)
    by_name = [np.mean([change[key] for key in change if key[0] == name]) for name in names]
    mean = float(np.mean(by_name)) if by_name else float('nan')
    return CalibrationRobustness(
        change, mean, 100.0 * mean / max(clean.error, floor), [key for key in corrupted if key not in kept]
    )


def _scipy_optimize() -> Any:
    """SciPy's optimisers: the only place that needs SciPy, so loaded only here."""
    try:
        return importlib.import_module('scipy.optimize')
    except ModuleNotFoundError as error:
        raise CalibrationUnavailableError(
            f'a calibrator is fitted by {error.name}, which is not installed: '
            'pip install "diffkd_ros[report]"'
        ) from error


def _fitting_pairs(
    validation: FrameResults, iou_threshold: float, min_score: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores, hits, iou = _judged(validation, iou_threshold, min_score)
    if len(scores) == 0:
        raise EvaluationError(f'a calibrator needs detections of score {min_score} or more to be fitted to')
    targets = iou if iou_threshold == ANY_OVERLAP else hits
    return scores.astype(np.float64), targets.astype(np.float64)


@dataclass(frozen=True, slots=True)
class TemperatureScaling:
    """Divides the logit of the score by a temperature: above 1 it makes scores more modest.

    Attributes:
        temperature: above 0.
    """

    temperature: float

    @classmethod
    def fit(
        cls, validation: FrameResults, iou_threshold: float = ANY_OVERLAP, min_score: float = MIN_SCORE
    ) -> TemperatureScaling:
        """Minimise the cross-entropy of the scaled scores with their targets.

        Args:
            validation: **clean** frames that are not evaluated afterwards.
            iou_threshold: the target is precision at this threshold (as D-ECE has it), or with `ANY_OVERLAP`
                the overlap (as LaECE0).
            min_score: detections below it are left out.

        Raises:
            EvaluationError: if there are no detections to fit to.
            CalibrationUnavailableError: if SciPy is not installed.
        """
        scores, targets = _fitting_pairs(validation, iou_threshold, min_score)
        logits = _logit(scores)

        def cross_entropy(log_temperature: float) -> float:
            scaled = logits / np.exp(log_temperature)
            return float(np.mean(np.logaddexp(0.0, scaled) - targets * scaled))

        # The loss is convex in 1 / temperature, so it has one minimum in the logarithm too.
        best = _scipy_optimize().minimize_scalar(
            cross_entropy, bounds=(-5.0, 5.0), method='bounded', options={'xatol': 1e-8}
        )
        return cls(float(np.exp(best.x)))

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scale (n,) scores."""
        return 1.0 / (1.0 + np.exp(-_logit(scores) / self.temperature))


def _logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    inside = np.clip(np.asarray(scores, np.float64), 1e-7, 1.0 - 1e-7)
    return np.log(inside) - np.log1p(-inside)


@dataclass(frozen=True, slots=True)
class IsotonicScaling:
    """Maps scores by the non-decreasing function nearest to the targets, linear between the fitted scores.

    It makes many scores equal, so rank detections (for AP) by their own scores and not by these.

    Attributes:
        score: (k,) ascending.
        value: (k,) what they are mapped to, not descending; constant beyond both ends.
    """

    score: NDArray[np.float64]
    value: NDArray[np.float64]

    @classmethod
    def fit(
        cls, validation: FrameResults, iou_threshold: float = ANY_OVERLAP, min_score: float = MIN_SCORE
    ) -> IsotonicScaling:
        """Minimise the squared distance of the scaled scores from their targets.

        Arguments and errors as for `TemperatureScaling.fit`.
        """
        scores, targets = _fitting_pairs(validation, iou_threshold, min_score)
        unique, where, count = np.unique(scores, return_inverse=True, return_counts=True)
        mean = np.bincount(where, weights=targets) / count
        fitted = _scipy_optimize().isotonic_regression(mean, weights=count)
        return cls(unique, np.asarray(fitted.x, np.float64))

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (n,) scores."""
        return np.interp(np.asarray(scores, np.float64), self.score, self.value)
