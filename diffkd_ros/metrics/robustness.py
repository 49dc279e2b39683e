# SPDX-License-Identifier: Apache-2.0
"""How much average precision corruption costs: RCE, mRCE, mRR and mCE.

The relative corruption error (RCE) of Dong et al. (CVPR 2023) and RCP-Bench is the share of its clean AP that
a detector loses; mRCE is its mean, mRR what is left. mCE is Robo3D's, which compares the errors 1 - AP with a
baseline's. All are in percent, and AP in [0, 1].

Every figure may be a number or an array, so that the samples of a bootstrap pass through unchanged.
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

# CoopDiff's mRCE is over the seven types but this one.
NOT_IN_SIX = ('crosstalk',)


def relative_corruption_error(clean: Figure, corrupted: Figure) -> Figure:
    """Percent of the clean AP that is lost; negative if corruption helped, NaN if the clean AP is 0.

    .9053 clean and .6871 corrupted give 24.10.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        lost = np.subtract(clean, corrupted) / np.asarray(clean, np.float64)
    result = 100.0 * np.where(np.asarray(clean) == 0.0, np.nan, lost)
    return float(result) if result.ndim == 0 else result


def _mean(figures: Sequence[Figure]) -> Figure:
    result = np.mean(np.broadcast_arrays(*figures), axis=0)
    return float(result) if result.ndim == 0 else result


@dataclass(frozen=True)
class Robustness:
    """One detector's AP on clean and on corrupted frames, and what follows from it.

    A mean over corruptions takes each corruption for one, however many severities it was measured at: first
    the mean over a corruption's severities, then over the corruptions, then over the IoU thresholds.

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
            EvaluationError: if AP is not known at a threshold.
        """
        self._check(iou_thresholds)
        rce = self.rce()
        # Every severity has every threshold, so one mean over both is the mean of the means.
        return {
            name: _mean([rce[name, s, iou] for s in self._severities(name) for iou in iou_thresholds])
            for name in self.corruptions
        }

    def mrce(self, iou_thresholds: Sequence[float] = IOU_THRESHOLDS, without: Collection[str] = ()) -> Figure:
        """Mean relative corruption error, percent.

        Args:
            iou_thresholds: the mean is over these too.
            without: corruptions left out: `NOT_IN_SIX` for the six-type basis.

        Raises:
            EvaluationError: if AP is not known at a threshold or no corruption is left.
        """
        return _mean(list(self._kept(self.rce_by_corruption(iou_thresholds), without).values()))

    def mce(
        self,
        baseline: Robustness,
        iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
        without: Collection[str] = (),
    ) -> Figure:
        """Mean corruption error against a baseline, percent: 100 is as good as the baseline, less is better.

        Of each corruption, the sum of 1 - AP over its severities by the baseline's; then the mean over the
        corruptions and the IoU thresholds. NaN where the baseline makes no error.

        Raises:
            EvaluationError: if the two were not measured under the same conditions, AP is not known at a
                threshold, or no corruption is left.
        """
        self._check(iou_thresholds)
        baseline._check(iou_thresholds)
        if set(baseline.corrupted) != set(self.corrupted):
            odd = sorted(set(baseline.corrupted) ^ set(self.corrupted))
            raise EvaluationError(f'mCE needs the same conditions of both; only one has {odd}')
        ratios = {
            name: _mean([self._error(name, iou, baseline) for iou in iou_thresholds])
            for name in self.corruptions
        }
        return _mean(list(self._kept(ratios, without).values()))

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

    @staticmethod
    def _kept(figures: dict[str, Figure], without: Collection[str]) -> dict[str, Figure]:
        kept = {name: figure for name, figure in figures.items() if name not in without}
        if not kept:
            raise EvaluationError(f'no corruption is left of {list(figures)} without {list(without)}')
        return kept
