# SPDX-License-Identifier: Apache-2.0
"""A small experiment with real trainings and measurements, and tables of hand-made figures."""

from __future__ import annotations

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

ROOT = Path(__file__).resolve().parents[2]
BASE = small_recipe(data={'batch': 1, 'augmentation': {'corruptions': ['fog']}}).model_dump(mode='json')
CONDITIONS = {'scenarios': 1, 'frames_per_scenario': 1, 'corruptions': 'fog', 'severity': '2'}
PLAN = {
    'base': 'base.yaml',
    'trainings': {
        'method': {'after': 'teacher', 'stages': ['student', 'diffuser', 'joint']},
        'teacher': {'stages': ['teacher']},
    },
    'rows': {
        'early': {'training': 'teacher', 'cooperation': 'early', 'label': 'Early'},
        'method': {'training': 'method', 'label': 'Method'},
    },
    'reference': 'early',
    'subject': 'method',
    'conditions': CONDITIONS,
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
    assert list(evidence.rows) == ['early', 'method']
    method = evidence.rows['method'].summary
    assert method.run.model.startswith('method@')
    assert method == Summary.read(out / 'rows' / 'method')
    assert [(s.start, s.steps) for s in evidence.steps] == [('pure', 1)]
    assert evidence.reliability.corruptions.keys() == method.corruptions.keys()
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
        (
            {'trainings': {'teacher': {'stages': ['pupil']}, 'method': {'stages': ['teacher']}}},
            'no stage pupil',
        ),
        (
            {'trainings': {'teacher': {'stages': ['teacher'], 'change': {'data': {'bacth': 3}}},
                           'method': {'stages': ['teacher']}}},
            'bacth',
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
        ({'steps': {'training': 'method', 'starts': ['pure'], 'steps': [1], 'seeds': 'x'}}, "'x'"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_run_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = write(tmp_path, {**PLAN, 'reliability': None, 'steps': None, **change})
    with pytest.raises(DiffkdError, match=message):
        load_experiment(path, tmp_path / 'out')


def test_the_shipped_plan_trains_every_row_from_one_teacher_by_one_recipe(tmp_path: Path) -> None:
    experiment = load_experiment(ROOT / 'config' / 'evidence.yaml', tmp_path)
    wanted = {
        'no_cooperation',
        'late',
        'early',
        'max',
        'attention',
        'attention_augmented',
        'placebo',
        'diffkd',
    }
    wanted |= {f'diffkd_minus_{part}' for part in ('pkd_a', 'pkd_b', 'agf', 'lgm')}
    assert set(experiment.plan.rows) == wanted
    recipes = experiment.recipes
    shipped = yaml.safe_load((ROOT / 'config' / 'train' / 'sim_edge.yaml').read_text())
    for name, recipe in recipes.items():
        assert recipe.data.train_seed == shipped['data']['train_seed'], name
        steps = {stage.name: stage.steps for stage in recipe.stages}
        assert steps.items() <= {stage['name']: stage['steps'] for stage in shipped['stages']}.items(), name
    # The row of the method is the recipe itself: the stages of its chain are the recipe's own.
    chain = [recipes[name] for name in ('teacher', 'student', 'diffkd')]
    assert [stage.name for recipe in chain for stage in recipe.stages] == [
        stage['name'] for stage in shipped['stages']
    ]
    assert all(recipe.model == recipes['teacher'].model for recipe in chain)


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
    row = {'label': 'A', 'summary': summary, 'corrupted': {'ap50': 0.7, 'ap70': None}}
    other = {**row, 'label': 'B', 'summary': {**summary, 'mrce': 15.0, 'corruptions': {}}}
    row['less_subject'] = {'clean_ap50': [0.011, 0.002, 0.02], 'mrce': [5.0, -1.0, None]}
    content = {
        'data': 'simulated (by hand)', 'rows': {'a': row, 'b': other}, 'reference': 'a', 'subject': 'b'
    }  # fmt: skip
    evidence = Evidence.model_validate(content)
    lines = markdown(evidence).splitlines()
    assert lines[0].startswith('| simulated | AP@0.5 |')
    assert lines[2] == (
        '| A | 80.0 (75.0 to 85.0) | 50.0 (45.0 to 55.0) | 70.0 /  | 20.0 (18.0 to 22.0) |  |  | 3.2 '
        '| 0.013 |  | 20 + 31 | 1.50 |'
    )
    assert '| -25 % |' in lines[3]
    # What is sure of a difference is bold: its interval does not hold 0.
    assert '| less B | AP@0.5 |' in lines[5]
    assert '| A | **+1.1 (+0.2 to +2.0)** |  |  |  | +5.0 |' in lines
    assert lines[-1] == '| wet ground | 65.5 |  |'
    # Without any of the paper's corruptions there is no mRCE.
    summary.update(mrce=None, mrce_interval=None)
    lines = markdown(Evidence.model_validate({**content, 'data': 'opv2v:set'})).splitlines()
    assert lines[0].startswith('| opv2v:set | AP@0.5 |')
    assert ' | 70.0 /  |  |  |  | 3.2 |' in lines[2]
