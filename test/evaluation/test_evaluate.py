# SPDX-License-Identifier: Apache-2.0

import csv
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from recorded_sets import write_dair, write_json
from rich.console import Console

from diffkd_ros.evaluation import run
from diffkd_ros.evaluation.conditions import CLEAN, Condition, make_conditions
from diffkd_ros.evaluation.cooperation import IntermediateCooperation
from diffkd_ros.evaluation.evaluate import evaluate
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver, needed_frames
from diffkd_ros.metrics.average_precision import AveragePrecision, EvaluationError
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.source import Source
from diffkd_ros.workers import HERE, LocalWorkers

SOURCE = Source('sim', scenarios=2, frames_per_scenario=2)


def options(out, model_folder):
    return run.Plan(out, SOURCE, model_folder, 'sim'), make_conditions('fog,message_loss', '3')


def files(out):
    return {path.relative_to(out): path for path in (out / 'frames').rglob('*.npz')}


@pytest.fixture(scope='module')
def finished(tmp_path_factory, model_folder):
    out = tmp_path_factory.mktemp('evaluation')
    evaluate(*options(out, model_folder), Console(file=StringIO()))
    return out


@pytest.fixture(scope='module')
def summary(finished):
    return json.loads((finished / 'summary.json').read_text())


def test_every_condition_sees_the_same_frames(finished):
    results = {path.parent.name: [] for path in files(finished)}
    for name, path in sorted(files(finished).items()):
        results[name.parent.name].append(FrameResults.load(path))
    seen = [[(r.scenario.tolist(), r.index.tolist()) for r in parts] for parts in results.values()]
    assert len(results) == 4
    assert all(frames == seen[0] for frames in seen)


def test_clean_precision_is_that_of_the_detector(summary, model_folder):
    cooperation = IntermediateCooperation(Model(model_folder))
    precision = AveragePrecision()
    plan = run.Plan(model_folder, SOURCE, model_folder, 'sim')
    for number in range(2):
        drive = SOURCE.scenario(number)
        for position in plan.positions(drive):
            clean = CleanFrame(drive.frame(position))
            perception = Perceiver(cooperation, Condition(CLEAN)).perceive(clean, clean.frame)
            kept = plan.protocol.detections(perception.detection.boxes)
            precision.add(kept, plan.protocol.truth(clean.frame))
    assert summary['frames'] == 4
    assert summary['truths'] == precision.truths
    for iou, value in precision.compute().items():
        assert summary['clean'][f'ap{round(100 * iou)}'] == pytest.approx(value, abs=1e-9)
    assert summary['clean']['ap50'] > summary['ego_alone']['ap50']


def test_relative_errors_follow_from_the_precisions(summary):
    clean, fog = summary['clean'], summary['corruptions']['fog']
    errors = {ap: 100 * (clean[ap] - fog[ap]) / clean[ap] for ap in ('ap50', 'ap70')}
    assert summary['mrce_of'] == ['fog']
    assert summary['mrce_ap50'] == pytest.approx(errors['ap50'])
    assert summary['mrce_ap70'] == pytest.approx(errors['ap70'])
    assert summary['mrce'] == pytest.approx(np.mean(list(errors.values())))
    assert [group['group'] for group in summary['groups']] == ['paper', 'link']


def test_table_has_every_figure_once(finished, summary):
    with (finished / 'results.csv').open() as file:
        rows = list(csv.DictReader(file))
    keys = [
        tuple(row[name] for name in ('corruption', 'severity', 'who', 'metric', 'iou', 'part'))
        for row in rows
    ]
    assert len(set(keys)) == len(keys)
    value = {key: float(row['value'] or math.nan) for key, row in zip(keys, rows, strict=True)}
    assert value['fog', '3', 'all', 'ap_global', '0.5', ''] == pytest.approx(
        summary['corruptions']['fog']['ap50']
    )
    assert value['clean', '0', 'all', 'truths', '', ''] == summary['truths']


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources = []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ('src', 'href')]


def test_report_needs_no_other_file(finished):
    text = (finished / 'report.html').read_text()
    links = Links()
    links.feed(text)
    kinds = [source.partition(';')[0] for source in links.sources]
    assert set(kinds) == {'data:image/svg+xml', 'data:image/png'}
    assert '<script' not in text


def test_a_run_is_continued_in_several_processes(finished, model_folder):
    before = {name: FrameResults.load(path) for name, path in files(finished).items()}
    lost, *_kept = sorted(name for name in before if 'message_loss' in name.parent.name)
    damaged = next(name for name in before if 'fog' in name.parent.name)
    (finished / lost).unlink()
    (finished / damaged).write_bytes((finished / damaged).read_bytes()[:100])
    written = {name: path.stat().st_mtime_ns for name, path in files(finished).items()}
    plan, conditions = options(finished, model_folder)
    jobs = run.make_jobs(plan, conditions, SOURCE.names())
    counts = []
    run.run(plan, jobs, LocalWorkers(2), counts.append)
    assert sum(len(job.conditions) for job in jobs) == 2
    assert max(counts) == 4
    for name, path in files(finished).items():
        if name not in (lost, damaged):
            assert path.stat().st_mtime_ns == written[name]
        after = FrameResults.load(path)
        np.testing.assert_array_equal(after.detections.score, before[name].detections.score)
        np.testing.assert_array_equal(after.detections.found, before[name].detections.found)
    assert set(files(finished)) == set(before)


SECONDS = 240


def command(out, workers, model):
    """The same evaluation as `options`."""
    arguments = ('--corruptions', 'fog,message_loss', '--severity', '3', '--scenarios', '2')
    return [
        *(sys.executable, '-m', 'diffkd_ros.cli', 'evaluate', '--out', str(out), '--model', str(model)),
        *(*arguments, '--workers', str(workers)),
    ]


def children(process):
    listed = Path(f'/proc/{process}/task/{process}/children').read_text()
    return [int(child) for child in listed.split()]


def wait_until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f'timeout waiting for {what}'
        time.sleep(0.002)


def running(process):
    """Returns whether the process runs, and is not a zombie."""
    try:
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed_once(process, condition, what):
    """Kill a process as soon as a condition holds. Returns the ids of its child processes."""
    try:
        wait_until(lambda: condition() or process.poll() is not None, what)
        assert process.poll() is None
        started = children(process.pid)
    finally:
        process.kill()
        process.wait()
    return started


def start(out, workers, model):
    return subprocess.Popen(
        command(out, workers, model), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_a_killed_run_is_continued_with_the_same_result(tmp_path, model_folder, finished):
    out = tmp_path / 'killed'
    process = start(out, 2, model_folder)
    workers = killed_once(process, lambda: len(children(process.pid)) > 2, 'its processes')
    wait_until(lambda: not any(map(running, workers)), 'the end of its processes')

    killed_once(start(out, 1, model_folder), lambda: files(out), 'the first results')
    done = {name: path.stat().st_mtime_ns for name, path in files(out).items()}
    assert 0 < len(done) < len(files(finished))

    evaluate(*options(out, model_folder), Console(file=StringIO()))
    assert set(files(out)) == set(files(finished))
    assert all(files(out)[name].stat().st_mtime_ns == written for name, written in done.items())
    for name, path in files(out).items():
        with np.load(path) as resumed, np.load(files(finished)[name]) as unbroken:
            assert set(resumed) == set(unbroken)
            for column in set(resumed) - {'inference.encode_ms', 'inference.fuse_ms'}:
                np.testing.assert_array_equal(resumed[column], unbroken[column], err_msg=column)
    assert figures(out) == figures(finished)


def figures(out):
    """All figures except durations and dates."""
    content = json.loads((out / 'summary.json').read_text())
    del content['latency_ms'], content['run']['written']
    return content


def test_another_evaluation_is_not_mixed_in(finished, model_folder):
    plan, conditions = options(finished, model_folder)
    other = replace(plan, protocol_name='opencood')
    with pytest.raises(EvaluationError, match='protocol'):
        evaluate(other, conditions, Console(file=StringIO()))


def test_results_of_another_version_or_split_are_not_continued(finished, model_folder, tmp_path):
    out = tmp_path / 'out'
    lists = {'val': ['000009'], 'test': ['000010']}
    write_json(tmp_path / 'split.json', lists)
    dair = Source(f'dair:{write_dair(tmp_path / "dair")}', None, None, 'val', tmp_path / 'split.json')
    plan = run.Plan(out, dair, model_folder, 'sim')
    run.settle(plan)
    run.settle(plan)
    write_json(tmp_path / 'split.json', {**lists, 'val': ['000020']})
    with pytest.raises(EvaluationError, match='split_file'):
        run.settle(plan)
    settings = json.loads((out / run.SETTINGS).read_text())
    write_json(tmp_path / 'split.json', lists)
    write_json(out / run.SETTINGS, {**settings, 'format': settings['format'] - 1})
    with pytest.raises(EvaluationError, match=f'format {settings["format"] - 1}, now'):
        run.settle(plan)


def test_written_as_opv2v_a_frame_scores_the_same(finished, model_folder, summary, tmp_path):
    frames = [
        drive.frame(position)
        for drive in map(SOURCE.scenario, range(2))
        for position in run.Plan(tmp_path, SOURCE, model_folder, 'sim').positions(drive)
    ]
    write_opv2v(frames, tmp_path / 'set')
    source = Source(f'opv2v:{tmp_path / "set"}', None, None)
    assert source.names() == list(dict.fromkeys(frame.scenario for frame in frames))
    plan = run.Plan(tmp_path / 'out', source, model_folder, 'sim')
    clean = Condition(CLEAN)
    run.run(plan, run.make_jobs(plan, [clean], source.names()), HERE, lambda scored: None)
    results = run.load_results(plan, [clean], source.names())
    evaluation = Evaluation(results, plan.protocol, plan.open().model.card.min_score)
    assert len(evaluation.results(clean)) == 4
    assert evaluation.results(clean).counted_truths == summary['truths']
    for iou in (0.3, 0.5, 0.7):
        value = evaluation.average_precision(clean, iou).estimate
        assert value == pytest.approx(summary['clean'][f'ap{round(100 * iou)}'], abs=1e-6)


def test_frames_before_the_scored_ones_are_run_through_once():
    assert list(needed_frames([1, 7, 8], 2)) == [
        (0, False), (1, True), (5, False), (6, False), (7, True), (8, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('spec', 'scenarios', 'message'),
    [
        ('carla:here', 1, 'no source'),
        ('bag:/nowhere', None, 'exists'),
        ('sim:x', 1, 'seed'),
        ('sim', None, 'endless'),
        ('opv2v:/nowhere', 1, 'exists'),
    ],
)
def test_invalid_sources_are_refused(spec, scenarios, message):
    with pytest.raises(DatasetError, match=message):
        Source(spec, scenarios, 2).names()
