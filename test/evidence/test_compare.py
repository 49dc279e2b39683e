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
from diffkd_ros.evidence.compare import differences, figures
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
    found = differences([evaluation(own)], [evaluation(other)])['clean_ap50'].mean
    assert found.estimate == pytest.approx(own.average_precision(0.5) - other.average_precision(0.5))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


def test_figures_under_corruption_are_those_of_the_rows() -> None:
    own, other = (frames(1), frames(3)), (frames(2), frames(4))
    found = {key: value.mean for key, value in differences([evaluation(*own)], [evaluation(*other)]).items()}

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
    own = [evaluation(frames(1))]
    assert differences(own, [evaluation(frames(2))]).keys() == {'clean_ap50', 'clean_ap70'}
    with pytest.raises(DiffkdError, match='different scenarios'):
        differences(own, [evaluation(frames(2, ['a', 'b', 'c', 'e']))])


def test_several_training_seeds_are_compared_seed_by_seed() -> None:
    """The mean over the seeds, and its interval from the mean of their samples, which are paired."""
    own, other = [evaluation(frames(k)) for k in (1, 2)], [evaluation(frames(k)) for k in (3, 4, 5)]
    found = differences(own, other)['clean_ap70']

    def sampled(one: Evaluation) -> tuple[float, np.ndarray]:
        return one.sampled(lambda ap: ap(Condition(CLEAN), 0.7))

    values = [sampled(one)[0] for one in (*own, *other)]
    assert found.by_seed == pytest.approx((values[0] - values[2], values[1] - values[3]))
    assert found.mean.estimate == pytest.approx((values[0] + values[1] - values[2] - values[3]) / 2)
    drawn = [sampled(one)[1] for one in (*own, *other)]
    expected = np.quantile((drawn[0] + drawn[1] - drawn[2] - drawn[3]) / 2, [0.025, 0.975])
    assert (found.mean.low, found.mean.high) == pytest.approx(tuple(expected))


def test_figures_are_kept_apart_by_the_agents_that_are_corrupted() -> None:
    levels = {Condition('fog', 2, 0, who): frames(k) for k, who in enumerate(('all', 'ego', 'neighbours'), 6)}
    clean = frames(1)
    found = figures(Evaluation({Condition(CLEAN): clean} | levels, protocol_named('sim'), 0.0))
    assert found['clean_ap50'] == clean.average_precision(0.5)
    parts = zip(('corrupted', 'ego_only', 'neighbours_only'), levels.values(), strict=True)
    for name, part in parts:
        assert found[f'{name}_ap70'] == part.average_precision(0.7)
    assert len(found) == 9
    lost = [1 - levels[FOG].average_precision(iou) / clean.average_precision(iou) for iou in (0.5, 0.7)]
    assert found['mrce'] == pytest.approx(50 * sum(lost))
