# SPDX-License-Identifier: Apache-2.0
"""The command `diffkd train` as a process that is killed and started again, and as several processes."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_recipe import WHOLE_MAPS, small_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.training import loop
from diffkd_ros.training.checkpoint import CHECKPOINT, Progress, read_checkpoint
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe

PATIENCE = 500.0  # seconds
DATA = {'batch': 1, 'frames_per_drive': 8}
RECIPE = small_recipe(validate_every=1, data=DATA)


@pytest.fixture
def few_measured_batches() -> None:
    """Measure the teacher from as many batches as the processes do."""


def start(recipe: Recipe, out: Path, *launcher: str) -> subprocess.Popen[bytes]:
    out.mkdir()
    (out / 'recipe.yaml').write_text(yaml.safe_dump(recipe.model_dump(mode='json')))
    command = [sys.executable, *launcher, '-m', 'diffkd_ros.cli', 'train', str(out / 'recipe.yaml')]
    options = ['--out', str(out), '--threads', '1', '--accelerator', 'cpu']
    with (out / 'output.txt').open('wb') as output:
        return subprocess.Popen(
            [*command, *options], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def progress_of(out: Path) -> Progress:
    return read_checkpoint(out / CHECKPOINT)[1] if (out / CHECKPOINT).exists() else Progress()


def test_a_run_killed_within_a_stage_resumes_to_the_same_weights(tmp_path: Path) -> None:
    assert loop.MEASURED_BATCHES == 32
    stages = [{'name': 'teacher', 'steps': 1}, {'name': 'student', 'steps': 1}]
    # The diffuser draws times and noise in every step; it is long enough to be caught on a busy machine, too.
    recipe = small_recipe(
        stages=[*stages, {'name': 'diffuser', 'steps': 60}], save_every=2, data=DATA | {'workers': 1}
    )
    broken = tmp_path / 'broken'
    process = start(recipe, broken)
    deadline = time.monotonic() + PATIENCE
    while progress_of(broken).step < 2 or len(progress_of(broken).history) < 2:
        assert process.poll() is None, (broken / 'output.txt').read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = progress_of(broken)
    assert 2 <= left.step < 60

    train(recipe, broken)
    train(recipe, tmp_path / 'unbroken')
    resumed, unbroken = (load_file(folder / CHECKPOINT) for folder in (broken, tmp_path / 'unbroken'))
    assert {*resumed} == {*unbroken}
    different = [key for key, value in unbroken.items() if not torch.equal(value, resumed[key])]
    assert different == []
    assert [stage['name'] for stage in progress_of(broken).history] == ['teacher', 'student', 'diffuser']


@pytest.fixture(scope='module')
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have trained, by the command that one process would take."""
    out = tmp_path_factory.mktemp('runs') / 'together'
    launcher = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    process = start(RECIPE, out, *launcher)
    try:
        assert process.wait(PATIENCE) == 0, (out / 'output.txt').read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return out


def test_several_processes_write_one_checkpoint_and_one_verified_model_folder(together: Path) -> None:
    assert [path.name for path in together.rglob('*.safetensors')] == [CHECKPOINT]
    assert [path.parent.name for path in together.rglob('card.yaml')] == ['small']
    card = ModelCard.load(together / 'small')
    assert card.name == 'small'
    assert card.results.keys() >= {'teacher', 'cooperative', 'ego_only'}
    assert card.feature_range == 2 * card.results['largest_feature']
    assert '2 processes' in card.training['machine']
    stages = [(stage['name'], stage['steps']) for stage in card.training['stages']]
    assert stages == [(name, 2) for name in WHOLE_MAPS]


def test_several_processes_train_on_different_frames(together: Path, tmp_path: Path) -> None:
    train(RECIPE.model_copy(update={'stages': RECIPE.stages[:1]}), tmp_path)
    first, alone = (load_file(folder / CHECKPOINT) for folder in (together, tmp_path))
    # Kernels: Adam's first steps go by the gradient's sign, and the few signs of a norm can agree by chance.
    kernels = [key for key in alone if key.startswith('teacher.encoder.') and alone[key].dim() > 1]
    assert kernels
    assert all(not torch.equal(first[key], alone[key]) for key in kernels)


def logged(out: Path) -> dict[str, list[float]]:
    """Everything in the CSV logs, by name."""
    values: dict[str, list[float]] = {}
    for path in out.glob('csv/**/metrics.csv'):
        with path.open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != 'step':
                        values.setdefault(name, []).append(float(value))
    return values


def test_losses_and_precision_are_in_both_logs(together: Path) -> None:
    """Both within a stage and at its end."""
    table = logged(together)
    board = EventAccumulator(str(next((together / 'tensorboard').rglob('events*')).parent)).Reload()
    for name, keys in {
        'teacher': ('total', 'heatmap', 'regression', 'teacher_ap50'),
        'student': ('total', 'heatmap', 'feature', 'prediction', 'reliability', 'cooperative_ap50'),
        'diffuser': ('total', 'restoration', 'autoencoder', 'projection', 'ego_only_ap70'),
        'joint': ('total', 'heatmap', 'restoration', 'reliability', 'cooperative_ap30'),
    }.items():
        for key in keys:
            assert len(table[f'{name}/{key}']) == (2 if '_ap' in key else 1)
            shown = [event.value for event in board.Scalars(f'{name}/{key}')]
            assert shown == pytest.approx(table[f'{name}/{key}'], rel=1e-5)


def test_a_checkpoint_can_be_evaluated(together: Path, tmp_path: Path) -> None:
    """The folder exported for this computes the same as the model folder."""
    outcome = CliRunner().invoke(
        app,
        ['evaluate', '--model', str(together / CHECKPOINT), '--out', str(tmp_path), '--workers', '1',
         '--corruptions', 'none', '--scenarios', '1', '--frames-per-scenario', '1'],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    exported = ModelCard.load(tmp_path / 'model' / 'small')
    assert exported.files == ModelCard.load(together / 'small').files
