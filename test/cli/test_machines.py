# SPDX-License-Identifier: Apache-2.0
"""Every verb on machines as people have them: locked down, without extras, full, in a notebook."""

import importlib.util
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from missing_package import without
from patience import PATIENCE, until
from recorded_sets import write_opv2v_frame
from sandbox import sandboxed
from small_recipe import small_recipe
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from diffkd_ros.bags.convert import convert
from diffkd_ros.cli import app
from diffkd_ros.errors import EXTRA_OF
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

PROJECT = Path(__file__).parents[2]
FEW = ('--corruptions', 'none', '--scenarios', '1', '--frames-per-scenario', '1', '--workers', '1')


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder with a bag, an OPV2V set of the same frames, a recipe and a plan."""
    folder = tmp_path_factory.mktemp('place')
    scenario = Simulator(SimulatorConfig(agents=2, frames_per_scenario=2), 3).scenario(0)
    for kind in ('bag', 'opv2v'):
        convert([scenario.frame(k) for k in range(2)], folder / kind, kind)
    recipe = small_recipe('teacher', steps=1).model_dump(mode='json') | {'name': 'teacher'}
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(recipe))
    plan = {
        'base': 'recipe.yaml',
        'trainings': {'teacher': {'stages': ['teacher']}},
        'rows': {'early': {'training': 'teacher', 'cooperation': 'early', 'label': 'Early'}},
        'reference': 'early',
        'subject': 'early',
        'conditions': {'scenarios': 1, 'frames_per_scenario': 1, 'corruptions': 'none'},
    }
    (folder / 'plan.yaml').write_text(yaml.safe_dump(plan))
    (folder / 'tmp').mkdir()
    return folder


def diffkd(*words, folder, preexec_fn=None, **variables):
    return run('-m', 'diffkd_ros.cli', *words, folder=folder, preexec_fn=preexec_fn, **variables)


def run(*arguments, folder, sandbox=False, preexec_fn=None, **variables):
    command = [sys.executable, *arguments]
    return subprocess.run(
        sandboxed(command, [PROJECT]) if sandbox else command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        errors='surrogateescape',
        preexec_fn=preexec_fn,
        timeout=2 * PATIENCE,
    )


def locked_down(*arguments, folder):
    """Run Python without home and network, where only results and the temporary folder can be written."""
    nowhere = dict.fromkeys(('HOME', 'XDG_CACHE_HOME', 'MPLCONFIGDIR'), '/proc/nowhere')
    variables = {'TMPDIR': str(folder / 'tmp'), 'NUMBA_CACHE_DIR': '', **nowhere}
    return run(*arguments, folder=folder, sandbox=True, **variables)


COMPILING = 'compiling numeric functions'


# Runs `diffkd compile` and prints the functions that it has not compiled.
COMPILE = """
import importlib, pkgutil
from numba.extending import is_jitted
from diffkd_ros import geometry, metrics, sources
from diffkd_ros.cli import app
app(['compile'], standalone_mode=False)
for package in (geometry, metrics, sources):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError:
            continue
        for name, value in vars(module).items():
            if is_jitted(value) and not value.signatures and value.targetoptions.get('inline') != 'always':
                print(module.__name__, name)
"""


@pytest.fixture(scope='module')
def compiling(place):
    done = locked_down('-c', COMPILE, folder=place)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope='module')
def compiled(compiling, place) -> Path:
    """The folder, after `diffkd compile`."""
    return place


# Options of a short run of every verb, in the folder `place`, which is no checkout of OpenCDA.
OPTIONS = {
    'bag convert': ('sim', '{out}', '--scenarios', '1', '--length', '1', '--vehicles', '1'),
    'bag page': ('bag', '--out', '{out}.html'),
    'bench': ('--repetitions', '1'),
    'bench-opencda': ('.', '--out', '{out}'),
    'compile': (),
    'data check': ('opv2v:opv2v', '--workers', '1'),
    'demo': ('--out', '{out}', '--frames', '2', '--vehicles', '2', '--realtime-seconds', '0'),
    'demo-carla': ('--out', '{out}', '--frames', '2', '--vehicles', '2'),
    'evaluate': (
        *('--out', '{out}', '--source', 'bag:bag', '--scenarios', '1', '--workers', '2'),
        *('--corruptions', 'snow,message_loss', '--severity', '3'),
    ),
    'evidence': ('plan.yaml', '--out', 'evidence', '--workers', '1'),
    'quantise': ('--out', '{out}'),
    # What evidence would train otherwise.
    'train': ('recipe.yaml', '--out', 'evidence/trainings/teacher', '--accelerator', 'cpu'),
}
# The extra of each verb that needs one.
EXTRAS = {
    'bag convert': 'data',
    'bag page': 'data',
    'bench-opencda': 'ros',
    'data check': 'data',
    'demo': 'ros',
    'demo-carla': 'ros',
    'evaluate': 'report',
    'evidence': 'train',
    'quantise': 'train',
    'train': 'train',
}


def listed(group: TyperGroup, *before: str) -> Iterator[str]:
    """The verbs that the command line itself knows."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from listed(command, *before, name)
        else:
            yield ' '.join([*before, name])


# From the last to the first: `train` before `evidence`, which takes half as long then.
VERBS = sorted(listed(get_command(app)), reverse=True)


def words(verb, out):
    return [*verb.split(), *(option.format(out=out) for option in OPTIONS[verb])]


@pytest.mark.parametrize('verb', VERBS)
def test_it_runs_read_only_without_home_and_network(verb, compiled, tmp_path):
    """A verb runs, or says in a line what it needs; after `diffkd compile` it compiles nothing."""
    done = locked_down('-m', 'diffkd_ros.cli', *words(verb, tmp_path / 'out'), folder=compiled)
    missing = re.fullmatch(rf'diffkd {verb}: (\w+) is missing: .*\n', done.stderr)
    if missing:
        assert importlib.util.find_spec(missing[1]) is None
    elif verb == 'bench-opencda':
        assert re.fullmatch(r'diffkd bench-opencda: \. is not a checkout of OpenCDA: .*\n', done.stderr)
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert 'Traceback' not in done.stderr
        assert COMPILING not in done.stderr


def test_every_function_is_compiled_beforehand(compiling):
    assert COMPILING in compiling.stderr
    assert re.fullmatch(r'ready after \d+ s\n', compiling.stdout)


@pytest.mark.parametrize('verb', VERBS)
def test_without_extras_it_runs_or_names_the_one_it_needs(verb, place, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', without(*EXTRA_OF), *words(verb, tmp_path / 'out')],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if verb not in EXTRAS:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    assert done.stderr.startswith(f'diffkd {verb}: ')
    assert done.stderr.endswith(f" is missing: pip install 'diffkd-ros[{EXTRAS[verb]}]'\n")
    assert done.stderr.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'options',
    [
        ('evaluate', '--out', 'file', *FEW),
        ('evaluate', '--out', '/proc/nowhere', *FEW),
        ('train', '--out', 'file'),
        ('demo', '--out', 'file'),
        ('demo-carla', '--out', 'file'),
        ('evidence', '--out', 'file/below'),
        ('quantise', '--out', 'file/below'),
        ('bench', '--out', 'file/below'),
        ('bag', 'page', '../bag', '--out', 'file/below'),
        ('bag', 'convert', 'sim', 'file/below'),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(options, place, tmp_path, monkeypatch):
    if options[0] in ('demo', 'demo-carla'):
        pytest.importorskip('rclpy')
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    done = CliRunner().invoke(app, [word.replace('..', str(place)) for word in options])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith('diffkd ')
    assert 'cannot write' in done.stderr
    assert done.stderr.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['file']


# As in every cell of a notebook.
NOTEBOOK = {'MPLBACKEND': 'module://matplotlib_inline.backend_inline'}


def limited(size):
    """No file can become larger, as if the disk were full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_an_evaluation_on_a_full_disk_is_one_line_and_can_be_continued(place, tmp_path):
    options = ('evaluate', '--out', str(tmp_path), '--source', 'bag:bag', *FEW)
    done = diffkd(*options, folder=place, preexec_fn=limited(40_000))
    assert done.returncode == 1
    assert done.stderr == f'diffkd evaluate: cannot write {tmp_path}/report.html: File too large\n'
    assert {path.name for path in tmp_path.iterdir()} >= {'evaluation.json', 'results.csv', 'summary.json'}
    assert not [path for path in tmp_path.rglob('*') if path.suffix in ('.part', '.html')]
    assert diffkd(*options, folder=place).returncode == 0
    assert (tmp_path / 'report.html').stat().st_size > 40_000


def test_a_training_on_a_full_disk_is_one_line_in_a_notebook_too(place, tmp_path):
    """Lightning imports Matplotlib before the curve is drawn."""
    pytest.importorskip('lightning')
    options = ('train', 'recipe.yaml', '--out', str(tmp_path), '--accelerator', 'cpu')
    done = diffkd(*options, folder=place, preexec_fn=limited(10_000), **NOTEBOOK)
    assert done.returncode == 1
    error = f'diffkd train: cannot write {tmp_path}/curve.png: File too large\n'
    assert done.stderr.endswith(error)
    assert 'Traceback' not in done.stderr
    assert not [*tmp_path.glob('checkpoint*'), *tmp_path.glob('curve.png*')]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--source', 'opv2v:opv2v', '--split', 'vall'), 'vall'),
        (('--source', 'dair:opv2v'), 'opv2v'),
        (('--source', 'bag:opv2v'), 'opv2v'),
        (('--source', 'bag:bag', '--answers', 'absent'), 'absent'),
        (('--source', 'bag:bag', '--baseline', 'absent'), 'absent'),
        (
            ('--source', 'bag:bag', '--calibration', 'temperature', '--calibrate-on', 'dair:opv2v'),
            'opv2v',
        ),
    ],
)
def test_a_mistyped_option_leaves_nothing_behind(options, message, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, ['evaluate', '--out', str(tmp_path / 'out'), *options, *FEW])
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / 'out').exists()


def test_a_notebook_evaluates_a_folder_whose_name_is_not_unicode(place, tmp_path):
    folder = tmp_path / b'caf\xe9'.decode('utf-8', 'surrogateescape')
    shutil.copytree(place / 'bag', folder / 'bag')
    options = ('--out', str(folder / 'out'), '--source', f'bag:{folder}/bag', *FEW)
    done = diffkd('evaluate', *options, folder=place, **NOTEBOOK)
    assert done.returncode == 0, done.stderr
    assert 'caf\\udce9' in done.stdout
    assert (folder / 'out' / 'report.html').exists()


@pytest.mark.parametrize('accelerator', ['tpu', 'nonsense'])
def test_an_accelerator_that_is_not_there_is_one_line(accelerator, place, tmp_path):
    pytest.importorskip('lightning')
    recipe = str(place / 'recipe.yaml')
    options = ['train', recipe, '--out', str(tmp_path), '--accelerator', accelerator]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 1
    assert done.stderr.startswith(f'diffkd train: accelerator {accelerator}')
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize('verb', ['train', 'evidence'])
def test_a_file_in_latin_1_is_one_line(verb, tmp_path):
    pytest.importorskip('lightning')
    (tmp_path / 'latin.yaml').write_bytes('# café\nname: small\n'.encode('latin-1'))
    done = CliRunner().invoke(app, [verb, str(tmp_path / 'latin.yaml'), '--out', str(tmp_path / 'out')])
    assert done.exit_code == 1
    assert done.stderr.startswith(f'diffkd {verb}: {tmp_path / "latin.yaml"}: ')
    assert done.stderr.count('\n') == 1


def test_a_killed_worker_of_a_check_is_one_line(tmp_path):
    for number in range(400):
        write_opv2v_frame(tmp_path / 'set' / 'drive', 5, number)
    command = [sys.executable, '-m', 'diffkd_ros.cli', 'data', 'check', str(tmp_path / 'set')]
    running = subprocess.Popen(
        [*command, '--workers', '1'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def worker():
        listed = Path(f'/proc/{running.pid}/task').glob('*/children')
        children = [int(child) for path in listed for child in path.read_text().split()]
        return [child for child in children if b'spawn_main' in Path(f'/proc/{child}/cmdline').read_bytes()]

    os.kill(until(worker, 'the worker')[0], signal.SIGKILL)
    output, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1, output
    assert errors.startswith('diffkd data check: a worker process was killed')
    assert 'Traceback' not in errors
