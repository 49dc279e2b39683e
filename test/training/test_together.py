# SPDX-License-Identifier: Apache-2.0
"""Several trainings in one pass over the data."""

import json
import resource
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_recipe import small_recipe

from diffkd_ros.model.backbone import Encoder
from diffkd_ros.training import loop
from diffkd_ros.training.checkpoint import CHECKPOINT, read_checkpoint
from diffkd_ros.training.data import Samples
from diffkd_ros.training.loop import Job, train, train_together
from diffkd_ros.training.machine import Machine
from diffkd_ros.training.recipe import Recipe

AUGMENTED = {'augmentation': {'corruptions': ['fog'], 'tile_loss': 0.5}}
ATTENTION = {'fusion': 'attention', 'restoration': 'none'}


def arms(teacher: Path) -> dict[str, Recipe]:
    """Trainings that share much, something and nothing with the others."""
    initial = str(teacher / CHECKPOINT)
    return {
        'method': small_recipe('student', 'diffuser', 'joint', initial=initial, data=AUGMENTED),
        'placebo': small_recipe(
            'student', 'diffuser', 'joint', initial=initial, data=AUGMENTED, model={'restoration': 'plain'}
        ),
        'attention': small_recipe(
            'student', 'joint', initial=initial, data=AUGMENTED, model=ATTENTION, precision='32-true'
        ),
        'other_seed': small_recipe('student', initial=initial, data=AUGMENTED, seed=5),
        'clean': small_recipe('student', initial=initial, model=ATTENTION),
    }


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('teacher')
    train(small_recipe('teacher'), folder)
    return folder


def test_each_training_gets_the_weights_it_would_get_alone_bit_for_bit(teacher: Path, tmp_path: Path) -> None:
    recipes = arms(teacher)
    jobs = [Job(name, recipe, tmp_path / 'together' / name) for name, recipe in recipes.items()]
    finished = {job.name: result for job, result in train_together(jobs, Machine())}
    assert {*finished} == {*recipes}
    for name, recipe in recipes.items():
        alone = train(recipe, tmp_path / 'alone' / name)
        assert alone is not None
        expected, found = (load_file(tmp_path / way / name / CHECKPOINT) for way in ('alone', 'together'))
        assert {*expected} == {*found}
        assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []
        together = finished[name]
        assert together is not None
        assert together.results == alone.results


def test_samples_are_made_once_and_a_shared_encoder_computes_once(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_recipe('student', initial=str(teacher / CHECKPOINT)), tmp_path / 'student')
    initial = str(tmp_path / 'student' / CHECKPOINT)
    recipes = [
        small_recipe('joint', steps=3, initial=initial, model={'restoration': kind})
        for kind in ('diffusion', 'plain', 'none')
    ]
    counted: Counter[str] = Counter()
    draw, encode = Samples.__getitem__, Encoder.forward

    def drawn(self: Samples, index: int) -> object:
        counted['samples'] += 1
        return draw(self, index)

    def encoded(self: Encoder, points: torch.Tensor, cloud: torch.Tensor, clouds: int) -> object:
        counted['encoded'] += clouds > 1  # validation encodes one union at a time, too
        return encode(self, points, cloud, clouds)

    monkeypatch.setattr(Samples, '__getitem__', drawn)
    monkeypatch.setattr(Encoder, 'forward', encoded)
    monkeypatch.setattr('diffkd_ros.training.run.Run._score', lambda self, network: {})
    monkeypatch.setattr('diffkd_ros.training.run.Run.result', lambda self: None)
    jobs = [Job(str(i), recipe, tmp_path / str(i)) for i, recipe in enumerate(recipes)]
    list(train_together(jobs, Machine()))
    # Three steps of two samples; a teacher and an encoder in each.
    assert counted['samples'] == 6
    assert counted['encoded'] == 6


def test_a_training_waits_for_the_one_it_starts_from(tmp_path: Path) -> None:
    first = Job('first', small_recipe('teacher'), tmp_path / 'first')
    initial = str(tmp_path / 'first' / CHECKPOINT)
    second = Job('second', small_recipe('student', initial=initial), tmp_path / 'second', after='first')
    order = [job.name for job, _ in train_together([second, first], Machine())]
    assert order == ['first', 'second']


def test_trainings_interrupted_at_different_steps_go_on_together(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has saved its second step when the process ends, the other its first."""
    initial = str(teacher / CHECKPOINT)
    recipes = {
        'often': small_recipe('student', steps=4, initial=initial, save_every=1),
        'seldom': small_recipe('student', steps=4, initial=initial, save_every=2, model=ATTENTION),
    }

    def jobs(way: str) -> list[Job]:
        return [Job(name, recipe, tmp_path / way / name) for name, recipe in recipes.items()]

    list(train_together(jobs('whole'), Machine()))
    step = loop.Run.step

    def interrupted(run: loop.Run, batch: object) -> None:
        if run.progress.step == 3:
            raise KeyboardInterrupt
        step(run, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Run, 'step', interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(train_together(jobs('broken'), Machine()))
    steps = {n: read_checkpoint(tmp_path / 'broken' / n / CHECKPOINT)[1].step for n in recipes}
    assert steps == {'often': 3, 'seldom': 2}
    monkeypatch.setattr(loop.Run, 'step', step)
    list(train_together(jobs('broken'), Machine()))
    for name in recipes:
        whole, broken = (load_file(tmp_path / way / name / CHECKPOINT) for way in ('whole', 'broken'))
        assert [key for key, value in whole.items() if not torch.equal(value, broken[key])] == []


def test_a_further_teacher_stage_gives_a_new_student(teacher: Path, tmp_path: Path) -> None:
    """The one of the initial checkpoint was made for the earlier teacher."""
    train(small_recipe('student', 'joint', initial=str(teacher / CHECKPOINT)), tmp_path / 'first')
    initial = str(tmp_path / 'first' / CHECKPOINT)
    trained = train(small_recipe('teacher', 'student', initial=initial), tmp_path / 'second')
    assert trained is not None
    assert trained.student.config.restoration == 'none', 'the earlier joint stage has not trained this one'
    before, after = load_file(initial), load_file(tmp_path / 'second' / CHECKPOINT)
    # A few steps from the new teacher's weights, not from those of the earlier student.
    for key in ('head.heatmap.weight', 'encoder.pillars.linear.weight'):
        starts = after[f'teacher.{key}'], before[f'student.{key}']
        new, old = ((after[f'student.{key}'] - start).abs().max() for start in starts)
        assert new < old


def test_the_curve_has_the_scores_over_the_samples_also_after_an_interruption(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn_curve: None
) -> None:
    initial = str(teacher / CHECKPOINT)
    recipe = small_recipe('student', 'joint', steps=4, initial=initial, validate_every=2, save_every=3)
    step = loop.Run.step

    def interrupted(run: loop.Run, batch: object) -> None:
        if run.progress.step == 3:
            raise KeyboardInterrupt
        step(run, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Run, 'step', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path)
    monkeypatch.setattr(loop.Run, 'step', step)
    trained = train(recipe, tmp_path)
    assert trained is not None
    curve = json.loads((tmp_path / 'curve.json').read_text())
    # Two frames a step.
    assert [(point['stage'], point['samples']) for point in curve] == [
        ('student', 4), ('student', 8), ('joint', 4), ('joint', 8)
    ]  # fmt: skip
    assert curve[-1]['scores']['cooperative'] == trained.results['cooperative']
    assert [stage['samples'] for stage in trained.training['stages'][-2:]] == [8, 8]
    assert (tmp_path / 'curve.png').stat().st_size > 1000


def test_a_stage_in_samples_equals_one_in_steps(tmp_path: Path) -> None:
    """Two frames a step: five samples are three steps."""
    stages = {'steps': {'name': 'teacher', 'steps': 3}, 'samples': {'name': 'teacher', 'samples': 5}}
    found = {}
    for name, stage in stages.items():
        recipe = Recipe.model_validate({**small_recipe('teacher').model_dump(), 'stages': [stage]})
        trained = train(recipe, tmp_path / name)
        assert trained is not None
        assert [(done['steps'], done['samples']) for done in trained.training['stages']] == [(3, 6)]
        found[name] = load_file(tmp_path / name / CHECKPOINT)
    assert [k for k, value in found['steps'].items() if not torch.equal(value, found['samples'][k])] == []


def test_a_low_limit_of_open_files_is_raised() -> None:
    """Batches of many workers that wait to be used are open files; systems allow 1024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        assert list(train_together([], Machine())) == []
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 4096 or hard <= 4096
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
