# SPDX-License-Identifier: Apache-2.0
"""`diffkd evaluate --attack` from the command line."""

import json
import shutil
from types import SimpleNamespace

import pytest
from script import PROJECT, build_tool
from small_checkpoint import untrained_checkpoint
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.evaluation.run import Plan, settle
from diffkd_ros.evaluation.trust_results import Trust
from diffkd_ros.evaluation.trust_table import markdown
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.source import Source


def run(out, *options):
    few = ('--scenarios', '1', '--frames-per-scenario', '2', '--workers', '1')
    return CliRunner().invoke(app, ['evaluate', '--out', str(out), *few, *options])


@pytest.fixture(scope='module')
def finished(tmp_path_factory, model_folder):
    out = tmp_path_factory.mktemp('trust')
    options = ('--attack', 'spoof,scale', '--liars', '1of2,1of4', '--model', str(model_folder))
    done = run(out, *options)
    assert done.exit_code == 0, done.output
    return out, options, done.output


def test_the_table_has_the_attacks_and_the_references(finished):
    out, _, printed = finished
    trust = json.loads((out / 'trust.json').read_text())
    assert {'honest', 'liar_absent', 'ego_alone', 'attacks', 'false_quarantine'} <= set(trust)
    for reference in ('honest', 'liar_absent', 'ego_alone'):
        assert set(trust[reference]) == {'ap50', 'ap70', 'false_boxes'}
        assert trust[reference] == trust['references']['1of2'][reference]
    assert set(trust['attacks']) == {'spoof', 'scale'}
    for by_liars in trust['attacks'].values():
        assert set(by_liars) == {'1of2', '1of4'}
        for figures in by_liars.values():
            assert set(figures) == {'ap50', 'ap70', 'false_boxes', 'lost', 'detected', 'delay'}
    assert trust['ego_alone']['ap50'] < trust['honest']['ap50']
    assert trust['false_quarantine'] is None
    for line in ('honest', 'liar absent', 'ego alone', 'spoof', 'scale'):
        assert line in printed


def test_what_the_ego_refuses_costs_what_an_absent_sender_costs(finished):
    trust = json.loads((finished[0] / 'trust.json').read_text())
    refused = trust['attacks']['scale']['1of2']
    for figure in ('ap50', 'ap70', 'false_boxes'):
        assert refused[figure] == pytest.approx(trust['liar_absent'][figure])
    assert refused['detected'] == 1
    assert trust['attacks']['spoof']['1of2']['detected'] is None
    assert trust['attacks']['spoof']['1of2']['false_boxes'] > trust['honest']['false_boxes'] + 2


def test_a_run_is_continued(finished):
    out, options, _ = finished
    before = (out / 'trust.json').read_text()
    again = run(out, *options)
    assert again.output.count('all conditions were run before') == 2
    assert (out / 'trust.json').read_text() == before


def test_other_attacks_are_added_to_the_table(finished, tmp_path):
    out, (_, _, _, _, *model), _ = finished
    copy = shutil.copytree(out, tmp_path / 'out')
    before = json.loads((copy / 'trust.json').read_text())
    added = run(copy, '--attack', 'saturation', '--liars', '1of2', *model)
    assert added.exit_code == 0, added.output
    after = json.loads((copy / 'trust.json').read_text())
    assert set(after['attacks'].pop('saturation')) == {'1of2'}
    assert after == before


def test_without_examination_lies_are_fused_and_kept_apart(finished, tmp_path):
    spoof = ('--attack', 'spoof', '--liars', '1of2', '--model', 'sim_edge')
    done = run(tmp_path / 'out', *spoof, '--plausibility', 'none')
    assert done.exit_code == 0, done.output
    fused = json.loads((tmp_path / 'out' / 'trust.json').read_text())
    assert fused['attacks']['spoof']['1of2']['detected'] is None
    assert fused['attacks']['spoof']['1of2']['false_boxes'] > fused['honest']['false_boxes'] + 2
    mixed = run(tmp_path / 'out', *spoof)
    assert mixed.exit_code == 1
    assert "plausibility 'none', now 'scenario'" in ' '.join(mixed.output.split())


def test_gradients_in_several_processes(tmp_path):
    checkpoint = str(untrained_checkpoint(tmp_path))
    tables = []
    for workers in ('1', '2'):
        out = tmp_path / workers
        options = ('--model', checkpoint, '--attack', 'pgd_removal,removal', '--liars', '1of2')
        done = run(out, *options, '--attack-checkpoint', checkpoint, '--workers', workers)
        assert done.exit_code == 0, done.output
        tables.append(json.loads((out / 'trust.json').read_text()))
    assert tables[0] == tables[1]
    assert set(tables[0]['attacks']) == {'removal', 'pgd_removal'}


def plan_of(out, model_folder, checkpoint):
    optimiser = None if checkpoint is None else SimpleNamespace(identity=checkpoint)
    return Plan(out, Source('sim', 1, 1), model_folder, 'sim', optimiser=optimiser)


@pytest.mark.parametrize('order', [(None, 'c', None, 'c'), ('c', None, 'c')])
def test_attacks_by_gradients_are_added_with_one_checkpoint(order, model_folder, tmp_path):
    for checkpoint in order:
        settle(plan_of(tmp_path / 'out', model_folder, checkpoint))
    with pytest.raises(EvaluationError, match="attack_checkpoint 'c', now 'd'"):
        settle(plan_of(tmp_path / 'out', model_folder, 'd'))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--plausibility', 'sweeps'), "the nearest is 'sweep'"),
        (('--plausibility', 'none', '--cooperation', 'late'), 'late cooperation examines nothing'),
        (('--attack', 'spof'), 'the nearest is'),
        (('--attack', 'spoof', '--cooperation', 'early'), 'maps, layers or boxes'),
        (('--attack', 'spoof', '--liars', '1of6'), 'takes 4 neighbours'),
        (('--attack', 'spoof', '--corruptions', 'fog'), 'no corruptions'),
        (('--attack', 'spoof', '--severity', '1'), 'no corruptions, severity'),
        (('--attack', 'spoof', '--agents', 'ego'), 'no corruptions, severity'),
        (('--attack', 'spoof', '--profile', 'lab'), 'no corruptions, severity'),
    ],
)
def test_wrong_options_are_one_sentence(options, words, tmp_path):
    done = run(tmp_path / 'out', *options)
    assert done.exit_code == 1
    assert words in done.output
    assert not (tmp_path / 'out').exists()


def test_recorded_frames_are_refused(tmp_path, model_folder, drive):
    write_opv2v([drive.frame(0)], tmp_path / 'set')
    done = run(
        *(tmp_path / 'out', '--attack', 'spoof', '--model', str(model_folder)),
        *('--source', f'opv2v:{tmp_path / "set"}'),
    )
    assert done.exit_code == 1
    assert 'simulated frames' in done.output
    assert not (tmp_path / 'out').exists()


PAGE = """\
1of2 neighbours lie, 84 frames: percent, false boxes a frame, seconds:

|  | AP@0.5 | AP@0.7 | false | lost | detected | delay |
| --- | --: | --: | --: | --: | --: | --: |
| honest | 90.0 | 80.0 | 0.50 |  |  |  |
| liar absent | 80.0 | 70.0 | 0.25 |  |  |  |
| ego alone | 70.0 | 60.0 | 0.10 |  |  |  |
| spoof | 79.0 | 69.0 | 0.30 | 1.2 | 98 | 0.4 |
| noise | 78.0 | 68.0 | 0.40 | 2.0 |  |  |

Sweeps of honest neighbours that are left out, percent, by severity of the corruption:

|  | severity 1 | severity 3 |
| --- | --: | --: |
| clean | 0.3 | 0.3 |
| motion blur | 1.0 | 4.0 |
| fog |  | 2.0 |
"""


def test_the_tables_in_markdown(tmp_path):
    names = ('ap50', 'ap70', 'false_boxes', 'lost', 'detected', 'delay')

    def figures(*values):
        return dict(zip(names, values, strict=False))

    references = {
        'honest': figures(0.9, 0.8, 0.5),
        'liar_absent': figures(0.8, 0.7, 0.25),
        'ego_alone': figures(0.7, 0.6, 0.1),
    }
    attacks = {
        'spoof': {'1of2': figures(0.79, 0.69, 0.3, 0.012, 0.98, 0.4)},
        'noise': {'1of2': figures(0.78, 0.68, 0.4, 0.02, None, None)},
    }
    left_out = {'clean': 0.003, 'motion_blur 1': 0.01, 'motion_blur 3': 0.04, 'fog 3': 0.02}
    content = {
        **references,
        'attacks': attacks,
        'false_quarantine': 0.01,
        'left_out_honest': left_out,
        'references': {'1of2': references},
        'model': 'm',
        'cooperation': 'layered',
        'source': 'sim',
        'frames': {'1of2': 84},
        'seeds': [0],
    }
    (tmp_path / 'trust.json').write_text(json.dumps(content))
    trust = Trust.read(tmp_path)
    assert markdown(trust) == PAGE
    trust.write(tmp_path)
    assert json.loads((tmp_path / 'trust.json').read_text()) == content


def test_the_documented_figures_are_those_of_the_shipped_model():
    documentation = build_tool('document_evidence')
    trust = Trust.read(documentation.DOCS)
    page = documentation.TRUST_PAGE.read_text()
    assert documentation.documented_trust(page, trust) == page, 'run: build_tools/document_evidence.py'
    assert trust.model == ModelCard.load(PROJECT / 'models' / 'sim_edge').model_id
    assert {'1of2', '1of4', '2of4'} == set(trust.references)
