# SPDX-License-Identifier: Apache-2.0
"""Measures of the effect of attacks on the ego: false boxes, lost vehicles, and judgements of senders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from diffkd_ros.metrics.average_precision import ANY_OVERLAP, EvaluationError
from diffkd_ros.metrics.frame_results import FALSE_ALARM, FrameResults
from diffkd_ros.metrics.inference import MESSAGES_PER_SECOND

MIN_SCORE = 0.3
"""Least score of a false box."""
MOST_OVERLAP = 0.1
"""IoU with the truth that it found below which a box is false."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The senders of one frame that lied, and those that the ego took for liars.

    Attributes:
        liars: agents that lied.
        judged: whether each agent was taken for a liar, or its message refused; without those not judged.
    """

    liars: tuple[int, ...] = ()
    judged: Mapping[int, bool] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.liars or self.judged)


Judgements = Mapping[int, Judgement]
"""Of a drive, by the position of the frame."""


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


def detected_share(drives: Sequence[Judgements]) -> float:
    """Share of the lies whose sender was refused or taken for a liar; NaN if nobody was ever judged."""
    frames = [frame for drive in drives for frame in drive.values()]
    if not any(frame.judged for frame in frames):
        return float('nan')
    lies = [frame.judged.get(agent, False) for frame in frames for agent in frame.liars]
    return float(np.mean(lies)) if lies else float('nan')


def mean_delay(drives: Sequence[Judgements]) -> float:
    """Mean seconds from the first frame of a drive until a liar was first refused or taken for one.

    Liars that never were, and drives whose frames are not successive, are left out; NaN if none is left.
    """
    delays = []
    for drive in drives:
        positions = sorted(drive)
        if len(positions) < 2 or any(after - before != 1 for before, after in pairwise(positions)):
            continue
        for agent in drive[positions[0]].liars:
            caught = [each for each in positions if drive[each].judged.get(agent, False)]
            delays += [(each - positions[0]) / MESSAGES_PER_SECOND for each in caught[:1]]
    return float(np.mean(delays)) if delays else float('nan')


def false_share(drives: Sequence[Judgements]) -> float:
    """Share of the honest senders, of all frames, that were taken for liars; NaN if none was judged."""
    honest = [
        liar
        for drive in drives
        for frame in drive.values()
        for agent, liar in frame.judged.items()
        if agent not in frame.liars
    ]
    return float(np.mean(honest)) if honest else float('nan')
