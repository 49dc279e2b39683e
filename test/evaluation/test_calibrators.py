# SPDX-License-Identifier: Apache-2.0
"""A calibrator is fitted to frames of its own and reported alongside the original scores."""

import json
from io import StringIO

import pytest
from recorded_sets import write_dair, write_json
from rich.console import Console

from diffkd_ros.evaluation.calibrators import check_calibration
from diffkd_ros.evaluation.conditions import make_conditions
from diffkd_ros.evaluation.evaluate import evaluate
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.calibration import TemperatureScaling, localisation_aware_calibration
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source


@pytest.fixture(scope='module')
def calibrated(tmp_path_factory, model_folder):
    out = tmp_path_factory.mktemp('calibrated')
    conditions, fitted_on = make_conditions('none'), Source('sim:4', 2, 1)
    plan = Plan(out, Source('sim', 1, 1), model_folder, 'sim')
    console = Console(file=StringIO())
    outcome = evaluate(plan, conditions, console, calibration='temperature', calibrate_on=fitted_on)
    return out, outcome.summary


def scored(folder):
    return join([FrameResults.load(path) for path in sorted((folder / 'frames' / 'clean').glob('*.npz'))])


def test_it_is_fitted_to_other_frames_and_judged_on_these(calibrated):
    out, summary = calibrated
    validation, evaluated = scored(out / 'calibration' / 'sim_4'), scored(out)
    assert set(validation.scenarios).isdisjoint(evaluated.scenarios)
    scaling = TemperatureScaling.fit(validation)
    scaled = summary.calibration.scaled
    assert scaled.fitted_on == 'sim:4'
    assert scaled.temperatures['laece0'] == pytest.approx(scaling.temperature)
    assert scaled.laece0 == pytest.approx(localisation_aware_calibration(evaluated, scaling=scaling).error)
    assert json.loads((out / 'summary.json').read_text())['calibration']['scaled']['method'] == 'temperature'
    assert 'LaECE₀ clean, temperature scaling' in (out / 'report.html').read_text()


def test_calibration_of_the_original_scores_is_reported_too(calibrated):
    out, summary = calibrated
    original = localisation_aware_calibration(scored(out)).error
    assert summary.calibration.laece0 == pytest.approx(original)
    assert summary.calibration.scaled.laece0 != pytest.approx(original)


SIM = Source('sim', 25, 2)


@pytest.mark.parametrize(
    ('method', 'fitted_on', 'message'),
    [
        ('isotonc', Source('sim:4', 1, 1), "'isotonic'"),
        ('isotonic', None, 'frames of its own'),
        ('isotonic', SIM, 'share some'),
        ('isotonic', Source('sim:3', 1, 1), 'share some'),
        ('none', Source('sim:4', 1, 1), 'need a calibration'),
    ],
)
def test_frames_are_never_both_fitted_to_and_scored(method, fitted_on, message):
    with pytest.raises(EvaluationError, match=message):
        check_calibration(method, fitted_on, SIM)


def test_splits_of_one_set_are_apart_and_the_whole_set_is_not(tmp_path):
    simulator = Simulator(SimulatorConfig(agents=2), 3)
    for number, split in enumerate(('validate', 'test')):
        write_opv2v([simulator.scenario(number).frame(0)], tmp_path / split)

    def of(split, place='.'):
        return Source(f'opv2v:{tmp_path / place}', None, None, split)

    check_calibration('isotonic', of('validate'), of('test'))
    check_calibration('isotonic', of(None, 'validate'), of('test'))
    check_calibration('isotonic', SIM, of('test'))
    (tmp_path / 'link').symlink_to(tmp_path / 'test')
    same = [of('test'), of('test', f'../{tmp_path.name}'), of(None), of(None, 'test'), of(None, 'link')]
    for fitted_on in same:
        for scored_on in same:
            with pytest.raises(EvaluationError, match='share some'):
                check_calibration('isotonic', fitted_on, scored_on)


def test_splits_of_a_file_may_overlap(tmp_path):
    root = write_dair(tmp_path / 'dair')
    frames = [path.stem for path in sorted((root / 'vehicle-side' / 'velodyne').iterdir())]
    lists = {'train': frames[:1], 'val': frames[1:], 'all': frames}
    write_json(tmp_path / 'split.json', lists)

    def of(split):
        return Source(f'dair:{root}', None, None, split, tmp_path / 'split.json')

    check_calibration('isotonic', of('train'), of('val'))
    with pytest.raises(EvaluationError, match='share some'):
        check_calibration('isotonic', of('all'), of('val'))
