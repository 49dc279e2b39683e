# SPDX-License-Identifier: Apache-2.0
"""Differences of rows against explicit resampling of the frames of both."""

from __future__ import annotations

import numpy as np
import pytest
from scored_frames import drawn, random_frames, random_results

pytest.importorskip('lightning', reason='trainings need the train extra')

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evidence.compare import differences
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.metrics.protocol import protocol_named

NAMES = ['a', 'b', 'c', 'd']
FOG = Condition('fog', severity=2)
RESAMPLES = 1000


def evaluation(clean: FrameResults, fog: FrameResults | None = None) -> Evaluation:
    results = {Condition(CLEAN): clean} | ({} if fog is None else {FOG: fog})
    return Evaluation(results, protocol_named('sim'), 0.0)


def frames(seed: int, names: list[str] = NAMES) -> FrameResults:
    return random_results(np.random.default_rng(seed), names, frames=3, each=8)


def test_both_rows_are_drawn_on_the_same_scenarios() -> None:
    own, other = frames(1), frames(2)
    # The draws of a bootstrap with the default seed, read off the frames that it takes.
    times = np.random.default_rng(0).multinomial(4, np.full(4, 0.25), size=RESAMPLES)

    def precision(seed: int, count: np.ndarray) -> float:
        parts = random_frames(np.random.default_rng(seed), NAMES, frames=3, each=8)
        return drawn(parts, NAMES, count).average_precision(0.5)

    different, which = np.unique(times, axis=0, return_inverse=True)
    expected = np.array([precision(1, count) - precision(2, count) for count in different])[which.ravel()]
    found = differences(evaluation(own), evaluation(other))['clean_ap50']
    assert found.estimate == pytest.approx(own.average_precision(0.5) - other.average_precision(0.5))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


def test_figures_under_corruption_are_those_of_the_rows() -> None:
    own, other = (frames(1), frames(3)), (frames(2), frames(4))
    found = differences(evaluation(*own), evaluation(*other))

    def precision(part: FrameResults, iou: float) -> float:
        return part.average_precision(iou)

    def error(clean: FrameResults, fog: FrameResults) -> float:
        lost = [1 - precision(fog, iou) / precision(clean, iou) for iou in (0.5, 0.7)]
        return 100 * sum(lost) / 2

    assert found['corrupted_ap70'].estimate == pytest.approx(
        precision(own[1], 0.7) - precision(other[1], 0.7)
    )
    assert found['mrce'].estimate == pytest.approx(error(*own) - error(*other))
    assert found['mrce'].low < found['mrce'].estimate < found['mrce'].high


def test_rows_without_corruptions_or_of_other_scenarios() -> None:
    assert differences(evaluation(frames(1)), evaluation(frames(2))).keys() == {'clean_ap50', 'clean_ap70'}
    with pytest.raises(DiffkdError, match='different scenarios'):
        differences(evaluation(frames(1)), evaluation(frames(2, ['a', 'b', 'c', 'e'])))
