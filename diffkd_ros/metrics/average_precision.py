# SPDX-License-Identifier: Apache-2.0
"""Average precision of 3D boxes as OPV2V and related benchmarks compute it.

Overlap is the IoU of rotated rectangles seen from above. Within a frame, detections are matched by
descending score; over the frames, they are put in one of the two published orders (`DetectionOrder`), and AP
is the area under the precision envelope at all recall points (PASCAL VOC 2010 and later).

Truths with fewer than `min_points` LiDAR returns are **ignored**: neither finding nor missing
them counts. Classes are not distinguished: every box counts as a vehicle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.overlap import bev_iou

ANY_OVERLAP = 0.0
"""The IoU threshold that any overlap reaches."""
_ROUNDING = 1e-9  # IoU of boxes that only touch


class EvaluationError(DiffkdError):
    """Detections, truths, settings or results that cannot be evaluated."""


class DetectionOrder(str, Enum):
    """The order in which the detections of all frames build the precision-recall curve.

    Published figures use both, so report the order with a figure.
    """

    GLOBAL = 'global'
    """All detections by descending score, as HEAL and CoAlign do: the usual definition."""
    PER_FRAME = 'per_frame'
    """Frame after frame, by descending score only within each, as OpenCOOD, DSRC and CoopDiff do by default.
    The curve then depends on the order of the frames and little on the scores."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Which detection found which truth in one frame, at one IoU threshold.

    Attributes:
        truth_index: (n_detections,) int64; the truth a detection found, or -1.
        iou: (n_detections,) float64; overlap of a detection with the truth it found, or 0.
        dropped: (n_detections,) bool; the detection overlaps an ignored truth: neither hit nor false alarm.
        counted: (n_truths,) bool; False for ignored truths.
    """

    truth_index: NDArray[np.int64]
    iou: NDArray[np.float64]
    dropped: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    @property
    def hit(self) -> NDArray[np.bool_]:
        """(n_detections,) bool; true positives."""
        return self.truth_index >= 0

    @property
    def false_alarm(self) -> NDArray[np.bool_]:
        """(n_detections,) bool; false positives."""
        return ~(self.hit | self.dropped)

    @property
    def missed(self) -> NDArray[np.bool_]:
        """(n_truths,) bool; counted truths that no detection found."""
        missed = self.counted.copy()
        missed[self.truth_index[self.hit]] = False
        return missed


def counted_truths(truth: Boxes3D, min_points: int) -> NDArray[np.bool_]:
    """Mask (n,) of the truths that count: all if the number of returns is unknown."""
    if truth.num_points is None:
        return np.ones(len(truth), np.bool_)
    return truth.num_points >= min_points


def _scores(detections: Boxes3D) -> NDArray[np.float32]:
    if detections.scores is None:
        if len(detections):
            raise EvaluationError(f'{len(detections)} detections came without scores')
        return np.zeros(0, np.float32)
    if not np.isfinite(detections.scores).all():
        raise EvaluationError('detections hold a score that is NaN or infinite')
    return detections.scores


def _match(
    iou: NDArray[np.float64], order: NDArray[np.int64], counted: NDArray[np.bool_], threshold: float
) -> Matching:
    truth_index = np.full(len(iou), -1, np.int64)
    found_iou = np.zeros(len(iou))
    dropped = np.zeros(len(iou), np.bool_)
    threshold = max(threshold, _ROUNDING)
    if iou.shape[1]:
        free = np.where(counted, iou, -1.0)
        covered = np.where(counted, -1.0, iou).max(axis=1) >= threshold
        for detection in order:
            best = int(np.argmax(free[detection]))
            if free[detection, best] >= threshold:
                truth_index[detection] = best
                found_iou[detection] = free[detection, best]
                free[:, best] = -1.0
            else:
                dropped[detection] = covered[detection]
    return Matching(truth_index, found_iou, dropped, counted)


def match(detections: Boxes3D, truth: Boxes3D, iou_threshold: float, min_points: int = 5) -> Matching:
    """Match one frame's detections to its truths; both in the same coordinate frame.

    By descending score (of equal scores the lower index first) each detection takes the counted, untaken
    truth that it overlaps most, if the IoU reaches the threshold. Otherwise it is dropped if its IoU with an
    ignored truth reaches the threshold (several may be dropped on one), else it is a false alarm. A second
    detection of one vehicle is therefore a false alarm.

    Args:
        detections: with scores.
        truth: with or without `num_points`.
        iou_threshold: in (0, 1].
        min_points: truths with fewer returns are ignored.

    Raises:
        EvaluationError: if scores are missing or not finite.
    """
    return match_each(detections, truth, [iou_threshold], min_points)[0]


def match_each(
    detections: Boxes3D, truth: Boxes3D, iou_thresholds: Sequence[float], min_points: int
) -> list[Matching]:
    """Match one frame at several thresholds, which may include `ANY_OVERLAP`; see `match`.

    Raises:
        EvaluationError: if scores are missing or not finite.
    """
    order = np.argsort(-_scores(detections), kind='stable')
    iou = bev_iou(detections.boxes, truth.boxes)
    counted = counted_truths(truth, min_points)
    return [_match(iou, order, counted, threshold) for threshold in iou_thresholds]


def check_thresholds(thresholds: Sequence[float]) -> None:
    """Check IoU thresholds.

    Raises:
        EvaluationError: if there are none, one is outside (0, 1], or one is given twice.
    """
    for threshold in thresholds:
        if not 0.0 < threshold <= 1.0:
            raise EvaluationError(f'an IoU threshold must be in (0, 1], got {threshold}')
    if not thresholds or len(set(thresholds)) < len(thresholds):
        raise EvaluationError(f'IoU thresholds must be given, each once; got {list(thresholds)}')


def average_precision(
    scores: NDArray[np.floating],
    hits: NDArray[np.bool_],
    truths: int,
    order: DetectionOrder = DetectionOrder.GLOBAL,
) -> float:
    """VOC 2010 all-point average precision: the area under the monotone envelope of precision over recall.

    Args:
        scores: (n,) frame after frame, by descending score within each.
        hits: (n,) bool, in the same order.
        truths: number of objects that could have been found.
        order: of the detections. Equal scores keep the order given.

    Returns:
        AP in [0, 1]: 0 without detections, NaN without truths.
    """
    if order is DetectionOrder.GLOBAL:
        hits = hits[np.argsort(-scores, kind='stable')]
    if truths == 0:
        return float('nan')
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1 / truths at each hit and nowhere else.
    return float(envelope[hits].sum() / truths)


class AveragePrecision:
    """Accumulates frames, then computes AP at several IoU thresholds.

    Args:
        iou_thresholds: each in (0, 1], no two equal.
        min_points: truths with fewer LiDAR returns are ignored.
        order: of the detections.

    Attributes:
        frames: number of frames added.
        truths: number of truths that count, over all frames.

    Raises:
        EvaluationError: if a threshold is out of range or given twice.
    """

    def __init__(
        self,
        iou_thresholds: Sequence[float] = (0.3, 0.5, 0.7),
        min_points: int = 5,
        order: DetectionOrder = DetectionOrder.GLOBAL,
    ) -> None:
        check_thresholds(iou_thresholds)
        self._min_points = min_points
        self._order = order
        self.frames = 0
        self.truths = 0
        self._scores: dict[float, list[NDArray[np.float32]]] = {float(t): [] for t in iou_thresholds}
        self._hits: dict[float, list[NDArray[np.bool_]]] = {float(t): [] for t in iou_thresholds}

    def add(self, detections: Boxes3D, truth: Boxes3D) -> None:
        """Score one frame; detections (with scores) and truths in the same coordinate frame.

        Raises:
            EvaluationError: if scores are missing or not finite; the frame is then not counted.
        """
        scores = _scores(detections)
        order = np.argsort(-scores, kind='stable')
        matchings = match_each(detections, truth, list(self._scores), self._min_points)
        for threshold, matching in zip(self._scores, matchings, strict=True):
            judged = order[~matching.dropped[order]]
            self._scores[threshold].append(scores[judged])
            self._hits[threshold].append(matching.hit[judged])
        self.frames += 1
        self.truths += int(counted_truths(truth, self._min_points).sum())

    def compute(self) -> dict[float, float]:
        """AP in [0, 1] for each IoU threshold; see `average_precision`.

        Frames are in the order in which they were added.
        """
        return {
            threshold: average_precision(
                np.concatenate([np.zeros(0, np.float32), *scores]),
                np.concatenate([np.zeros(0, np.bool_), *self._hits[threshold]]),
                self.truths,
                self._order,
            )
            for threshold, scores in self._scores.items()
        }
