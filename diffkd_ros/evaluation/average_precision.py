# SPDX-License-Identifier: Apache-2.0
"""Average precision of 3D boxes by the protocol of OPV2V and its kin.

Overlap is the IoU of rotated rectangles seen from above. Within a frame, detections choose in the order of
descending score; over the frames, all detections are sorted by score once (the "global sort" of HEAL and
CoAlign) and AP is the area under the precision envelope at all recall points (PASCAL VOC 2010 and later).

Truths with fewer than `min_points` LiDAR returns are **ignored**: missing them costs nothing and finding them
earns nothing. Classes are not told apart: every box counts as a vehicle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.overlap import bev_iou


class EvaluationError(ValueError):
    """Detections, truth or settings that cannot be scored."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Which detection found which truth in one frame, at one IoU threshold.

    Attributes:
        truth_index: (n_detections,) int64; the truth a detection found, or -1.
        dropped: (n_detections,) bool; the detection lies on an ignored truth: neither hit nor miss.
        counted: (n_truths,) bool; False for ignored truths.
    """

    truth_index: NDArray[np.int64]
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
    """Which truths count, (n,) bool: all if the number of returns is unknown."""
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
    dropped = np.zeros(len(iou), np.bool_)
    if iou.shape[1]:
        free = np.where(counted, iou, -1.0)
        covered = np.where(counted, -1.0, iou).max(axis=1) >= threshold
        for detection in order:
            best = int(np.argmax(free[detection]))
            if free[detection, best] >= threshold:
                truth_index[detection] = best
                free[:, best] = -1.0
            else:
                dropped[detection] = covered[detection]
    return Matching(truth_index, dropped, counted)


def match(detections: Boxes3D, truth: Boxes3D, iou_threshold: float, min_points: int = 5) -> Matching:
    """Match one frame's detections to its truth; both in the same frame of coordinates.

    By descending score (of equal scores the lower index first) each detection takes, of the counted truths
    not yet taken, the one it overlaps most, if the IoU reaches the threshold. Failing that, it is dropped if
    it overlaps an ignored truth that much (an ignored truth may absorb several), else it is a false alarm: so
    a second detection of one vehicle is a false alarm.

    Args:
        detections: with scores.
        truth: with or without `num_points`.
        iou_threshold: in (0, 1].
        min_points: truths with fewer returns are ignored.

    Raises:
        EvaluationError: if scores are missing or not finite or the threshold is outside (0, 1].
    """
    _check_threshold(iou_threshold)
    order = np.argsort(-_scores(detections), kind='stable')
    iou = bev_iou(detections.boxes, truth.boxes)
    return _match(iou, order, counted_truths(truth, min_points), iou_threshold)


def _check_threshold(threshold: float) -> None:
    if not 0.0 < threshold <= 1.0:
        raise EvaluationError(f'an IoU threshold must be in (0, 1], got {threshold}')


def area_under_precision(hits: NDArray[np.bool_], truths: int) -> float:
    """VOC 2010 all-point average precision.

    Args:
        hits: (n,) bool; whether each detection is a true positive, by descending score.
        truths: number of objects that could have been found.

    Returns:
        The area under the monotone envelope of precision over recall; NaN if there was nothing to find.
    """
    if truths == 0:
        return float('nan')
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1 / truths at each hit and nowhere else.
    return float(envelope[hits].sum() / truths)


class AveragePrecision:
    """Accumulates frames, then computes AP at several IoU thresholds.

    Args:
        iou_thresholds: each in (0, 1], no two equal.
        min_points: truths with fewer LiDAR returns are ignored.

    Raises:
        EvaluationError: if a threshold is out of range or given twice.
    """

    def __init__(self, iou_thresholds: Sequence[float] = (0.3, 0.5, 0.7), min_points: int = 5) -> None:
        for threshold in iou_thresholds:
            _check_threshold(threshold)
        if not iou_thresholds or len(set(iou_thresholds)) < len(iou_thresholds):
            raise EvaluationError(f'IoU thresholds must be given, each once; got {list(iou_thresholds)}')
        self._min_points = min_points
        self._frames = 0
        self._truths = 0
        self._scores: dict[float, list[NDArray[np.float32]]] = {float(t): [] for t in iou_thresholds}
        self._hits: dict[float, list[NDArray[np.bool_]]] = {float(t): [] for t in iou_thresholds}

    @property
    def frames(self) -> int:
        """Number of frames added."""
        return self._frames

    @property
    def truths(self) -> int:
        """Number of truths that count, over all frames."""
        return self._truths

    def add(self, detections: Boxes3D, truth: Boxes3D) -> None:
        """Score one frame; detections (with scores) and truth in the same frame of coordinates.

        Raises:
            EvaluationError: if scores are missing or not finite; the frame is then not counted.
        """
        scores = _scores(detections)
        counted = counted_truths(truth, self._min_points)
        order = np.argsort(-scores, kind='stable')
        iou = bev_iou(detections.boxes, truth.boxes)
        for threshold in self._scores:
            matching = _match(iou, order, counted, threshold)
            judged = order[~matching.dropped[order]]
            self._scores[threshold].append(scores[judged])
            self._hits[threshold].append(matching.hit[judged])
        self._frames += 1
        self._truths += int(counted.sum())

    def compute(self) -> dict[float, float]:
        """AP in [0, 1] for each IoU threshold.

        Equal scores keep the order in which their frames were added. With truths but no detections AP is 0;
        with no counted truth at all it is NaN, whatever was detected.
        """
        result = {}
        for threshold, scores in self._scores.items():
            order = np.argsort(-np.concatenate(scores), kind='stable') if scores else np.zeros(0, np.int64)
            hits = np.concatenate(self._hits[threshold]) if scores else np.zeros(0, np.bool_)
            result[threshold] = area_under_precision(hits[order], self._truths)
        return result
