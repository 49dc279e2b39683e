# SPDX-License-Identifier: Apache-2.0

import pytest

from diffkd_ros.corruptions import CorruptionError, names
from diffkd_ros.evaluation.conditions import REFERENCES, Condition, make_conditions
from diffkd_ros.metrics.average_precision import EvaluationError


def test_all_is_every_corruption_at_every_severity_and_seed():
    conditions = make_conditions('all', 'all', 'default', '0,1')
    corrupted = conditions[len(REFERENCES) :]
    assert conditions[:2] == list(REFERENCES)
    assert {condition.corruption for condition in corrupted} == set(names(profile='graded'))
    assert len({condition.name for condition in conditions}) == len(conditions)
    fog = [(c.severity, c.seed, c.who) for c in corrupted if c.corruption == 'fog']
    assert fog == [(s, seed, 'all') for s in (1, 2, 3) for seed in (0, 1)]
    assert {c.who for c in corrupted if c.corruption == 'pose_gaussian'} == {'neighbours'}


def test_none_leaves_the_references():
    assert make_conditions('none') == list(REFERENCES)


def test_lab_profile_is_one_level_of_the_papers_seven():
    corrupted = make_conditions('all', profile='lab')[2:]
    assert [c.corruption for c in corrupted] == list(names(role='paper'))
    assert all((c.profile, c.severity) == ('lab', 1) for c in corrupted)


def test_a_corruption_is_measured_at_the_severities_it_has():
    corrupted = make_conditions('fog,pose_laplace', '3,4')[2:]
    assert [(c.corruption, c.severity) for c in corrupted] == [
        ('fog', 3),
        ('pose_laplace', 3),
        ('pose_laplace', 4),
    ]


def test_agents_apply_to_sensors_but_not_to_links():
    corrupted = make_conditions('crosstalk,tile_loss', '1', 'ego,neighbours')[2:]
    assert [(c.corruption, c.who) for c in corrupted] == [
        ('crosstalk', 'ego'),
        ('crosstalk', 'neighbours'),
        ('tile_loss', 'neighbours'),
    ]


def test_only_losses_and_delays_need_history():
    needing = {c.corruption for c in make_conditions('all', '1') if c.needs_history}
    assert needing == {'message_loss', 'burst_loss', 'chunk_loss', 'chunk_burst', 'delay'}


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ({'corruptions': 'foq'}, "'fog'"),
        ({'who': 'neighbors'}, "'neighbours'"),
        ({'profile': 'labs'}, "'lab'"),
        ({'severities': '0'}, 'from 1'),
        ({'severities': 'high'}, 'from 1'),
        ({'severities': '9', 'corruptions': 'fog'}, r'\[1, 2, 3\]'),
        ({'corruptions': 'fog,pose_laplace', 'severities': '1,9'}, r'\[9\]'),
        ({'corruptions': 'snow', 'profile': 'lab'}, 'graded'),
        ({'seeds': '1,1'}, 'without repetitions'),
        ({'seeds': ''}, 'list'),
        ({'seeds': '9' * 5000}, 'from 0'),
    ],
)
def test_unknown_values_are_refused_with_the_nearest_known(arguments, expected):
    with pytest.raises((EvaluationError, CorruptionError), match=expected):
        make_conditions(**arguments)


def test_seeds_of_one_level_share_it():
    first, second = Condition('fog', 2, 0), Condition('fog', 2, 7)
    assert first.level == second.level
    assert first.name != second.name


def test_conditions_without_randomness_are_measured_once():
    seeds = {}
    for condition in make_conditions('all', '1', seeds='3,5'):
        seeds.setdefault(condition.corruption, []).append(condition.seed)
    once = {'clean', 'ego_alone', 'quantisation', 'bandwidth'}
    assert {name for name, drawn in seeds.items() if drawn == [0]} == once
    assert all(drawn == [3, 5] for name, drawn in seeds.items() if name not in once)
