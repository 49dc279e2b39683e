# SPDX-License-Identifier: Apache-2.0
"""Robustness figures against printed tables and hand-computed means."""

import numpy as np
import pytest

from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.robustness import NOT_IN_SIX, Robustness, relative_corruption_error

# CoopDiff's printed AP on OPV2V at IoU 0.5 and 0.7.
CLEAN = {0.5: 0.9053, 0.7: 0.8357}
PRINTED = {
    ('motion_blur', 1): {0.5: 0.8142, 0.7: 0.6184},
    ('fog', 1): {0.5: 0.6871, 0.7: 0.6297},
    ('electromagnetic_interference', 1): {0.5: 0.7891, 0.7: 0.6897},
}


@pytest.mark.parametrize(
    ('clean', 'corrupted', 'percent'),
    [
        (0.9053, 0.6871, 24.10),
        (0.9053, 0.8142, 10.06),
        (0.9053, 0.7909, 12.64),
        (0.9053, 0.7891, 12.84),
        (0.9053, 0.8745, 3.40),
        (0.8357, 0.6297, 24.65),
        (0.8878, 0.6778, 23.65),
        (0.8941, 0.6763, 24.36),
        (0.5, 0.6, -20.0),
    ],
)
def test_relative_corruption_error(clean: float, corrupted: float, percent: float) -> None:
    assert relative_corruption_error(clean, corrupted) == pytest.approx(percent, abs=0.005)


def test_without_clean_precision_there_is_no_relative_error() -> None:
    assert np.isnan(relative_corruption_error(0.0, 0.0))
    assert np.isnan(relative_corruption_error(float('nan'), 0.5))


def test_mrce_is_the_mean_over_corruptions_and_both_thresholds() -> None:
    robustness = Robustness(CLEAN, PRINTED)
    at_50 = [(0.9053 - ap) / 0.9053 for ap in (0.8142, 0.6871, 0.7891)]
    at_70 = [(0.8357 - ap) / 0.8357 for ap in (0.6184, 0.6297, 0.6897)]
    assert robustness.mrce([0.5]) == pytest.approx(100 * sum(at_50) / 3, abs=1e-9)
    assert robustness.mrce([0.7]) == pytest.approx(100 * sum(at_70) / 3, abs=1e-9)
    assert robustness.mrce() == pytest.approx(100 * sum(at_50 + at_70) / 6, abs=1e-9)
    assert robustness.rce()['fog', 1, 0.5] == pytest.approx(24.10, abs=0.005)
    assert robustness.rce_by_corruption()['fog'] == pytest.approx((24.1025 + 24.65) / 2, abs=0.005)


def test_six_type_basis_leaves_crosstalk_out() -> None:
    more = Robustness(CLEAN, {**PRINTED, ('crosstalk', 1): {0.5: 0.9, 0.7: 0.83}})
    assert more.mrce(without=NOT_IN_SIX) == pytest.approx(Robustness(CLEAN, PRINTED).mrce(), abs=1e-12)
    assert more.mrce() < more.mrce(without=NOT_IN_SIX)


def test_a_corruption_with_more_severities_weighs_no_more() -> None:
    corrupted = {('fog', 1): {0.5: 0.6}, ('fog', 2): {0.5: 0.4}, ('snow', 1): {0.5: 0.8}}
    # Fog (25 % + 50 %) / 2, snow 0 %.
    robustness = Robustness({0.5: 0.8}, corrupted)
    assert robustness.mrce([0.5]) == pytest.approx(37.5 / 2, abs=1e-9)
    assert robustness.mean_precision(0.5) == pytest.approx((0.5 + 0.8) / 2, abs=1e-12)


def test_mce_compares_the_sums_of_errors() -> None:
    def at_both(clean: float, fog: float, more_fog: float, snow: float) -> Robustness:
        precisions = {('fog', 1): fog, ('fog', 2): more_fog, ('snow', 1): snow}
        return Robustness(
            {0.5: clean, 0.7: clean}, {key: {0.5: ap, 0.7: ap} for key, ap in precisions.items()}
        )

    own, base = at_both(0.9, 0.8, 0.6, 0.9), at_both(0.9, 0.6, 0.5, 0.8)
    # Fog (0.2 + 0.4) / (0.4 + 0.5), snow 0.1 / 0.2.
    assert own.mce(base) == pytest.approx(100 * (0.6 / 0.9 + 0.5) / 2, abs=1e-9)
    assert base.mce(base) == pytest.approx(100.0)
    assert np.isnan(own.mce(at_both(1.0, 1.0, 1.0, 1.0)))


def test_samples_pass_through() -> None:
    rng = np.random.default_rng(0)
    clean, fog, snow = ({0.5: rng.uniform(0.2, 0.9, 50), 0.7: rng.uniform(0.2, 0.9, 50)} for _ in range(3))
    sampled = Robustness(clean, {('fog', 1): fog, ('snow', 1): snow})
    for k in (0, 17, 49):
        single = Robustness(
            {iou: ap[k] for iou, ap in clean.items()},
            {
                ('fog', 1): {iou: ap[k] for iou, ap in fog.items()},
                ('snow', 1): {iou: ap[k] for iou, ap in snow.items()},
            },
        )
        assert sampled.mrce()[k] == pytest.approx(single.mrce(), abs=1e-12)
        assert sampled.mce(sampled)[k] == pytest.approx(100.0)
        assert isinstance(single.mrce(), float)


def test_errors_say_what_is_missing() -> None:
    with pytest.raises(EvaluationError, match='at least one corruption'):
        Robustness(CLEAN, {})
    with pytest.raises(EvaluationError, match=r"\('fog', 1\): AP at IoU \[0.5\], but clean at \[0.5, 0.7\]"):
        Robustness(CLEAN, {('fog', 1): {0.5: 0.1}})
    robustness = Robustness(CLEAN, PRINTED)
    with pytest.raises(EvaluationError, match=r'asked for at \[0.3\]'):
        robustness.mrce([0.3])
    assert np.isnan(robustness.mrce(without=robustness.corruptions))
    with pytest.raises(EvaluationError, match=r"same conditions of both; only one has \[\('fog', 1\)"):
        robustness.mce(Robustness(CLEAN, {k: v for k, v in PRINTED.items() if k[0] != 'fog'}))
