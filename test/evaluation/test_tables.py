# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.evaluation.report.tables import mean_corruption_error


def summary(clean, **severities):
    """AP@0.5 and AP@0.7 of clean frames, and of each severity of each corruption."""

    def figures(pair):
        return dict(zip(('ap50', 'ap70'), pair, strict=True))

    return {
        'protocol': 'sim',
        'scenarios': 2,
        'frames': 8,
        'truths': 90,
        'run': {'seeds': [0]},
        'groups': [{'group': 'paper', 'who': 'all', 'profile': 'graded'}],
        'mrce_of': list(severities),
        'clean': figures(clean),
        'corruptions': {
            name: {'severities': {str(k): figures(pair) for k, pair in enumerate(pairs, 1)}}
            for name, pairs in severities.items()
        },
    }


@pytest.fixture
def baseline(tmp_path):
    content = summary((0.8, 0.6), fog=[(0.6, 0.5), (0.4, 0.3)], crosstalk=[(0.75, 0.5)])
    (tmp_path / 'summary.json').write_text(json.dumps(content))
    return tmp_path


def test_mean_corruption_error_by_hand(baseline):
    own = summary((0.9, 0.7), fog=[(0.8, 0.6), (0.6, 0.5)], crosstalk=[(0.9, 0.6)])
    # Errors summed over severities, own over the baseline's: at IoU 0.5 fog (0.2 + 0.4) / (0.4 + 0.6) = 0.6
    # and crosstalk 0.1 / 0.25 = 0.4; at IoU 0.7 fog (0.4 + 0.5) / (0.5 + 0.7) = 0.75 and crosstalk 0.4 / 0.5.
    assert mean_corruption_error(own, baseline) == pytest.approx(100 * (0.6 + 0.4 + 0.75 + 0.8) / 4)
    same = json.loads((baseline / 'summary.json').read_text())
    assert mean_corruption_error(same, baseline) == pytest.approx(100.0)


def test_only_like_is_compared_with_like(baseline, tmp_path):
    own = summary((0.9, 0.7), fog=[(0.8, 0.6), (0.6, 0.5)], crosstalk=[(0.9, 0.6)])
    lab = {'group': 'paper', 'who': 'all', 'profile': 'lab'}
    for other, told in (
        ({'protocol': 'opencood'}, "scoring are 'sim', not 'opencood'"),
        ({'truths': 91}, r'\[2, 8, 90\], not \[2, 8, 91\]'),
        ({'run': {'seeds': [0, 1]}}, r'seeds are \[0\], not \[0, 1\]'),
        ({'groups': [{**lab, 'who': 'ego', 'profile': 'graded'}]}, "not .'ego', 'graded'"),
        ({'groups': [lab]}, "not .'all', 'lab'"),
    ):
        with pytest.raises(ExperimentError, match=told):
            mean_corruption_error({**own, **other}, baseline)
    fewer = summary((0.9, 0.7), fog=[(0.8, 0.6), (0.6, 0.5)])
    with pytest.raises(ExperimentError, match='cannot be a baseline'):
        mean_corruption_error(fewer, baseline)
    (baseline / 'summary.json').write_text('{')
    with pytest.raises(ExperimentError, match='cannot be a baseline'):
        mean_corruption_error(own, baseline)
    with pytest.raises(ExperimentError, match='cannot be a baseline'):
        mean_corruption_error(own, tmp_path / 'absent')
