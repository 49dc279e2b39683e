# SPDX-License-Identifier: Apache-2.0
"""Scores by distance and by visibility, and false alarms on ground that no agent observed.

A part of the boxes has its own average precision. It counts the truths of the part, the detections that found
them, and the false alarms of the part, truths and false alarms being assigned to parts by the same rule.
Detections that found a truth of another part are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.metrics.average_precision import average_precision
from diffkd_ros.metrics.frame_results import FALSE_ALARM, Detections, FrameResults, Truths

# The ego, or the other agents together, see a box with at least this many returns in it.
_MIN_RETURNS = 5


class Visibility(str, Enum):
    """Which agents saw a box, by the returns within it in the sweeps that the detector got."""

    EGO = 'ego'
    """The ego, with or without others."""
    OTHERS = 'others'
    """The other agents together, but not the ego."""
    NONE = 'none'
    """Neither."""


@dataclass(frozen=True, slots=True)
class PartScore:
    """Score of one part of the boxes at one IoU threshold.

    Attributes:
        average_precision: in [0, 1]; NaN if no truth of the part counts.
        recall: share of those truths found by any detection; NaN likewise.
        truths: number of truths that count.
        false_alarms: number of false alarms in the part.
    """

    average_precision: float
    recall: float
    truths: int
    false_alarms: int


def _score_part(
    results: FrameResults,
    iou_threshold: float,
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
        average_precision(results.detections.score[judged], hit[judged], count),
        float(hit.sum() / count) if count else float('nan'),
        count,
        int(false_alarm.sum()),
    )


def by_distance(
    results: FrameResults, iou_threshold: float, edges: Sequence[float] = (0.0, 30.0, 50.0, 100.0)
) -> dict[tuple[float, float], PartScore]:
    """Score by distance from the ego's LiDAR to the box centre, seen from above.

    Args:
        results: scored frames.
        iou_threshold: one they were scored at.
        edges: ascending, metres; a bin includes its lower edge and excludes its upper one.

    Returns:
        Scores by (lower, upper) edge.
    """
    parts = {}
    for low, high in pairwise(edges):
        truths, detections = (
            (columns.distance >= low) & (columns.distance < high)
            for columns in (results.truths, results.detections)
        )
        parts[low, high] = _score_part(results, iou_threshold, truths, detections)
    return parts


def _seen(columns: Detections | Truths) -> dict[Visibility, NDArray[np.bool_]]:
    ego, others = columns.returns_ego >= _MIN_RETURNS, columns.returns_others >= _MIN_RETURNS
    return {Visibility.EGO: ego, Visibility.OTHERS: ~ego & others, Visibility.NONE: ~(ego | others)}


def by_visibility(results: FrameResults, iou_threshold: float) -> dict[Visibility, PartScore]:
    """Score by which agents saw the vehicle, with five returns or more, in the sweeps after corruption."""
    truths, detections = _seen(results.truths), _seen(results.detections)
    return {seen: _score_part(results, iou_threshold, truths[seen], detections[seen]) for seen in Visibility}


def unobserved_false_alarms(results: FrameResults, iou_threshold: float) -> float:
    """False alarms per frame without a return of any agent on or near them; NaN without frames."""
    false_alarm = results.found(iou_threshold) == FALSE_ALARM
    unobserved = int((false_alarm & (results.detections.returns_near == 0)).sum())
    return unobserved / len(results) if len(results) else float('nan')
