# SPDX-License-Identifier: Apache-2.0
"""Bootstrap samples against explicit resampling, and intervals against a population that is known."""

import numpy as np
import pytest
from scored_frames import drawn, random_frames, random_results, results

from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError
from diffkd_ros.metrics.bootstrap import ScenarioBootstrap, interval
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.robustness import relative_corruption_error

NAMES = ['a', 'b', 'c', 'd']


def times_drawn(resamples: int, seed: int) -> np.ndarray:
    """How often a bootstrap draws each scenario, (resamples, scenarios)."""
    return np.random.default_rng(seed).multinomial(4, np.full(4, 0.25), size=resamples)


@pytest.mark.parametrize('seed', range(12))
def test_samples_of_ap_are_those_of_the_frames_drawn(seed: int) -> None:
    parts = random_frames(np.random.default_rng(seed), NAMES, frames=2)
    bootstrap = ScenarioBootstrap(NAMES, resamples=15, seed=seed)
    draws = [drawn(parts, NAMES, times) for times in times_drawn(15, seed)]
    for order in DetectionOrder:
        expected = [part.average_precision(0.5, order) for part in draws]
        np.testing.assert_allclose(bootstrap.average_precision(join(parts), 0.5, order), expected, atol=1e-12)


def test_one_bootstrap_pairs_its_samples() -> None:
    rng = np.random.default_rng(9)
    parts = random_frames(rng, NAMES, frames=4, each=10)
    clean = join(parts)
    bootstrap = ScenarioBootstrap(NAMES, resamples=200, seed=2)
    # Compared with itself a detector loses nothing in every sample.
    samples = bootstrap.average_precision(clean, 0.5)
    assert np.std(samples) > 0.01
    np.testing.assert_array_equal(samples, bootstrap.average_precision(clean, 0.5))
    np.testing.assert_array_equal(relative_corruption_error(samples, samples), 0.0)
    # Frames may come in another order and number, as long as the scenarios are the same.
    shuffled = join([parts[k] for k in rng.permutation(len(parts))])
    np.testing.assert_allclose(bootstrap.average_precision(shuffled, 0.5), samples, atol=1e-12)


def test_seeds() -> None:
    part = random_results(np.random.default_rng(9), NAMES, frames=4)
    one, same, other = (
        ScenarioBootstrap(NAMES, resamples=50, seed=seed).average_precision(part, 0.5) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def population(rng: np.random.Generator, count: int) -> list[FrameResults]:
    """Scenarios of differing difficulty: share of vehicles found, and informative scores."""
    parts = []
    for k in range(count):
        quality = rng.uniform(0.3, 0.95)
        iou = np.where(rng.random(12) < quality, 0.8, 0.0)
        scores = np.clip(rng.normal(0.5 + 0.2 * (iou > 0), 0.15), 0.01, 0.99)
        parts.append(results(scores.tolist(), iou.tolist(), 12, f'{k}', thresholds=(0.5,)))
    return parts


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(10)
    truth = join(population(rng, 4000)).average_precision(0.5)
    everyone = population(rng, 40 * 120)
    held, widths = 0, []
    for trial in range(120):
        sample = join(everyone[40 * trial : 40 * trial + 40])
        bootstrap = ScenarioBootstrap(sample.scenarios, resamples=300, seed=trial)
        ends = interval(sample.average_precision(0.5), bootstrap.average_precision(sample, 0.5))
        assert ends.low < ends.estimate < ends.high
        held += ends.low <= truth <= ends.high
        widths.append(ends.high - ends.low)
    # 95 % of 120, give or take three standard deviations.
    assert 0.89 <= held / 120 <= 1.0
    assert np.median(widths) < 0.2


def test_scenarios_without_truths_or_detections() -> None:
    part = join([results([0.9], [0.8], 1, 'a'), results([], [], 0, 'b')])
    bootstrap = ScenarioBootstrap(['a', 'b'], resamples=200, seed=0)
    samples = bootstrap.average_precision(part, 0.5)
    # Drawn twice, the empty scenario leaves nothing to find.
    assert set(np.unique(samples[np.isfinite(samples)])) == {1.0}
    assert 0.1 < np.isnan(samples).mean() < 0.4
    blind = join([results([], [], 2, 'a'), results([], [], 1, 'b')])
    np.testing.assert_array_equal(bootstrap.average_precision(blind, 0.5), 0.0)


def test_unknown_intervals() -> None:
    part = results([0.9, 0.8], [0.8, 0.0], 2, 'only')
    bootstrap = ScenarioBootstrap(['only'], resamples=30)
    ends = interval(part.average_precision(0.5), bootstrap.average_precision(part, 0.5))
    assert ends.estimate == 0.5
    assert np.isnan([ends.low, ends.high]).all()
    assert np.isnan(interval(0.5, [np.nan, 0.4]).low)
    spread = interval(0.5, np.arange(101) / 100)
    assert (spread.low, spread.high) == pytest.approx((0.025, 0.975))


def test_errors_say_what_came() -> None:
    with pytest.raises(EvaluationError, match='must be unique'):
        ScenarioBootstrap(['a', 'a'])
    with pytest.raises(EvaluationError, match='must be unique'):
        ScenarioBootstrap([])
    with pytest.raises(EvaluationError, match=r"not in both: \['b', 'd', 'e'\]"):
        ScenarioBootstrap(['a', 'b', 'd']).average_precision(
            random_results(np.random.default_rng(0), ['a', 'e']), 0.5
        )
