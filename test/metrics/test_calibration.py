# SPDX-License-Identifier: Apache-2.0
"""Calibration figures where the truth is known: hand cases, analytic curves, exhaustive search."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scored_frames
from hypothesis import assume, given
from hypothesis import strategies as st
from scored_frames import cars, coop_frame, found, results

from diffkd_ros.frame import Boxes3D
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.calibration import (
    BINS,
    IsotonicScaling,
    Reliability,
    TemperatureScaling,
    calibration_robustness,
    detection_calibration,
    localisation_aware_calibration,
    localisation_recall_precision,
    reliability,
)
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.metrics.scoring import score_frame


def test_calibrated_scores_have_no_error() -> None:
    scores = np.repeat([0.2, 0.6, 0.9], 10)
    hits = np.concatenate([np.arange(10) < k for k in (2, 6, 9)]).astype(float)
    diagram = reliability(scores, hits)
    assert diagram.error == pytest.approx(0.0, abs=1e-12)
    assert diagram.count.tolist() == [10, 10, 10]
    np.testing.assert_allclose(diagram.score, [0.2, 0.6, 0.9])
    np.testing.assert_allclose(diagram.target, [0.2, 0.6, 0.9])


def test_known_miscalibration() -> None:
    # Score 0.9 where 60 % are right, 0.3 where half are: errors 0.3 and 0.2 on 20 and 10 detections.
    scores = np.repeat([0.9, 0.3], [20, 10])
    hits = np.concatenate([np.arange(20) < 12, np.arange(10) < 5]).astype(float)
    diagram = reliability(scores, hits)
    assert diagram.error == pytest.approx((20 * 0.3 + 10 * 0.2) / 30, abs=1e-12)
    assert diagram.overconfidence == pytest.approx((20 * 0.3 - 10 * 0.2) / 30, abs=1e-12)


def test_analytic_curve() -> None:
    # Scores spread evenly over [0, 1] whose target is their square: the integral of p - p^2 is 1/6.
    scores = (np.arange(20000) + 0.5) / 20000
    assert reliability(scores, scores**2).error == pytest.approx(1 / 6, abs=1e-4)


def test_bins_of_equal_mass() -> None:
    # Most scores are low, so bins of equal width would not be equally full.
    scores = (np.arange(50) / 49) ** 3
    assert reliability(scores, scores).count.tolist() == [2] * BINS
    # Equal scores stay together, in the bin that begins with them.
    assert reliability(np.repeat([0.1, 0.7], [70, 30]), np.zeros(100)).count.tolist() == [70, 30]


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=120))
def test_bins_partition_the_detections(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows]) / 60
    hits = np.array([hit for _, hit in rows], float)
    diagram = reliability(scores, hits)
    assert diagram.detections == len(rows)
    assert len(diagram.count) <= BINS
    assert (diagram.count > 0).all()
    assert (np.diff(diagram.score) > 0).all()
    assert np.average(diagram.score, weights=diagram.count) == pytest.approx(scores.mean())
    # The binned error is at most the mean error of the detections, and at least the bias.
    assert abs(diagram.overconfidence) - 1e-12 <= diagram.error <= np.abs(scores - hits).mean() + 1e-12


def test_d_ece_and_laece_of_a_scored_frame() -> None:
    truth = Boxes3D(cars(0, 10, 30), num_points=[50, 50, 0])
    # IoU 0.6, 1/3, none; one on an ignored truth; one below the score threshold.
    detections = found((1, 0.9), (12, 0.7), (-20, 0.4), (30, 0.8), (40, 0.04))
    part = score_frame(coop_frame(truth), detections, protocol_named('sim'))
    assert detection_calibration(part, 0.5).error == pytest.approx((0.1 + 0.7 + 0.4) / 3, abs=1e-6)
    assert detection_calibration(part, 0.3).error == pytest.approx((0.1 + 0.3 + 0.4) / 3, abs=1e-6)
    laece0 = localisation_aware_calibration(part)
    assert laece0.error == pytest.approx((0.3 + (0.7 - 1 / 3) + 0.4) / 3, abs=1e-6)
    # Precision times the mean overlap of the hits, compared with the mean score 2/3.
    assert laece0.overconfidence == pytest.approx(2 / 3 - 2 / 3 * (0.6 + 1 / 3) / 2, abs=1e-6)
    assert laece0.detections == 3


def test_without_detections_there_is_no_error() -> None:
    assert np.isnan(detection_calibration(results([], [], 3), 0.5).error)
    with pytest.raises(EvaluationError, match=r'each score in \[0, 1\]'):
        reliability(np.array([1.2]), np.array([1.0]))
    with pytest.raises(EvaluationError, match=r'each target in \[0, 1\]'):
        reliability(np.array([0.2]), np.array([np.nan]))


def test_lrp_by_hand() -> None:
    part = results([0.9, 0.8, 0.7, 0.2], [0.8, 0.6, 0.0, 0.9], truths=5)
    # Of at least 0.5: two hits with 1 - IoU = 0.2 and 0.4, one false alarm, three missed.
    lrp = localisation_recall_precision(part, 0.5, min_score=0.5)
    assert lrp.error == pytest.approx((1 + 3 + 0.6 / 0.5) / 6, abs=1e-6)
    assert (lrp.localisation, lrp.false_alarms, lrp.missed) == pytest.approx((0.3, 1 / 3, 3 / 5), abs=1e-6)
    nothing = localisation_recall_precision(results([], [], 0), 0.5, min_score=0.5)
    assert np.isnan([nothing.error, nothing.localisation, nothing.false_alarms, nothing.missed]).all()
    assert localisation_recall_precision(results([], [], 2), 0.5, 0.5).error == 1.0
    assert localisation_recall_precision(results([0.9], [1.0], 1), 0.5, 0.5).error == 0.0


def diagram(error: float, detections: int = 1000) -> Reliability:
    return Reliability(np.array([detections]), np.array([0.5]), np.array([0.5 - error]))


def test_calibration_under_corruption() -> None:
    corrupted = {('fog', 1): diagram(0.07), ('fog', 2): diagram(0.13), ('snow', 1): diagram(0.05)}
    change = calibration_robustness(diagram(0.05), {**corrupted, ('rain', 1): diagram(0.4, 499)})
    assert change.change == pytest.approx({('fog', 1): 0.02, ('fog', 2): 0.08, ('snow', 1): 0.0})
    assert change.mean_change == pytest.approx(0.025)
    assert change.mrce == pytest.approx(100 * 0.025 / 0.05)
    assert change.skipped == [('rain', 1)]
    # A clean error near 0 is floored.
    floored = calibration_robustness(diagram(0.0), {('fog', 1): diagram(0.02)})
    assert floored.mrce == pytest.approx(200.0)
    assert np.isnan(calibration_robustness(diagram(0.05), {('fog', 1): diagram(0.1, 3)}).mean_change)


def overconfident(temperature: float) -> FrameResults:
    """Detections whose overlap is their score with its logit divided by a temperature."""
    scores = np.linspace(0.06, 0.97, 200)
    overlap = 1 / (1 + ((1 - scores) / scores) ** (1 / temperature))
    return results(scores.tolist(), overlap.tolist(), 250)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    pytest.importorskip('scipy')
    validation = overconfident(temperature)
    scaling = TemperatureScaling.fit(validation)
    assert scaling.temperature == pytest.approx(temperature, rel=1e-3)
    assert localisation_aware_calibration(validation, scaling=scaling).error < 1e-3
    if temperature != 1.0:
        assert localisation_aware_calibration(validation).error > 0.05


def test_temperature_for_precision_is_that_of_least_cross_entropy() -> None:
    pytest.importorskip('scipy')
    rng = np.random.default_rng(5)
    scores = rng.uniform(0.1, 0.95, 400)
    iou = np.where(rng.random(400) < scores**2, 0.8, 0.2)
    scaling = TemperatureScaling.fit(results(scores.tolist(), iou.tolist(), 400), 0.5)
    grid = np.linspace(0.3, 3.0, 271)
    hits = iou >= 0.5

    def cross_entropy(t: float) -> float:
        p = TemperatureScaling(t)(scores)
        return -float(np.mean(np.where(hits, np.log(p), np.log(1 - p))))

    assert scaling.temperature == pytest.approx(grid[np.argmin([cross_entropy(t) for t in grid])], abs=0.011)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 10)), min_size=1, max_size=14))
def test_isotonic_scaling_is_the_nearest_non_decreasing_function(rows: list[tuple[int, int]]) -> None:
    pytest.importorskip('scipy')
    scores, overlap = np.array([[score / 8, iou / 10] for score, iou in rows], np.float32).T
    scaling = IsotonicScaling.fit(results(scores.tolist(), overlap.tolist(), len(rows)))
    # The solution in closed form: the largest over all starts of the smallest over all ends of the mean.
    unique = np.unique(scores)
    for k, score in enumerate(unique):
        expected = max(
            min(
                float(overlap[(scores >= unique[a]) & (scores <= unique[b])].astype(float).mean())
                for b in range(k, len(unique))
            )
            for a in range(k + 1)
        )
        assert scaling(np.array([score]))[0] == pytest.approx(expected, abs=1e-6)
    assert (np.diff(scaling(np.linspace(0, 1, 50))) >= 0).all()


def test_isotonic_scaling_calibrates_other_frames_of_its_kind() -> None:
    pytest.importorskip('scipy')
    rng = np.random.default_rng(6)

    def drive(seed_scenario: str) -> FrameResults:
        scores = rng.uniform(0.05, 1.0, 3000)
        iou = np.where(rng.random(3000) < scores**3, 0.9, 0.0)
        return results(scores.tolist(), iou.tolist(), 3000, seed_scenario)

    scaling = IsotonicScaling.fit(drive('validation'), 0.5)
    test = drive('test')
    assert detection_calibration(test, 0.5).error > 0.2
    assert detection_calibration(test, 0.5, scaling=scaling).error < 0.04


@given(st.floats(0.3, 4.0), st.lists(st.floats(0.05, 1.0), min_size=2, max_size=20, unique=True))
def test_scaling_keeps_the_range_and_the_order(temperature: float, scores: list[float]) -> None:
    ordered = np.sort(scores)
    assume((np.diff(ordered) > 1e-5).all())
    scaled = TemperatureScaling(temperature)(ordered)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert (np.diff(scaled) >= 0).all()


def test_a_calibrator_needs_detections() -> None:
    for scaling in (TemperatureScaling, IsotonicScaling):
        with pytest.raises(EvaluationError, match='needs detections'):
            scaling.fit(results([0.01], [0.5], 1))


def test_without_scipy_only_fitting_fails() -> None:
    code = (
        'import sys; sys.modules["scipy"] = None; sys.modules["scipy.optimize"] = None\n'
        f'sys.path.insert(0, {str(Path(scored_frames.__file__).parent)!r})\n'
        'from scored_frames import results\n'
        'from diffkd_ros.errors import missing_extra\n'
        'from diffkd_ros.metrics import calibration as c\n'
        'part = results([0.9], [0.6], 1)\n'
        'assert abs(c.localisation_aware_calibration(part).error - 0.3) < 1e-6\n'
        'try: c.IsotonicScaling.fit(part)\n'
        'except ModuleNotFoundError as error: print(missing_extra(error))\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'scipy' in done.stdout
    assert "pip install 'diffkd-ros[report]'" in done.stdout


def test_figures_of_joined_frames_are_of_all_detections() -> None:
    parts = [results([0.9], [0.6], 1), results([0.5], [0.0], 1), results([], [], 2)]
    assert detection_calibration(join(parts), 0.5).error == pytest.approx((0.1 + 0.5) / 2, abs=1e-6)
    assert localisation_recall_precision(join(parts), 0.5, 0.0).missed == 3 / 4
