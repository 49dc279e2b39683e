# SPDX-License-Identifier: Apache-2.0
"""The study of the layered message, on networks of two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from script import build_tool
from typer.testing import CliRunner

pytest.importorskip('lightning', reason='trainings need the train extra')

from small_recipe import LINK, small_recipe

from diffkd_ros.cli import app
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.model import Model
from diffkd_ros.evidence.link_plan import is_link_study, load_link_study
from diffkd_ros.evidence.link_results import LinkResults
from diffkd_ros.evidence.link_table import link_tables
from diffkd_ros.geometry.boxes import count_points, flattened, transform_boxes
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.metrics.calibration import MIN_SCORE
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.runtime.link.boxes import boxes_from_bytes, boxes_to_bytes
from diffkd_ros.sources.source import Source
from diffkd_ros.training.checkpoint import CHECKPOINT
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
WHOLE = {'link': False, 'context': [], 'restoration': 'none'}
PLAN = {
    'study': 'link',
    'base': 'base.yaml',
    'trainings': {
        'none': {'stages': ['link'], 'seeds': 2, 'change': {'model': {'restoration': 'none'}}},
        'diffusion': {'stages': ['link']},
        'whole': {'stages': ['joint'], 'change': {'model': WHOLE}},
    },
    'rate': {
        'layered': {
            'training': 'none', 'cooperation': 'layered', 'label': 'Layered', 'budgets': [4000, 500],
            'against': ['late'],
        },
        'late': {'training': 'none', 'cooperation': 'late', 'label': 'Late', 'budgets': [100_000]},
        'v1': {'training': 'whole', 'label': 'V1', 'budgets': [1000]},
        'shipped': {'model': 'sim_edge', 'label': 'Shipped', 'budgets': [200_000]},
    },
    'arms': {
        'none': {'training': 'none', 'label': 'None'},
        'one': {'training': 'diffusion', 'label': 'One', 'against': ['none']},
        'two': {'training': 'diffusion', 'label': 'Two', 'steps': 2, 'against': ['none']},
    },
    'complete': 'one',
    'parts': {'boxes': 'none'},
    'budget': 1500,
    'plausibility': 'none',
    'frames': {'scenarios': 1, 'frames_per_scenario': 1, 'corruptions': 'fog', 'severity': '2'},
    'losses': {'corruptions': 'chunk_loss,chunk_burst,message_loss,delay', 'severity': '1,3'},
}  # fmt: skip
POINT = {'kb', 'clean_ap50', 'clean_ap70', 'corrupted_ap50', 'corrupted_ap70'}


def recipe(*stages: str) -> Recipe:
    """Steps so small that the head's scores remain those of its start, about 0.1, which are boxes here."""
    steps = [{'name': name, 'steps': 2, 'learning_rate': 1e-9} for name in stages]
    return small_recipe(model=LINK, stages=steps, min_score=0.06)


def write(folder: Path, plan: dict) -> Path:
    base = recipe('link', 'joint').model_dump(mode='json')
    base['initial'] = str(folder / 'student' / CHECKPOINT)
    (folder / 'base.yaml').write_text(yaml.safe_dump(base))
    path = folder / 'plan.yaml'
    path.write_text(yaml.safe_dump(plan))
    return path


def late_by_hand(model_folder: Path) -> tuple[float, list[float]]:
    """Kilobytes of a neighbour's boxes with one envelope, and the scores of the merged boxes."""
    model, source = Model(model_folder, MIN_SCORE), Source('sim', 1, 1)
    drive = source.scenario(0)
    frame = drive.frame(source.positions(drive, 5)[0])
    sizes, boxes, scores = [], [], []
    for agent in (frame.ego, *frame.neighbours):
        sweep = frame.agents[agent]
        feature = model.encode(sweep.points).feature
        if agent == frame.ego:
            found = model.detect([feature], [np.eye(4)]).boxes
        else:
            found = boxes_from_bytes(boxes_to_bytes(model.sender.prepare(feature).boxes))
            sizes.append(12 * len(found))
        moved = transform_boxes(inverse(frame.agents[frame.ego].pose) @ sweep.pose, found.boxes)
        keep = np.full(len(moved), agent == frame.ego) | (
            count_points(np.zeros((1, 3)), flattened(moved)) == 0
        )
        boxes.append(moved[keep])
        scores.append(found.scores[keep])
    scores = np.concatenate(scores)
    kept = nms(np.concatenate(boxes), scores, model.card.nms_iou)[: model.card.max_boxes]
    return (np.mean(sizes) + 200) / 1e3, scores[kept].tolist()


@pytest.fixture(scope='module')
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder with the plan and, in `out`, its results, and what the command printed."""
    folder = tmp_path_factory.mktemp('study')
    train(recipe('teacher', 'student'), folder / 'student')
    outcome = CliRunner().invoke(app, command(write(folder, PLAN), folder / 'out'))
    assert outcome.exit_code == 0, outcome.output
    return folder, outcome.output


def command(plan: Path, out: Path) -> list[str]:
    return ['evidence', str(plan), '--out', str(out), '--workers', '1']


def test_it_says_first_what_it_has_to_do(studied: tuple[Path, str]) -> None:
    trained = 'to train: 4 networks, 16 samples (link 12, joint 4) in 3 passes over the data; about 1 min'
    # 2 x 2 curves of the layered message, 2 of late fusion, two of whole maps; 4 arms; 2 without a part.
    # Each frame without neighbours, clean and, of curves, in fog, of arms and parts also under 8 losses.
    frames = (4 + 2 + 2) * 3 + (4 + 2) * 11
    measured = f'to measure: 14 runs of diffkd evaluate, {frames} frames under their conditions'
    for line in (trained, measured):
        assert line in studied[1]


def test_one_command_trains_the_arms_and_measures_the_curves(studied: tuple[Path, str]) -> None:
    out = studied[0] / 'out'
    written = json.loads((out / 'link.json').read_text())
    assert {name: len(points) for name, points in written['rate'].items()} == {
        'layered': 2, 'late': 1, 'v1': 1, 'shipped': 1
    }  # fmt: skip
    assert all(set(point) == POINT for points in written['rate'].values() for point in points)
    for key, shares in (('loss', [0, 0.1, 0.5]), ('burst', [0, 0.1, 0.5]), ('messages', [0, 0.1, 0.5])):
        assert list(written[key]) == ['none', 'one', 'two']
        for points in written[key].values():
            assert [point['share'] for point in points] == shares
            assert set(points[0]) == {'share', 'ap50', 'ap70', 'ap70_low', 'ap70_high'}
    assert [point['seconds'] for point in written['delay']['two']] == [0, 0.1, 0.4]

    results = LinkResults.read(out)
    assert (results.frames, results.scenarios, results.budget) == (1, 1, 1500)
    small, large = results.rate['layered']
    assert 0 < small.kb <= 0.5 < large.kb <= 4
    assert 0.2 < results.rate['v1'][0].kb <= 1
    assert [point.kb for point in results.rate_less['layered']['late']] == [0.5, 4]
    assert results.runs == {'layered': 2, 'late': 2, 'v1': 1, 'shipped': 1, 'none': 2, 'one': 1, 'two': 1}
    # Nothing lost is clean, for the mean over the training seeds.
    assert len(results.arms['none'].clean_ap70) == 2
    assert results.loss['none'][0].ap70 == pytest.approx(np.mean(results.arms['none'].clean_ap70))
    compared = {name: [*others] for name, others in results.loss_less.items()}
    assert compared == {'one': ['none'], 'two': ['none']}
    assert results.parts['boxes'].less_complete.keys() == POINT - {'kb'}
    settings = [json.loads(path.read_text()) for path in out.rglob('evaluation.json')]
    # Other ways to cooperate examine nothing.
    examined = {(each['cooperation'] == 'layered', each['plausibility']) for each in settings}
    assert examined == {(True, 'none'), (False, None)}
    (shipped,) = (each for each in settings if each['model'].startswith('sim_edge'))
    assert (shipped['cooperation'], shipped['budget']) == ('intermediate', 200_000 - 200)

    kilobytes = []
    for number, run in enumerate(('none', 'none_seed2'), 1):
        kb, scores = late_by_hand(out / 'trainings' / run / run)
        kilobytes.append(kb)
        (file,) = (out / 'rate' / 'late' / '100000' / str(number) / 'frames' / 'clean').glob('*.npz')
        found = FrameResults.load(file).detections.score
        np.testing.assert_allclose(sorted(found), sorted(scores), atol=1e-6)
    assert min(kilobytes) > 0.2
    assert results.rate['late'][0].kb == pytest.approx(np.mean(kilobytes))

    assert (out / 'link.md').read_text() == link_tables(results)
    for picture in ('link_rate.png', 'link_loss.png'):
        assert (out / picture).read_bytes().startswith(b'\x89PNG')
    page = build_tool('document_evidence').documented_link('a\n<!-- link -->\nold\n<!-- end -->\nb', results)
    assert page == f'a\n<!-- link -->\n{link_tables(results)}<!-- end -->\nb'


def test_of_what_is_not_asked_for_all_earlier_figures_stay(studied: tuple[Path, str]) -> None:
    folder, out = studied[0], studied[0] / 'out'
    results = LinkResults.read(out)
    outcome = CliRunner().invoke(app, [*command(folder / 'plan.yaml', out), '--rows', 'v1'])
    assert outcome.exit_code == 0, outcome.output
    assert 'to train' not in outcome.output
    assert 'to measure' not in outcome.output
    assert 'trained' not in outcome.output
    assert 'conditions on 1 scenarios' in outcome.output
    assert outcome.output.count('all conditions were run before') == outcome.output.count('measuring ') > 10
    assert LinkResults.read(out) == results


def test_another_checkpoint_to_start_from_is_refused(studied: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(studied[0], tmp_path / 'study')
    plan, other = write(folder, PLAN), folder / 'student' / CHECKPOINT
    other.write_bytes(other.read_bytes() + b' ')
    outcome = CliRunner().invoke(app, command(plan, folder / 'out'))
    assert outcome.exit_code != 0
    message = ' '.join(outcome.output.split())
    assert 'has started from another checkpoint than' in message
    assert 'choose another folder' in message


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'complete': 'three'}, 'no three among none, one, two'),
        ({'arms': {'one': {'training': 'none', 'label': 'x', 'against': ['six']}}}, 'no six among one'),
        (
            {'rate': {'late': {'training': 'none', 'label': 'x', 'budgets': [9], 'against': ['early']}}},
            'no early among late',
        ),
        ({'parts': {'late': 'none'}}, 'several of rate, arms and parts are named late'),
        ({'parts': {'ego': 'without_ego'}}, 'no training without_ego'),
        ({'losses': {'corruptions': 'chunk_los'}}, "'chunk_loss'"),
        ({'frames': {'source': 'simm'}}, 'simm'),
        ({'arms': {'one': {'training': 'diffusion', 'label': 'x', 'step': 2}}}, 'did you mean steps'),
        ({'arms': {'one': {'label': 'x'}}}, 'give either a training or a model'),
        ({'arms': {'one': {'model': 'sim_edg', 'label': 'x'}}}, 'sim_edg'),
        ({'arms': {'one': {'model': 'sim_edge', 'steps': 2, 'label': 'x'}}}, 'steps need a training'),
        ({'plausibility': 'nowhere'}, 'plausibility'),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = write(tmp_path, PLAN | change)
    with pytest.raises(DiffkdError, match=message):
        load_link_study(path, tmp_path / 'out')


def test_only_some_curves_and_arms_need_only_their_trainings(tmp_path: Path) -> None:
    path = write(tmp_path, PLAN)
    some = load_link_study(path, tmp_path, ['one', 'v1'])
    assert sorted(some.runs) == ['diffusion', 'whole']
    assert some.asked == {'one', 'v1'}
    every = load_link_study(path, tmp_path)
    assert sorted(every.runs) == ['diffusion', 'none', 'none_seed2', 'whole'] == sorted(every.recipes)
    with pytest.raises(DiffkdError, match='no six; the plan has'):
        load_link_study(path, tmp_path, ['six'])


def test_some_lines_without_those_that_they_are_compared_with_and_without_corruptions(
    studied: tuple[Path, str], tmp_path: Path
) -> None:
    """The comparisons are left out, and so are columns of what was not measured."""
    frames = {**PLAN['frames'], 'corruptions': 'chunk_loss', 'severity': '1'}
    changed = {'frames': frames, 'losses': {'corruptions': 'none'}}
    out, plan = tmp_path / 'out', studied[0] / 'some.yaml'
    plan.write_text(yaml.safe_dump(PLAN | changed))
    shutil.copytree(studied[0] / 'out' / 'trainings', out / 'trainings')
    rows = [*command(plan, out), '--rows']
    outcome = CliRunner().invoke(app, [*rows, 'layered,boxes'])
    assert outcome.exit_code == 0, outcome.output
    assert 'to train' not in outcome.output
    assert 'to measure: 6 runs of diffkd evaluate, 18 frames under their conditions' in outcome.output
    results = LinkResults.read(out)
    assert (list(results.rate), list(results.arms), list(results.parts)) == (['layered'], [], ['boxes'])
    assert results.rate_less == results.parts['boxes'].less_complete == {}
    assert link_tables(results).splitlines()[0] == '| sent | seeds | kB of a sweep | AP@0.5 | AP@0.7 |'
    earlier = results.rate

    outcome = CliRunner().invoke(app, [*rows, 'one'])
    assert outcome.exit_code == 0, outcome.output
    results = LinkResults.read(out)
    assert results.rate == earlier
    assert list(results.arms) == ['one']
    assert results.parts['boxes'].less_complete.keys() == {'clean_ap50', 'clean_ap70'}
    assert '| Layered | 2 |' in link_tables(results)


def test_only_differences_beyond_scenarios_and_several_training_seeds_are_bold() -> None:
    beyond = {'mean': 0.02, 'low': 0.01, 'high': 0.03}

    def less(**difference: object) -> list[dict]:
        return [{'kb': 2, 'less': {'clean_ap50': {**beyond, **difference}}}]

    results = LinkResults.model_validate(
        {
            'labels': {name: name for name in 'abcde'},
            'rate_less': {
                'a': {'e': less(by_seed=[0.015, 0.025])},
                'b': {'e': less(by_seed=[0.045, -0.005])},
                'c': {'e': less(by_seed=[0.02])},
                'd': {'e': less(by_seed=[0.015, 0.025], low=-0.01)},
            },
        }
    )
    assert link_tables(results).splitlines() == [
        '| sent | kB | seeds | AP@0.5 |',
        '| --- | --: | --: | --: |',
        '| a less e | 2 | 2 | **+2.0 (+1.0 to +3.0); +1.5, +2.5** |',
        '| b less e | 2 | 2 | +2.0 (+1.0 to +3.0); +4.5, -0.5 |',
        '| c less e | 2 | 1 | +2.0 (+1.0 to +3.0) |',
        '| d less e | 2 | 2 | +2.0 (-1.0 to +3.0); +1.5, +2.5 |',
    ]


def test_the_shipped_study_is_that_of_the_documentation(tmp_path: Path) -> None:
    path = ROOT / 'config' / 'link.yaml'
    assert is_link_study(path)
    assert not is_link_study(ROOT / 'config' / 'evidence.yaml')
    study = load_link_study(path, tmp_path)
    plan = study.plan
    assert plan.frames.scenarios * plan.frames.frames_per_scenario >= 100
    assert plan.frames.scenarios >= 20  # of which intervals are made
    assert {name: arm.training and plan.trainings[arm.training].seeds for name, arm in plan.arms.items()} == {
        'shipped': None,
        **dict.fromkeys(
            ('none', 'plain', 'two_step', 'diffusion_1', 'diffusion_2', 'diffusion_4', 'ranked'), 2
        ),
    }
    # What late fusion sends is the base layer of the layered message, of the same network.
    assert plan.rate['late'].model == plan.rate['layered'].model == plan.arms['shipped'].model == 'sim_edge'
    for name, recipe in study.recipes.items():
        stage = 'rank' if name.startswith('ranked') else 'link' if recipe.model.link else 'joint'
        assert [each.name for each in recipe.stages] == [stage]
        assert recipe.model.link == (stage != 'joint')
        if stage == 'rank':
            assert study.after[name] == name.replace('ranked', 'diffusion')
            assert not recipe.new_restoration
            continue
        assert (Path(__file__).parents[2] / str(recipe.initial)).exists()
        assert recipe.new_restoration
        if name.startswith('without_'):
            assert set(study.recipes['diffusion'].model.context) - set(recipe.model.context) == {
                name.removeprefix('without_')
            }
    shares = {condition.link.chunk_loss for condition in plan.conditions()}
    assert {0.0, 0.5, 0.9} <= shares
