# SPDX-License-Identifier: Apache-2.0

import json
import math

import pytest

from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.metrics.average_precision import EvaluationError


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


def mce(content, folder):
    return Summary.model_validate(content).against(folder).mce


@pytest.fixture
def baseline(tmp_path):
    content = summary((0.8, 0.6), fog=[(0.6, 0.5), (0.4, 0.3)], crosstalk=[(0.75, 0.5)])
    (tmp_path / 'summary.json').write_text(json.dumps(content))
    return tmp_path


def test_mean_corruption_error_by_hand(baseline):
    own = summary((0.9, 0.7), fog=[(0.8, 0.6), (0.6, 0.5)], crosstalk=[(0.9, 0.6)])
    # Errors summed over severities, own over the baseline's: at IoU 0.5 fog (0.2 + 0.4) / (0.4 + 0.6) = 0.6
    # and crosstalk 0.1 / 0.25 = 0.4; at IoU 0.7 fog (0.4 + 0.5) / (0.5 + 0.7) = 0.75 and crosstalk 0.4 / 0.5.
    assert mce(own, baseline) == pytest.approx(100 * (0.6 + 0.4 + 0.75 + 0.8) / 4)
    same = json.loads((baseline / 'summary.json').read_text())
    assert mce(same, baseline) == pytest.approx(100.0)


def test_only_like_is_compared_with_like(baseline, tmp_path):
    own = summary((0.9, 0.7), fog=[(0.8, 0.6), (0.6, 0.5)], crosstalk=[(0.9, 0.6)])
    lab = {'group': 'paper', 'who': 'all', 'profile': 'lab'}
    for other, expected in (
        ({'protocol': 'opencood'}, "scoring are 'sim', not 'opencood'"),
        ({'truths': 91}, r'\[2, 8, 90\], not \[2, 8, 91\]'),
        ({'run': {'seeds': [0, 1]}}, r'seeds are \[0\], not \[0, 1\]'),
        ({'groups': [{**lab, 'who': 'ego', 'profile': 'graded'}]}, "not .'ego', 'graded'"),
        ({'groups': [lab]}, "not .'all', 'lab'"),
    ):
        with pytest.raises(EvaluationError, match=expected):
            mce({**own, **other}, baseline)
    fewer = summary((0.9, 0.7), fog=[(0.8, 0.6), (0.6, 0.5)])
    with pytest.raises(EvaluationError, match='cannot be a baseline'):
        mce(fewer, baseline)
    (baseline / 'summary.json').write_text('{')
    with pytest.raises(EvaluationError, match='cannot be a baseline'):
        mce(own, baseline)
    with pytest.raises(EvaluationError, match='cannot be a baseline'):
        mce(own, tmp_path / 'absent')


def test_what_was_read_is_written_again(baseline, tmp_path):
    content = json.loads((baseline / 'summary.json').read_text())
    content['clean']['gate_ego'] = None
    content['corruptions']['fog'].update(who='all', family='lidar', rce_ap50=None)
    content['mrce_interval'] = [None, 3.5]
    read = Summary.model_validate(content)
    assert math.isnan(read.clean.gate_ego)
    assert math.isnan(read.mrce)
    assert list(read.corruptions['fog'].severities) == [1, 2]
    (tmp_path / 'again').mkdir()
    read.write(tmp_path / 'again')
    assert json.loads((tmp_path / 'again' / 'summary.json').read_text()) == content


@pytest.mark.parametrize('text', ['', '[]', '{"clean": 1}', '{"clean": {"ap50": "much"}}'])
def test_files_that_are_not_summaries_are_refused_by_name(tmp_path, text):
    (tmp_path / 'summary.json').write_text(text)
    with pytest.raises(EvaluationError, match=r'summary\.json is not a summary'):
        Summary.read(tmp_path)
