# SPDX-License-Identifier: Apache-2.0
"""Jobs on the workers of a Dask cluster: real processes of this machine, in another folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip('distributed', reason='needs the extra cluster')

import distributed
from counted_task import CountedTask
from dask_cluster import dask_cluster
from patience import PATIENCE, until

from diffkd_ros.cli import app
from diffkd_ros.cluster import cluster_workers
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import make_conditions
from diffkd_ros.evaluation.evaluate import evaluate
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.run import make_jobs, run, settle
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.source import Source
from diffkd_ros.workers import HERE, LocalWorkers

PROJECT = Path(__file__).parents[2]
SOURCE = Source('sim', scenarios=2, frames_per_scenario=2)
TIMES = {'inference.encode_ms', 'inference.fuse_ms'}


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp('cluster'), 2) as started:
        yield started


@pytest.fixture(scope='module')
def workers(cluster):
    with cluster_workers(str(cluster.file)) as connected:
        yield connected


@pytest.fixture(scope='module')
def conditions():
    return make_conditions('fog,message_loss', '3')


@pytest.fixture(scope='module')
def alone(tmp_path_factory, model_folder, conditions):
    """The results of one process without a cluster."""
    out = tmp_path_factory.mktemp('alone')
    evaluate(Plan(out, SOURCE, model_folder, 'sim'), conditions, Console(file=StringIO()), draw=False)
    return out


def figures(out):
    """All figures except durations and dates."""
    content = json.loads((out / 'summary.json').read_text())
    del content['latency_ms'], content['run']['written']
    return content


def arrays(out):
    found = {}
    for path in sorted((out / 'frames').rglob('*.npz')):
        with np.load(path) as file:
            found[path.relative_to(out)] = {name: file[name] for name in file if name not in TIMES}
    return found


def assert_same_results(out, expected):
    ours, theirs = arrays(out), arrays(expected)
    assert ours.keys() == theirs.keys()
    assert len(theirs) > 0
    for path, columns in theirs.items():
        assert ours[path].keys() == columns.keys()
        for name, column in columns.items():
            np.testing.assert_array_equal(ours[path][name], column, err_msg=f'{path}: {name}')


def test_the_summary_is_that_of_one_process(tmp_path, model_folder, conditions, workers, alone):
    assert workers.number == 2
    text = StringIO()
    plan = Plan(tmp_path, SOURCE, model_folder, 'sim')
    evaluate(plan, conditions, Console(file=text, width=200), workers, draw=False)
    assert figures(tmp_path) == figures(alone)
    assert_same_results(tmp_path, alone)
    assert '16/16' in text.getvalue()


def test_a_recording_with_a_relative_path_is_read_in_another_folder(
    tmp_path, model_folder, workers, monkeypatch
):
    drive = SOURCE.scenario(0)
    write_opv2v([drive.frame(0), drive.frame(1)], tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    for name, engine in (('here', HERE), ('there', workers)):
        plan = Plan(Path(name), Source('opv2v:set'), Path(os.path.relpath(model_folder)), 'sim')
        evaluate(plan, make_conditions('none'), Console(file=StringIO()), engine, draw=False)
    assert figures(tmp_path / 'there') == figures(tmp_path / 'here')
    assert_same_results(tmp_path / 'there', tmp_path / 'here')


def test_the_job_of_a_killed_worker_is_run_again(tmp_path, model_folder, conditions, alone):
    plan = Plan(tmp_path / 'out', SOURCE, model_folder, 'sim')
    settle(plan)
    jobs = make_jobs(plan, conditions, SOURCE.names())
    assert len(jobs) == 2
    counts = []
    with dask_cluster(tmp_path / 'cluster', 1) as cluster:
        victim = cluster.worker()

        def progress(scored):
            counts.append(scored)
            if scored and victim.poll() is None:
                with distributed.Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
                    assert all(len(names) == 1 for names in client.processing().values())
                victim.kill()
                victim.wait()

        with cluster_workers(str(cluster.file)) as workers:
            run(plan, jobs, workers, progress)
    assert victim.returncode == -signal.SIGKILL
    assert counts[-1] == 16
    assert_same_results(plan.out, alone)


@pytest.mark.parametrize('kind', ['here', 'local', 'cluster'])
def test_a_failing_job_is_reported_alike(kind, tmp_path, request):
    engine = {'here': HERE, 'local': LocalWorkers(2)}.get(kind) or request.getfixturevalue('workers')
    task, kept, counts = CountedTask(tmp_path), [], []
    engine.run(task, [1, 2, 4], kept.append, counts.append)
    assert sorted(number for number, _ in kept) == [1, 2, 4]
    assert counts[-1] == 7
    assert counts == sorted(counts)
    with pytest.raises(EvaluationError, match=r'^job 3 fails$'):
        engine.run(task, [3, *range(4, 200)], kept.append, counts.append)
    prepared = {int(path.name.partition(' ')[2]) for path in tmp_path.glob('prepared *')}
    if kind == 'cluster':
        # A worker may have been prepared for jobs that the failing one ended.
        assert {process for _, process in kept} <= prepared
        assert len(prepared) <= engine.number
    else:
        assert not prepared


def test_a_worker_with_another_model_is_named(tmp_path, model_folder, conditions, workers):
    folder = shutil.copytree(model_folder, tmp_path / 'model')
    plan = Plan(tmp_path / 'out', SOURCE, folder, 'sim')
    settle(plan)
    jobs = make_jobs(plan, conditions, SOURCE.names())
    kept = (folder / 'card.yaml').read_text()
    (folder / 'card.yaml').write_text(yaml.safe_dump({**yaml.safe_load(kept), 'nms_iou': 0.5}))
    with pytest.raises(DiffkdError, match=r'^worker tcp://.*model holds another model'):
        run(plan, jobs, workers, lambda scored: None)
    # Workers keep nothing of an earlier run.
    (folder / 'card.yaml').write_text(kept)
    run(plan, jobs[:1], workers, lambda scored: None)


def test_a_worker_without_the_model_is_named(tmp_path, model_folder, conditions, workers, monkeypatch):
    (tmp_path / 'model').symlink_to(model_folder)
    monkeypatch.chdir(tmp_path)
    # A folder that is another one in each process.
    plan = Plan(tmp_path / 'out', SOURCE, Path('/proc/self/cwd/model'), 'sim')
    jobs = make_jobs(plan, conditions, SOURCE.names())
    with pytest.raises(DiffkdError, match=r"^worker tcp://.*model '/proc/self/cwd/model' is neither"):
        run(plan, jobs, workers, lambda scored: None)


def test_a_worker_with_other_scenarios_is_named(tmp_path, model_folder, conditions, workers):
    drive = SOURCE.scenario(0)
    write_opv2v([drive.frame(0)], tmp_path / 'set')
    plan = Plan(tmp_path / 'out', Source(f'opv2v:{tmp_path}/set'), model_folder, 'sim')
    (name,) = plan.source.names()
    jobs = make_jobs(plan, conditions, [name])
    (scenario,) = (tmp_path / 'set').rglob(name)
    scenario.rename(scenario.with_name('renamed'))
    with pytest.raises(DiffkdError, match=r'^worker tcp://.*set has other scenarios'):
        run(plan, jobs, workers, lambda scored: None)


def refused(place, out):
    done = CliRunner().invoke(app, ['evaluate', '--out', str(out), '--cluster', str(place)])
    assert done.exit_code == 1, done.output
    assert done.stderr.count('\n') == 1, done.stderr
    assert not out.exists()
    return done.stderr


def test_a_worker_of_another_version_is_refused(tmp_path):
    """Of a copy of the package that differs in a comment; both have the same version number."""
    copy = tmp_path / 'other' / 'diffkd_ros'
    shutil.copytree(PROJECT / 'diffkd_ros', copy, ignore=shutil.ignore_patterns('__pycache__', 'msg'))
    with (copy / 'frame.py').open('a') as file:
        file.write('# Changed.\n')
    with dask_cluster(tmp_path / 'cluster', 0) as cluster:
        assert 'has no workers' in refused(cluster.file, tmp_path / 'out')
        cluster.worker(PYTHONPATH=str(copy.parent))
        message = refused(cluster.file, tmp_path / 'out')
    assert message.startswith('diffkd evaluate: worker tcp://127.0.0.1:')
    assert 'it has diffkd_ros 0' in message
    assert ', here 0' in message


def test_a_worker_without_the_package_is_refused(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text('import sys\nsys.modules["diffkd_ros"] = None\n')
    with dask_cluster(tmp_path / 'cluster', 0) as cluster:
        cluster.worker(PYTHONPATH=str(tmp_path))
        assert 'install the version of diffkd_ros' in refused(cluster.file, tmp_path / 'out')


def test_a_worker_with_several_threads_is_refused(tmp_path):
    with dask_cluster(tmp_path / 'cluster', 0) as cluster:
        cluster.worker(threads=2)
        assert 'start it with `--nthreads 1`' in refused(cluster.file, tmp_path / 'out')


@pytest.mark.parametrize(
    ('place', 'message'),
    [
        ('tcp://127.0.0.1:1', 'no Dask scheduler answers at tcp://127.0.0.1:1'),
        ('tcp://127.0.0.1', 'neither the address of a Dask scheduler'),
        ('absent.json', 'neither the address of a Dask scheduler'),
        ('{tmp}/broken.json', 'broken.json'),
        ('{tmp}/other.json', "not a scheduler file, its address is '7'"),
    ],
)
def test_a_wrong_address_is_one_sentence(place, message, tmp_path):
    (tmp_path / 'broken.json').write_text('{')
    (tmp_path / 'other.json').write_text('{"address": 7}')
    assert message in refused(place.format(tmp=tmp_path), tmp_path / 'out')


def test_local_processes_and_a_cluster_exclude_each_other(tmp_path):
    options = ['--cluster', 'tcp://127.0.0.1:1', '--workers', '2']
    done = CliRunner().invoke(app, ['evaluate', '--out', str(tmp_path / 'out'), *options])
    assert (done.exit_code, done.stderr) == (1, 'diffkd evaluate: give either --workers or --cluster\n')


def test_an_interruption_cancels_the_jobs(tmp_path, cluster, model_folder):
    command = [sys.executable, '-m', 'diffkd_ros.cli', 'evaluate', '--out', str(tmp_path / 'out')]
    # A parent may have started the tests with signals ignored.
    restored = (
        'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); '
        'os.execv(sys.argv[1], sys.argv[1:])'
    )
    options = ('--cluster', str(cluster.file), '--model', str(model_folder), '--scenarios', '200')
    process = subprocess.Popen(
        [sys.executable, '-c', restored, *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with distributed.Client(scheduler_file=str(cluster.file), set_as_default=False) as client:

        def tasks():
            return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))

        def running():
            counts = client.run(lambda dask_worker: dask_worker.state.executing_count)
            return sum(counts.values())

        try:
            until(lambda: process.poll() is not None or (tasks() > 100 and running() == 2), 'the first jobs')
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert process.returncode == 130, output + errors
        assert 'interrupted; the same command continues from here' in output
        assert 'Traceback' not in errors
        assert tasks() == 0
        # Running jobs end at their next frame, not after all frames of their scenario.
        until(lambda: running() == 0, 'the end of the running jobs')


def test_evidence_measures_on_a_cluster(tmp_path, cluster):
    pytest.importorskip('lightning', reason='needs the extra train')
    from small_recipe import small_recipe

    (tmp_path / 'base.yaml').write_text(yaml.safe_dump(small_recipe().model_dump(mode='json')))
    plan = {
        'base': 'base.yaml',
        'rows': {'shipped': {'model': 'sim_edge', 'label': 'Shipped'}},
        'reference': 'shipped',
        'subject': 'shipped',
        'conditions': {'scenarios': 2, 'frames_per_scenario': 1, 'corruptions': 'none'},
    }
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(plan))
    summaries = {}
    for name, options in (('here', ('--workers', '1')), ('there', ('--cluster', str(cluster.file)))):
        out = tmp_path / name
        done = CliRunner().invoke(app, ['evidence', str(tmp_path / 'plan.yaml'), '--out', str(out), *options])
        assert done.exit_code == 0, done.output
        summaries[name] = figures(out / 'rows' / 'shipped')
        assert (out / 'evidence.json').exists()
    assert summaries['here'] == summaries['there']


def test_attacks_are_measured_on_a_cluster(tmp_path, workers, model_folder):
    from diffkd_ros.evaluation.conditions import make_attacks
    from diffkd_ros.evaluation.trust import evaluate_attacks

    plan = Plan(tmp_path / 'here', replace(SOURCE, scenarios=1, frames_per_scenario=1), model_folder, 'sim')
    attacks = make_attacks('spoof', '1of2', '0', False)
    here = evaluate_attacks(plan, attacks, Console(file=StringIO()))
    plan = replace(plan, out=tmp_path / 'there')
    there = evaluate_attacks(plan, attacks, Console(file=StringIO()), workers)
    assert json.dumps(here.model_dump()) == json.dumps(there.model_dump())
