# SPDX-License-Identifier: Apache-2.0
"""A small experiment with real trainings and measurements, and tables of hand-made figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip('lightning', reason='trainings need the train extra')

from small_recipe import small_recipe

from diffkd_ros.cli import app
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.evidence.plan import load_experiment
from diffkd_ros.evidence.results import Evidence
from diffkd_ros.evidence.table import markdown
from diffkd_ros.runtime.card import ModelCard

ROOT = Path(__file__).resolve().parents[2]
BASE = small_recipe(data={'batch': 1, 'augmentation': {'corruptions': ['fog']}}).model_dump(mode='json')
CONDITIONS = {'scenarios': 1, 'frames_per_scenario': 1, 'corruptions': 'fog', 'severity': '2'}
PLAN = {
    'base': 'base.yaml',
    'trainings': {
        'method': {'after': 'teacher', 'stages': ['student', 'diffuser', 'joint'], 'seeds': 2},
        'teacher': {'stages': ['teacher']},
    },
    'rows': {
        'early': {'training': 'teacher', 'cooperation': 'early', 'label': 'Early'},
        'method': {'training': 'method', 'label': 'Method'},
        'shipped': {'model': 'sim_edge', 'label': 'Shipped'},
    },
    'reference': 'early',
    'subject': 'method',
    'conditions': {**CONDITIONS, 'more': [{'corruptions': 'fog', 'severity': '2', 'agents': 'ego'}]},
    'worlds': {'varied': {**CONDITIONS, 'source': 'sim:3,world=varied', 'corruptions': 'none'}},
    'intensity': {'row': 'shipped', **CONDITIONS, 'corruptions': 'none', 'names': ['physical', 'zero']},
    'sensors': {'row': 'shipped', **CONDITIONS, 'corruptions': 'none', 'names': ['vlp16']},
    'reliability': {'row': 'method', **CONDITIONS, 'agents': 'ego'},
    'steps': {'training': 'method', **CONDITIONS, 'starts': ['pure'], 'steps': [1]},
}


def write(folder: Path, plan: dict) -> Path:
    (folder / 'base.yaml').write_text(yaml.safe_dump(BASE))
    path = folder / 'plan.yaml'
    path.write_text(yaml.safe_dump(plan))
    return path


def test_one_command_trains_measures_and_reports_and_repeats_nothing(tmp_path: Path) -> None:
    plan, out = write(tmp_path, PLAN), tmp_path / 'out'
    command = ['evidence', str(plan), '--out', str(out), '--workers', '1']
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    evidence = Evidence.read(out)
    assert list(evidence.rows) == ['early', 'method', 'shipped']
    row = evidence.rows['method']
    method = row.summary
    assert method.run.model.startswith('method@')
    assert method == Summary.read(out / 'rows' / 'method')
    # One step of one frame in each stage.
    assert row.samples == {'teacher': 2, 'student': 2, 'diffuser': 2, 'joint': 2}

    # The second training seed: other networks, measured on the same frames.
    second = Summary.read(out / 'rows' / 'method_seed2')
    assert second.run.model.startswith('method_seed2@')
    assert second.run.model.partition('@')[2] != method.run.model.partition('@')[2]
    assert row.by_seed['clean_ap50'] == [method.clean.ap50, second.clean.ap50]
    subject = evidence.rows['shipped']
    assert subject.summary.run.model == ModelCard.load(ROOT / 'models' / 'sim_edge').model_id
    assert subject.by_seed == {} == subject.less_subject_by_seed
    assert subject.ego_only.ap50 == subject.summary.corruptions['fog (ego)'].ap50 > 0

    # Physical is the law of the frames of the table.
    alone = Summary.read(out / 'rows' / 'shipped')
    assert evidence.intensity['physical'].ap50 == alone.clean.ap50
    assert {*evidence.intensity} == {'physical', 'zero'}
    for folder, source in (
        ('intensity/zero', 'sim:intensity=zero'),
        ('sensors/vlp16', 'sim:sensor=vlp16'),
        ('worlds/varied/shipped', 'sim:3,world=varied'),
    ):
        assert Summary.read(out / folder).run.source == source
    vlp16 = Summary.read(out / 'sensors' / 'vlp16').clean
    written = json.loads((out / 'evidence.json').read_text())
    assert written['sensors'] == {'vlp16': {'ap50': vlp16.ap50, 'ap70': vlp16.ap70}}
    assert [(s.start, s.steps) for s in evidence.steps] == [('pure', 1)]
    assert evidence.reliability.corruptions.keys() == {'fog'}
    assert 0 < evidence.reliability.corruptions['fog'].severities[2].ego_reliability < 1
    assert (out / 'evidence.md').read_text() == markdown(evidence)
    assert (out / 'reliability.png').stat().st_size > 1000
    assert (out / 'steps.png').stat().st_size > 1000

    checkpoint = out / 'trainings' / 'method' / 'checkpoint.safetensors'
    written = checkpoint.stat().st_mtime_ns
    # However the folder is spelt.
    again = ['evidence', str(plan), '--out', os.path.relpath(out), '--workers', '1']
    outcome = CliRunner().invoke(app, again)
    assert outcome.exit_code == 0, outcome.output
    assert 'training' not in outcome.output
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'subject': 'absent'}, 'no row absent'),
        ({'rows': {'early': {'training': 'nothing', 'label': 'x'}}, 'subject': 'early'}, 'no training'),
        ({'rows': {'early': {'training': 'teacher', 'model': 'sim_edge', 'label': 'x'}}}, 'either a tr'),
        ({'rows': {'early': {'model': 'sim_egde', 'label': 'x'}}}, "'sim_egde' is neither"),
        (
            {'trainings': {'teacher': {'stages': ['teacher'], 'seeds': 3},
                           'method': {'stages': ['student'], 'after': 'teacher', 'seeds': 2}}},
            'method has 2 seeds, but teacher, its start, has 3',
        ),
        (
            {'trainings': {'teacher': {'stages': ['teacher'], 'seeds': 2},
                           'teacher_seed2': {'stages': ['teacher']}, 'method': {'stages': ['teacher']}}},
            'two runs would be named teacher_seed2',
        ),
        ({'change': {'data': {'batch': 0}}}, '(?s)change: .*batch'),
        (
            {'trainings': {'teacher': {'stages': ['pupil']}, 'method': {'stages': ['teacher']}}},
            'no stage pupil',
        ),
        (
            {'trainings': {'teacher': {'stages': ['teacher'], 'change': {'data': {'bacth': 3}}},
                           'method': {'stages': ['teacher']}}},
            r'training teacher: unknown key data\.bacth, did you mean batch\?$',
        ),
        (
            {'trainings': {'teacher': {'stages': ['teacher'], 'after': 'method'},
                           'method': {'stages': ['student'], 'after': 'teacher'}}},
            'wait for each other',
        ),
        # Hours of training come before them.
        ({'conditions': {'corruptions': 'fgo'}}, 'fgo'),
        ({'conditions': {'severity': '9'}}, "'9'"),
        ({'conditions': {'source': 'simm'}}, 'simm'),
        ({'conditions': {'source': f'dair:{ROOT}'}}, 'cooperative'),
        ({'reliability': {'row': 'method', 'agents': 'egos'}}, 'egos'),
        ({'conditions': {'more': [{'corruptions': 'fog', 'severity': '7'}]}}, "'7'"),
        ({'worlds': {'x': {'source': 'sim:3,world=basc'}}}, 'basc'),
        ({'intensity': {'row': 'method', 'names': ['zero', 'phsical']}}, 'did you mean physical'),
        ({'sensors': {'row': 'method', 'names': ['vlp15']}}, 'did you mean vlp16'),
        ({'sensors': {'row': 'absent', 'names': ['vlp16']}}, 'no row absent'),
        ({'steps': {'training': 'method', 'starts': ['pure'], 'steps': [1], 'seeds': 'x'}}, "'x'"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_run_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    plain = {**PLAN, **dict.fromkeys(('reliability', 'steps', 'intensity', 'sensors'))}
    path = write(tmp_path, {**plain, **change})
    with pytest.raises(DiffkdError, match=message):
        load_experiment(path, tmp_path / 'out')


def test_only_some_rows_need_only_their_trainings(tmp_path: Path) -> None:
    path = write(tmp_path, PLAN)
    early = load_experiment(path, tmp_path, ['early'])
    assert early.runs == ['teacher']
    assert early.asked == {'early'}
    assert not load_experiment(path, tmp_path, ['shipped']).runs
    both = load_experiment(path, tmp_path, ['shipped', 'method'])
    assert both.runs == ['teacher', 'method', 'method_seed2']
    assert load_experiment(path, tmp_path).asked == {'early', 'method', 'shipped'}
    with pytest.raises(DiffkdError, match='no absent; the plan has early, method, shipped'):
        load_experiment(path, tmp_path, ['early', 'absent'])


def test_rows_are_added_to_those_measured_before_under_their_own_names(tmp_path: Path) -> None:
    """Whether or not the rows that they are compared with were measured; here without any corruption."""
    none = {**CONDITIONS, 'corruptions': 'none', 'severity': 'all'}
    changed = {'conditions': none, 'worlds': {}, 'steps': None, 'sensors': None}
    changed['reliability'] = {'row': 'early', **none}
    plan, out = write(tmp_path, PLAN | changed), tmp_path / 'out'
    command = ['evidence', str(plan), '--out', str(out), '--workers', '1', '--rows']
    outcome = CliRunner().invoke(app, [*command, 'shipped'])
    assert outcome.exit_code == 0, outcome.output
    first = Evidence.read(out)
    assert (list(first.rows), first.subject, first.reference) == (['shipped'], 'method', 'early')
    assert first.rows['shipped'].less_subject == {}
    assert 'less' not in (out / 'evidence.md').read_text()

    outcome = CliRunner().invoke(app, [*command, 'early'])
    assert outcome.exit_code == 0, outcome.output
    second = Evidence.read(out)
    assert list(second.rows) == ['early', 'shipped']
    assert second.rows['shipped'].summary.clean == first.rows['shipped'].summary.clean
    assert second.rows['early'].summary.run.cooperation == 'early'
    assert second.intensity == first.intensity


def test_training_seeds_change_weights_and_samples_but_not_the_start(tmp_path: Path) -> None:
    trainings = {
        'teacher': {'stages': ['teacher']},
        'student': {'stages': ['student'], 'after': 'teacher', 'seeds': 2},
        'method': {'stages': ['joint'], 'after': 'student', 'seeds': 2},
    }
    experiment = load_experiment(write(tmp_path, {**PLAN, 'trainings': trainings}), tmp_path)
    assert experiment.after == {
        'teacher': None, 'student': 'teacher', 'student_seed2': 'teacher',
        'method': 'student', 'method_seed2': 'student_seed2',
    }  # fmt: skip
    first, second = experiment.recipes['method'], experiment.recipes['method_seed2']
    assert first.seed != second.seed
    # Simulated scenarios of other seeds, but not those of validation (2) and evaluation (3).
    assert {first.data.train_seed, second.data.train_seed}.isdisjoint({2, 3})
    assert first.data.train_seed != second.data.train_seed
    assert first.data.validation_seed == second.data.validation_seed
    assert second.initial == str(tmp_path / 'trainings' / 'student_seed2' / 'checkpoint.safetensors')


def test_the_shipped_plan_trains_every_row_to_convergence_from_one_teacher(tmp_path: Path) -> None:
    experiment = load_experiment(ROOT / 'config' / 'evidence.yaml', tmp_path)
    plan, recipes = experiment.plan, experiment.recipes
    assert set(plan.rows) == {
        'no_cooperation', 'late', 'early', 'max', 'attention', 'attention_augmented', 'agf', 'placebo',
        'diffkd', 'shipped',
    }  # fmt: skip
    chains: dict[str, dict[str, int]] = {}
    for name, recipe in recipes.items():
        before = experiment.after[name]
        own = {stage.name: stage.samples for stage in recipe.stages}
        chains[name] = (chains[before] if before else {}) | own
        assert recipe.data.batch == 16
        assert {source.simulator.world if source.simulator else recipe.data.simulator.world
                for source in recipe.data.sources} == {'basic', 'varied'}  # fmt: skip
    for row in plan.rows.values():
        if row.training is not None:
            samples = chains[row.training]
            assert samples['teacher'] >= 45_000
            assert row.training == 'teacher' or sum(samples.values()) - samples['teacher'] >= 15_000
    # The restoration is trained in two stages.
    assert chains['diffkd'] == chains['placebo']
    assert chains['diffkd']['diffuser'] + chains['diffkd']['joint'] >= 10_000
    # The rows nearest each other have two training seeds; those of AGF share their students.
    near = {'attention_augmented', 'agf', 'placebo', 'diffkd'}
    assert {name for name, training in plan.trainings.items() if training.seeds == 2} == near | {'student'}
    assert all(
        experiment.after[f'{name}_seed2'] == 'student_seed2' for name in near - {'attention_augmented'}
    )
    assert recipes['agf'].model.restoration == 'none'
    measured = {(level.corruption, level.who) for level in plan.conditions.levels()}
    assert {('fog', 'all'), ('fog', 'ego'), ('fog', 'neighbours'), ('snow', 'all')} <= measured


def test_tables_are_in_percent_and_leave_unknown_figures_empty() -> None:
    summary = {
        'clean': {
            'ap50': 0.8, 'ap50_interval': [0.75, 0.85], 'ap70': 0.5, 'ap70_interval': [0.45, 0.55],
            'false_boxes_outside': None,
        },
        'mrce': 20.0, 'mrce_interval': [18.0, 22.0], 'groups': [{'group': 'link', 'mrce': 3.25}],
        'calibration': {'laece0_mean_change': 0.0125}, 'link_mbit_s': 1.5,
        'latency_ms': {'encode': 20.4, 'fuse': 30.6},
        'corruptions': {'wet_ground': {'ap50': 0.655}},
    }  # fmt: skip
    row = {
        'label': 'A', 'summary': summary, 'corrupted': {'ap50': 0.7, 'ap70': None},
        'samples': {'teacher': 45000, 'student': 10000, 'joint': 5000},
    }  # fmt: skip
    other = {**row, 'label': 'B', 'summary': {**summary, 'mrce': 15.0, 'corruptions': {}}}
    sure = [0.011, 0.002, 0.02]
    row |= {
        'by_seed': {'clean_ap50': [0.8, 0.81], 'ego_only_ap70': [0.4, 0.39], 'mrce': [None, None]},
        'less_subject': {
            'clean_ap50': sure, 'clean_ap70': sure, 'mrce': [5.0, -1.0, None],
            'ego_only_ap70': [-0.03, -0.05, -0.01],
        },
        'less_subject_by_seed': {
            'clean_ap50': [0.01, 0.012], 'clean_ap70': [-0.001, 0.023], 'ego_only_ap70': [-0.02, -0.04],
        },
    }  # fmt: skip
    world = {'b': {'clean': {'ap50': 0.6, 'ap70': 0.4}, 'corrupted': {'ap50': 0.5, 'ap70': 0.3}}}
    content = {
        'data': 'simulated (by hand)', 'rows': {'a': row, 'b': other}, 'reference': 'a', 'subject': 'b',
        'worlds': {'varied': world}, 'intensity': {'gain_3': {'ap50': 0.79, 'ap70': 0.49}},
    }  # fmt: skip
    evidence = Evidence.model_validate(content)
    lines = markdown(evidence).splitlines()
    # Without the columns of which nothing is known.
    assert (
        lines[0]
        == '| simulated | seeds | samples | AP@0.5 | AP@0.7 | corrupted | mRCE | to reference | link |'
    )
    assert lines[2].startswith('| A | 2 | 15,000 | 80.0 (75.0 to 85.0) | 50.0 (45.0 to 55.0) | 70.0 /  | ')
    assert lines[2].endswith(' | 20.0 (18.0 to 22.0) |  | 3.2 |')
    assert '| -25 % |' in lines[3]
    assert lines[5] == '| simulated | ΔLaECE₀ | ms encode | ms fuse | Mbit/s |'
    assert lines[7] == '| A | 0.013 | 20 | 31 | 1.50 |'
    assert lines[10] == '| each training seed | AP@0.5 | ego only AP@0.7 |'
    assert lines[12] == '| A | 80.0, 81.0 | 40.0, 39.0 |'
    # A difference is bold if its interval does not contain 0 and several training seeds agree.
    assert lines[14] == '| less B | seeds | AP@0.5 | AP@0.7 | mRCE |'
    assert lines[16] == (
        '| A | 2 | **+1.1 (+0.2 to +2.0); +1.0, +1.2** | +1.1 (+0.2 to +2.0); -0.1, +2.3 | +5.0 |'
    )
    assert lines[18] == '| less B | seeds | ego only AP@0.7 |'
    assert lines[20] == '| A | 2 | **-3.0 (-5.0 to -1.0); -2.0, -4.0** |'
    assert '| wet ground | 65.5 |' in lines
    assert '| varied, AP@0.5 / 0.7 | clean | corrupted |' in lines
    assert '| B | 60.0 / 40.0 | 50.0 / 30.0 |' in lines
    assert lines[-3:] == [
        '| intensity law | AP@0.5 | AP@0.7 |',
        '| --- | --: | --: |',
        '| gain 3 | 79.0 | 49.0 |',
    ]
    # Without any of the paper's corruptions there is no mRCE.
    summary.update(mrce=None, mrce_interval=None)
    lines = markdown(Evidence.model_validate({**content, 'data': 'opv2v:set'})).splitlines()
    assert lines[0].startswith('| opv2v:set | seeds | samples | AP@0.5 |')
    assert lines[2].endswith(' | 70.0 /  |  | 3.2 |')
