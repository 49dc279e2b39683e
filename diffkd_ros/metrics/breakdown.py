# SPDX-License-Identifier: Apache-2.0
"""Where a detector finds and where it errs: by distance, by who saw the vehicle, and where nobody looked.

A part of the frames' boxes has an average precision of its own. It counts the truths of the part, the
detections that found them, and the false alarms that belong to the part themselves, truths and false alarms
being sorted into parts by the same rule; what found a truth of another part is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError, average_precision
from diffkd_ros.metrics.frame_results import FALSE_ALARM, Detections, FrameResults, Truths


class Visibility(str, Enum):
    """Who saw a box, by the returns within it in the sweeps that the detector got."""

    EGO = 'ego'
    """The ego, whoever else did."""
    OTHERS = 'others'
    """The other agents together, but not the ego."""
    NONE = 'none'
    """Neither."""


@dataclass(frozen=True, slots=True)
class PartScore:
    """How the detector did on one part of the boxes, at one IoU threshold.

    Attributes:
        average_precision: in [0, 1]; NaN if the part has no truth that counts.
        recall: share of those truths found by any detection; NaN likewise.
        truths: that count.
        false_alarms: that belong to the part.
    """

    average_precision: float
    recall: float
    truths: int
    false_alarms: int


def _score_part(
    results: FrameResults,
    iou_threshold: float,
    order: DetectionOrder,
    truths: NDArray[np.bool_],
    detections: NDArray[np.bool_],
) -> PartScore:
    """Score the masked truths (m,) and, of the false alarms, the masked detections (n,)."""
    found = results.found(iou_threshold)
    hit = found >= 0
    hit[hit] = truths[found[hit]]
    false_alarm = (found == FALSE_ALARM) & detections
    judged = hit | false_alarm
    count = int((truths & results.truths.counted).sum())
    return PartScore(
        average_precision(results.detections.score[judged], hit[judged], count, order),
        float(hit.sum() / count) if count else float('nan'),
        count,
        int(false_alarm.sum()),
    )


def by_distance(
    results: FrameResults,
    iou_threshold: float,
    edges: Sequence[float] = (0.0, 30.0, 50.0, 100.0),
    order: DetectionOrder = DetectionOrder.GLOBAL,
) -> dict[tuple[float, float], PartScore]:
    """Score by distance from the ego's LiDAR to the centre, seen from above.

    Args:
        results: scored frames.
        iou_threshold: one they were scored at.
        edges: ascending, metres; a bin holds its lower edge and not its upper one.
        order: how the frames' detections are put together.

    Returns:
        By (lower, upper) edge.

    Raises:
        EvaluationError: if there are fewer than two edges or they do not ascend.
    """
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise EvaluationError(f'distance edges must ascend, at least two of them; got {list(edges)}')
    parts = {}
    for low, high in pairwise(edges):
        truths, detections = (
            (columns.distance >= low) & (columns.distance < high)
            for columns in (results.truths, results.detections)
        )
        parts[low, high] = _score_part(results, iou_threshold, order, truths, detections)
    return parts


def _seen(columns: Detections | Truths, min_returns: int) -> dict[Visibility, NDArray[np.bool_]]:
    ego, others = columns.returns_ego >= min_returns, columns.returns_others >= min_returns
    return {Visibility.EGO: ego, Visibility.OTHERS: ~ego & others, Visibility.NONE: ~(ego | others)}


def by_visibility(
    results: FrameResults,
    iou_threshold: float,
    min_returns: int = 5,
    order: DetectionOrder = DetectionOrder.GLOBAL,
) -> dict[Visibility, PartScore]:
    """Score by who saw the vehicle after corruption.

    Args:
        results: scored frames.
        iou_threshold: one they were scored at.
        min_returns: the ego, or the other agents together, saw a box with at least this many returns in it.
        order: how the frames' detections are put together.
    """
    truths, detections = _seen(results.truths, min_returns), _seen(results.detections, min_returns)
    return {
        seen: _score_part(results, iou_threshold, order, truths[seen], detections[seen])
        for seen in Visibility
    }


@dataclass(frozen=True, slots=True)
class UnobservedFalseAlarms:
    """False alarms where no agent had a return on the ground they claim: made up, not mistaken.

    Attributes:
        frames: number of frames.
        false_alarms: all of them.
        unobserved: those without a return on or near them (see `Detections.returns_near`).
    """

    frames: int
    false_alarms: int
    unobserved: int

    @property
    def per_frame(self) -> float:
        """Unobserved false alarms a frame, NaN without frames."""
        return self.unobserved / self.frames if self.frames else float('nan')


def unobserved_false_alarms(
    results: FrameResults, iou_threshold: float, min_score: float = 0.0
) -> UnobservedFalseAlarms:
    """Count the false alarms outside everything that any agent observed.

    Args:
        results: scored frames.
        iou_threshold: one they were scored at.
        min_score: detections below it do not count.
    """
    false_alarm = (results.found(iou_threshold) == FALSE_ALARM) & (results.detections.score >= min_score)
    unobserved = false_alarm & (results.detections.returns_near == 0)
    return UnobservedFalseAlarms(len(results), int(false_alarm.sum()), int(unobserved.sum()))
