# SPDX-License-Identifier: Apache-2.0
"""What lies of senders do to the ego: boxes where nothing is, and vehicles that it no longer finds."""

from __future__ import annotations

import numpy as np

from diffkd_ros.metrics.average_precision import ANY_OVERLAP, EvaluationError
from diffkd_ros.metrics.frame_results import FALSE_ALARM, FrameResults

MIN_SCORE = 0.3
"""Least score of a false box."""
MOST_OVERLAP = 0.1
"""IoU with the truth that it found below which a box is false."""


def false_boxes(results: FrameResults) -> float:
    """Boxes per frame, of a score of at least 0.3, with an IoU of less than 0.1 with a truth they found.

    A truth is found by one box only. Boxes on ignored truths do not count. NaN without frames.
    """
    found, overlap = results.found(ANY_OVERLAP), results.detections.iou[results.row(ANY_OVERLAP)]
    nothing = (found == FALSE_ALARM) | ((found >= 0) & (overlap < MOST_OVERLAP))
    count = int((nothing & (results.detections.score >= MIN_SCORE)).sum())
    return count / len(results) if len(results) else float('nan')


def lost_share(results: FrameResults, alone: FrameResults, iou_threshold: float) -> float:
    """Share of the vehicles that the ego finds alone which are not found; NaN if it finds none.

    Args:
        results: scored frames.
        alone: the same frames without neighbours.
        iou_threshold: one that they were scored at.

    Raises:
        EvaluationError: if the frames are not the same.
    """
    same = np.array_equal(results.scenario, alone.scenario) and np.array_equal(results.index, alone.index)
    if not same or len(results.truths.frame) != len(alone.truths.frame):
        raise EvaluationError('results with and without neighbours are not of the same frames')
    with_neighbours, without = (np.unique(each.found(iou_threshold)) for each in (results, alone))
    without = without[without >= 0]
    return float(np.mean(~np.isin(without, with_neighbours))) if len(without) else float('nan')
