# SPDX-License-Identifier: Apache-2.0
"""Calibration of detection scores: D-ECE, LaECE, LRP, reliability diagrams, and scaling after training.

A detector is calibrated if a share p of its detections with score p is correct (D-ECE, at an IoU threshold),
or if the mean overlap of those detections with what they found is p (LaECE, Oksuz et al., CVPR 2023; without
a threshold LaECE0, Kuzucu et al., ECCV 2024). Both are the same sum over bins of the scores, with different
targets. Detections on ignored truths have no target and are left out.

Errors are in [0, 1]. They do not measure accuracy, so report LRP or AP alongside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.metrics.average_precision import ANY_OVERLAP, EvaluationError
from diffkd_ros.metrics.frame_results import DROPPED, FrameResults
from diffkd_ros.metrics.robustness import Condition

# Well below the score at which detections are used, so that the lower tail is included.
MIN_SCORE = 0.05
BINS = 25
# With fewer detections than this, a calibration error is mostly noise.
MIN_DETECTIONS = 500
# The least clean error that a relative change is divided by.
_ERROR_FLOOR = 0.01

Scaling = Callable[[NDArray[np.floating]], NDArray[np.float64]]
"""Maps scores to calibrated scores in [0, 1], monotonically."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram: the bins of the scores in ascending order, none empty.

    Attributes:
        count: (bins,) int64 detections.
        score: (bins,) mean score.
        target: (bins,) mean target: precision for D-ECE, overlap for LaECE.
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
        """Mean score minus mean target, above 0 if scores are too high; NaN if empty."""
        return self._mean(self.score - self.target)

    def _mean(self, values: NDArray[np.float64]) -> float:
        return float(np.average(values, weights=self.count)) if self.detections else float('nan')


def reliability(scores: NDArray[np.floating], targets: NDArray[np.floating]) -> Reliability:
    """Compare scores with their targets in at most `BINS` bins of equal mass; equal scores share a bin.

    Args:
        scores: (n,) in [0, 1].
        targets: (n,) in [0, 1].

    Raises:
        EvaluationError: if scores or targets lie outside [0, 1].
    """
    for name, values in (('score', scores), ('target', targets)):
        if not ((values >= 0.0) & (values <= 1.0)).all():
            raise EvaluationError(f'calibration needs each {name} in [0, 1]')
    order = np.argsort(scores, kind='stable')
    ordered = scores[order].astype(np.float64)
    if len(ordered) == 0:
        return Reliability(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    lowest = ordered[np.arange(BINS) * len(ordered) // BINS]
    # Scaled scores are often equal, so a cut never separates equal scores.
    cuts = np.unique(np.searchsorted(ordered, lowest, side='left'))
    count = np.diff([*cuts, len(ordered)])
    return Reliability(
        count,
        np.add.reduceat(ordered, cuts) / count,
        np.add.reduceat(targets[order].astype(np.float64), cuts) / count,
    )


def _judged(
    results: FrameResults, iou_threshold: float, min_score: float = MIN_SCORE
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """Score, hit and overlap of the detections that have a target."""
    found = results.found(iou_threshold)
    judged = (found != DROPPED) & (results.detections.score >= min_score)
    iou = results.detections.iou[results.row(iou_threshold)]
    return results.detections.score[judged], found[judged] >= 0, iou[judged]


def detection_calibration(
    results: FrameResults, iou_threshold: float, scaling: Scaling | None = None
) -> Reliability:
    """D-ECE at an IoU threshold: scores against precision, of detections with score `MIN_SCORE` or more.

    Args:
        results: scored frames.
        iou_threshold: one they were scored at.
        scaling: applied to the scores after the selection by score.
    """
    scores, hits, _ = _judged(results, iou_threshold)
    return reliability(scaling(scores) if scaling else scores, hits.astype(np.float64))


def localisation_aware_calibration(results: FrameResults, scaling: Scaling | None = None) -> Reliability:
    """LaECE0: scores against overlap, which is 0 for a false alarm; otherwise as `detection_calibration`.

    A bin's precision times the mean overlap of its hits is the mean overlap of all its detections.
    """
    scores, _, iou = _judged(results, ANY_OVERLAP)
    return reliability(scaling(scores) if scaling else scores, iou)


@dataclass(frozen=True, slots=True)
class LocalisationRecallPrecision:
    """LRP error (Oksuz et al., ECCV 2018) at a score threshold, in [0, 1], and its three components.

    Attributes:
        error: (false alarms + missed + sum over hits of (1 - IoU) / (1 - threshold)) / (all three counts);
            NaN with neither truths nor detections.
        localisation: mean 1 - IoU of the hits, NaN without hits.
        false_alarms: share of the detections that hit nothing, NaN without detections.
        missed: share of the truths not found, NaN without truths.
    """

    error: float
    localisation: float
    false_alarms: float
    missed: float


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
    )


@dataclass(frozen=True, slots=True)
class CalibrationRobustness:
    """Change of the calibration error under corruption.

    Attributes:
        change: error minus the clean error by (corruption, severity), in [-1, 1]; ΔLaECE0 for example.
        mean_change: the mean over the severities of each corruption, then over the corruptions.
        mrce: the same relative to the clean error, percent. The clean error is near 0 and is floored, so this
            ratio is unstable; prefer `mean_change`.
        skipped: conditions with fewer than `MIN_DETECTIONS` detections, which are left out.
    """

    change: dict[Condition, float]
    mean_change: float
    mrce: float
    skipped: list[Condition]


def calibration_robustness(
    clean: Reliability, corrupted: Mapping[Condition, Reliability]
) -> CalibrationRobustness:
    """Compare calibration under corruption with calibration on clean frames.

    Args:
        clean: of clean frames.
        corrupted: of the same frames by (corruption, severity); the means are NaN if all are skipped.
    """
    kept = {key: part for key, part in corrupted.items() if part.detections >= MIN_DETECTIONS}
    change = {key: part.error - clean.error for key, part in kept.items()}
    names = dict.fromkeys(name for name, _ in change)
    by_name = [np.mean([change[key] for key in change if key[0] == name]) for name in names]
    mean = float(np.mean(by_name)) if by_name else float('nan')
    relative = 100.0 * mean / max(clean.error, _ERROR_FLOOR)
    return CalibrationRobustness(change, mean, relative, [key for key in corrupted if key not in kept])


def _fitting_pairs(
    validation: FrameResults, iou_threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores, hits, iou = _judged(validation, iou_threshold)
    if len(scores) == 0:
        raise EvaluationError(f'a calibrator needs detections of score {MIN_SCORE} or more to be fitted to')
    targets = iou if iou_threshold == ANY_OVERLAP else hits
    return scores.astype(np.float64), targets.astype(np.float64)


@dataclass(frozen=True, slots=True)
class TemperatureScaling:
    """Divides the logit of the score by a temperature; a temperature above 1 moves scores towards 0.5.

    Attributes:
        temperature: above 0.
    """

    temperature: float

    @classmethod
    def fit(cls, validation: FrameResults, iou_threshold: float = ANY_OVERLAP) -> TemperatureScaling:
        """Minimise the cross-entropy of the scaled scores with their targets.

        Args:
            validation: **clean** frames that are not evaluated afterwards.
            iou_threshold: the target is precision at this threshold (for D-ECE), or with `ANY_OVERLAP` the
                overlap (for LaECE0).

        Raises:
            EvaluationError: if there are no detections to fit to.
        """
        from scipy.optimize import minimize_scalar

        scores, targets = _fitting_pairs(validation, iou_threshold)
        logits = _logit(scores)

        def cross_entropy(log_temperature: float) -> float:
            scaled = logits / np.exp(log_temperature)
            return float(np.mean(np.logaddexp(0.0, scaled) - targets * scaled))

        # The loss is convex in 1 / temperature, so it has one minimum in the logarithm too.
        best = minimize_scalar(cross_entropy, bounds=(-5.0, 5.0), method='bounded', options={'xatol': 1e-8})
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

    Many scaled scores are equal, so rank detections (for AP) by their original scores.

    Attributes:
        score: (k,) ascending.
        value: (k,) mapped scores, non-decreasing; constant beyond both ends.
    """

    score: NDArray[np.float64]
    value: NDArray[np.float64]

    @classmethod
    def fit(cls, validation: FrameResults, iou_threshold: float = ANY_OVERLAP) -> IsotonicScaling:
        """Minimise the squared distance of the scaled scores from their targets.

        Arguments and errors as for `TemperatureScaling.fit`.
        """
        from scipy.optimize import isotonic_regression

        scores, targets = _fitting_pairs(validation, iou_threshold)
        unique, where, count = np.unique(scores, return_inverse=True, return_counts=True)
        mean = np.bincount(where, weights=targets) / count
        fitted = isotonic_regression(mean, weights=count)
        return cls(unique, np.asarray(fitted.x, np.float64))

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (n,) scores."""
        return np.interp(np.asarray(scores, np.float64), self.score, self.value)
