# SPDX-License-Identifier: Apache-2.0
"""Loss of average precision under corruption: RCE, mRCE, mRR and mCE.

The relative corruption error (RCE) of Dong et al. (CVPR 2023) and RCP-Bench is the share of its clean AP that
a detector loses; mRCE is its mean, mRR is 100 - mRCE. mCE is Robo3D's, which compares the errors 1 - AP with
those of a baseline. All are in percent, AP is in [0, 1].

Every figure may be a number or an array of bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.metrics.average_precision import EvaluationError

Figure = float | NDArray[np.float64]
PrecisionByIou = Mapping[float, Figure]
Condition = tuple[str, int]
"""A corruption's name and its severity."""

IOU_THRESHOLDS = (0.5, 0.7)

# CoopDiff's mRCE leaves this one of the seven types out.
NOT_IN_SIX = ('crosstalk',)


def relative_corruption_error(clean: Figure, corrupted: Figure) -> Figure:
    """Percent of the clean AP that is lost; negative if corruption helped, NaN if the clean AP is 0.

    For example 24.10 for a clean AP of .9053 and a corrupted one of .6871.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        lost = np.subtract(clean, corrupted) / np.asarray(clean, np.float64)
    result = 100.0 * np.where(np.asarray(clean) == 0.0, np.nan, lost)
    return float(result) if result.ndim == 0 else result


def _mean(figures: Sequence[Figure]) -> Figure:
    if not figures:
        return float('nan')
    result = np.mean(np.broadcast_arrays(*figures), axis=0)
    return float(result) if result.ndim == 0 else result


@dataclass(frozen=True)
class Robustness:
    """One detector's AP on clean and on corrupted frames.

    Means give each corruption the same weight, however many severities were measured: first the mean over a
    corruption's severities, then over the corruptions, then over the IoU thresholds.

    Attributes:
        clean: AP by IoU threshold.
        corrupted: AP by IoU threshold of every (corruption, severity).

    Raises:
        EvaluationError: if nothing is corrupted or a condition lacks an IoU threshold.
    """

    clean: PrecisionByIou
    corrupted: Mapping[Condition, PrecisionByIou]

    def __post_init__(self) -> None:
        if not self.corrupted:
            raise EvaluationError('robustness needs at least one corruption')
        for condition, precision in self.corrupted.items():
            if set(precision) != set(self.clean):
                raise EvaluationError(
                    f'{condition}: AP at IoU {sorted(precision)}, but clean at {sorted(self.clean)}'
                )

    @property
    def corruptions(self) -> list[str]:
        """Names, in the order given."""
        return list(dict.fromkeys(name for name, _ in self.corrupted))

    def rce(self) -> dict[tuple[str, int, float], Figure]:
        """RCE by corruption, severity and IoU threshold, percent."""
        return {
            (*condition, iou): relative_corruption_error(self.clean[iou], precision[iou])
            for condition, precision in self.corrupted.items()
            for iou in self.clean
        }

    def rce_by_corruption(self, iou_thresholds: Sequence[float] = IOU_THRESHOLDS) -> dict[str, Figure]:
        """RCE of each corruption, the mean over its severities and the IoU thresholds, percent.

        Raises:
            EvaluationError: if AP is unknown at a threshold.
        """
        self._check(iou_thresholds)
        rce = self.rce()
        # Every severity has every threshold, so one mean over both is the mean of the means.
        return {
            name: _mean([rce[name, s, iou] for s in self._severities(name) for iou in iou_thresholds])
            for name in self.corruptions
        }

    def mrce(self, iou_thresholds: Sequence[float] = IOU_THRESHOLDS, without: Collection[str] = ()) -> Figure:
        """Mean relative corruption error, percent; NaN if no corruption remains.

        Args:
            iou_thresholds: to average over.
            without: corruptions to leave out, `NOT_IN_SIX` for example.

        Raises:
            EvaluationError: if AP is unknown at a threshold.
        """
        errors = self.rce_by_corruption(iou_thresholds)
        return _mean([error for name, error in errors.items() if name not in without])

    def mean_precision(self, iou_threshold: float) -> Figure:
        """AP under corruption in [0, 1], the mean over the severities of each corruption, then over these.

        Raises:
            EvaluationError: if AP is unknown at the threshold.
        """
        self._check([iou_threshold])
        return _mean(
            [
                _mean([self.corrupted[name, s][iou_threshold] for s in self._severities(name)])
                for name in self.corruptions
            ]
        )

    def mce(self, baseline: Robustness) -> Figure:
        """Mean corruption error against a baseline, percent: 100 equals the baseline, less is better.

        Of each corruption, the sum of 1 - AP over its severities divided by the baseline's; then the mean
        over IoU 0.5 and 0.7 and over the corruptions. NaN where the baseline makes no error.

        Raises:
            EvaluationError: if the two were not measured under the same conditions or at these thresholds.
        """
        for it in (self, baseline):
            it._check(IOU_THRESHOLDS)
        if set(baseline.corrupted) != set(self.corrupted):
            odd = sorted(set(baseline.corrupted) ^ set(self.corrupted))
            raise EvaluationError(f'mCE needs the same conditions of both; only one has {odd}')
        return _mean(
            [_mean([self._error(name, iou, baseline) for iou in IOU_THRESHOLDS]) for name in self.corruptions]
        )

    def _error(self, corruption: str, iou: float, baseline: Robustness) -> Figure:
        own, other = (
            np.sum(
                [1.0 - np.asarray(it.corrupted[corruption, s][iou]) for s in self._severities(corruption)],
                axis=0,
            )
            for it in (self, baseline)
        )
        with np.errstate(divide='ignore', invalid='ignore'):
            return 100.0 * np.where(other == 0.0, np.nan, own / other)

    def _severities(self, corruption: str) -> list[int]:
        return [severity for name, severity in self.corrupted if name == corruption]

    def _check(self, iou_thresholds: Sequence[float]) -> None:
        missing = [iou for iou in iou_thresholds if iou not in self.clean]
        if missing or not iou_thresholds:
            raise EvaluationError(
                f'AP is known at IoU {sorted(self.clean)}, asked for at {list(iou_thresholds)}'
            )
