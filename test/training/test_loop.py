# SPDX-License-Identifier: Apache-2.0
"""Recipes run to their end with real frames: results of a run, and resuming it."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from small_recipe import small_recipe
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.training.catalogue import STAGES
from diffkd_ros.training.checkpoint import (
    CHECKPOINT,
    CheckpointError,
    load_student,
    read_checkpoint,
    with_model,
)
from diffkd_ros.training.data import Batch
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe, RecipeError
from diffkd_ros.training.stages import Losses, TeacherStage
from diffkd_ros.training.validation import Validation


def test_a_checkpoint_holds_recipe_progress_and_every_weight(tmp_path: Path) -> None:
    recipe = small_recipe('teacher', 'student')
    trained = train(recipe, tmp_path)
    assert trained is not None
    with safe_open(tmp_path / CHECKPOINT, 'pt') as file:
        written = json.loads(file.metadata()['recipe'])
    assert Recipe.model_validate(written) == recipe
    read, progress, parts = read_checkpoint(tmp_path / CHECKPOINT)
    assert read == recipe
    assert [stage['name'] for stage in progress.history] == ['teacher', 'student']
    assert {*parts} == {'teacher', 'student'}
    assert {*parts['teacher']} == {*Teacher(recipe.model).state_dict()}
    loaded = load_student(tmp_path / CHECKPOINT)[1].state_dict()
    for key, value in trained.student.state_dict().items():
        assert torch.equal(loaded[key], value)


def test_an_invalid_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / CHECKPOINT
    with pytest.raises(CheckpointError, match=CHECKPOINT):
        read_checkpoint(file)
    file.write_bytes(b'something else')
    with pytest.raises(CheckpointError, match='is not a checkpoint'):
        train(small_recipe(), tmp_path)
    with pytest.raises(CheckpointError, match='is not a checkpoint'):
        train(small_recipe('student', initial=str(file)), tmp_path / 'other')


def test_a_chain_of_recipes_gives_the_same_weights_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_recipe('teacher', 'student', 'student'), tmp_path / 'whole')
    train(small_recipe('teacher', 'student'), tmp_path / 'first')
    monkeypatch.setenv('RUNS', str(tmp_path))
    train(small_recipe('student', initial=f'$RUNS/first/{CHECKPOINT}'), tmp_path / 'second')
    whole, chained = (load_file(tmp_path / name / CHECKPOINT) for name in ('whole', 'second'))
    assert {*whole} == {*chained}
    assert all(torch.equal(value, chained[key]) for key, value in whole.items())
    history = read_checkpoint(tmp_path / 'second' / CHECKPOINT)[1].history
    assert [stage['name'] for stage in history] == ['teacher', 'student', 'student']


def test_grids_are_rotated_for_the_teacher_only(tmp_path: Path) -> None:
    turned = {'model': {'vectors': 2}, 'data': {'turned': 1.0}}
    trained = train(small_recipe('teacher', **turned), tmp_path / 'teacher')
    assert trained is not None
    # How well maps are read in another grid is reported alongside the other scores.
    assert trained.results['turned'].keys() == trained.results['teacher'].keys()
    initial = str(tmp_path / 'teacher' / CHECKPOINT)
    train(small_recipe('student', 'joint', initial=initial, **turned), tmp_path / 'turned')
    train(small_recipe('student', 'joint', initial=initial, model=turned['model']), tmp_path / 'straight')
    after = [load_file(tmp_path / name / CHECKPOINT) for name in ('turned', 'straight')]
    assert all(torch.equal(value, after[1][key]) for key, value in after[0].items())
    train(small_recipe('teacher', model=turned['model']), tmp_path / 'other')
    before, other = load_file(initial), load_file(tmp_path / 'other' / CHECKPOINT)
    assert any(not torch.equal(value, other[key]) for key, value in before.items())


def test_students_with_other_fusions_can_be_trained_from_one_teacher(tmp_path: Path) -> None:
    """They start from the weights they share with it."""
    train(small_recipe('teacher'), tmp_path / 'teacher')
    initial = str(tmp_path / 'teacher' / CHECKPOINT)
    before = load_file(initial)
    for fusion in ('attention', 'maximum'):
        model = {'fusion': fusion, 'restoration': 'none'}
        trained = train(small_recipe('student', 'joint', initial=initial, model=model), tmp_path / fusion)
        assert trained is not None
        after = load_file(tmp_path / fusion / CHECKPOINT)
        assert all(torch.equal(after[key], value) for key, value in before.items() if key[:8] == 'teacher.')


def test_a_run_of_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    train(small_recipe('teacher', steps=1), tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match='another recipe'):
        train(small_recipe('teacher', steps=1, seed=1), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    # A finished one is not trained again.
    train(small_recipe('teacher', steps=1), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_recipe_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='no teacher'):
        train(small_recipe('student'), tmp_path)


def test_a_teacher_alone_can_be_measured(tmp_path: Path) -> None:
    recipe = small_recipe('teacher', data={'max_agents': 1})
    trained = train(recipe, tmp_path)
    assert trained is not None
    assert trained.results['teacher'] == trained.results['ego_only'] == trained.results['cooperative']
    student = load_student(tmp_path / CHECKPOINT)[1]
    feature, density = torch.rand(1, 8, 32, 64), torch.rand(1, 1, 32, 64)
    with torch.no_grad():
        found = student(feature, density, torch.eye(2, 3)[None])[0]
        assert torch.equal(found, trained.student(feature, density, torch.eye(2, 3)[None])[0])


@pytest.mark.parametrize('stages', [('teacher', 'student'), ('teacher', 'student', 'diffuser')])
def test_a_student_contains_only_trained_parts_and_its_card_has_their_scores(
    stages: tuple[str, ...], tmp_path: Path
) -> None:
    """A restoration with random weights would spoil every feature."""
    recipe = small_recipe(*stages)
    trained = train(recipe, tmp_path)
    assert trained is not None
    feature, density = torch.rand(1, 8, 32, 64), torch.ones(1, 1, 32, 64)
    for student in (trained.student, load_student(tmp_path / CHECKPOINT)[1]):
        with torch.no_grad():
            kept = torch.equal(student.restoration(feature, density), feature)
        assert kept == (stages[-1] == 'student')
        scores = Validation(recipe, torch.device('cpu')).student(student, restore=True)
        assert {key: trained.results[key] for key in scores} == scores


@pytest.mark.parametrize('stages', [('diffuser', 'joint'), ('joint', 'joint')])
def test_no_stage_reinitialises_the_student(stages: tuple[str, str], tmp_path: Path) -> None:
    train(small_recipe('teacher'), tmp_path / 'teacher')
    initial = str(tmp_path / 'teacher' / CHECKPOINT)
    train(small_recipe(stages[0], steps=8, initial=initial), tmp_path / 'first')
    # A step too small to see.
    last = [{'name': stages[1], 'steps': 1, 'learning_rate': 1e-12}]
    for name, before, start in (
        ('second', [], 'first'),
        ('chained', [{'name': stages[0], 'steps': 8}], 'teacher'),
    ):
        recipe = small_recipe(initial=str(tmp_path / start / CHECKPOINT)).model_dump()
        train(Recipe.model_validate(recipe | {'stages': before + last}), tmp_path / name)
    first, *later = (load_file(tmp_path / name / CHECKPOINT) for name in ('first', 'second', 'chained'))
    weights = [name for name, _ in Student(small_recipe().model).named_parameters()]
    for after in later:
        for key in (*weights, 'restoration.mean', 'restoration.deviation'):
            torch.testing.assert_close(after[f'student.{key}'], first[f'student.{key}'], rtol=0, atol=1e-6)


def test_a_new_restoration_begins_at_random_and_the_rest_goes_on(tmp_path: Path) -> None:
    train(small_recipe('teacher', 'joint'), tmp_path / 'first')
    initial = str(tmp_path / 'first' / CHECKPOINT)
    # A step too small to see.
    stages = [{'name': 'joint', 'steps': 1, 'learning_rate': 1e-12}]
    train(small_recipe(initial=initial, new_restoration=True, stages=stages), tmp_path / 'second')
    first, second = (load_file(tmp_path / name / CHECKPOINT) for name in ('first', 'second'))
    names = [f'student.{name}' for name, _ in Student(small_recipe().model).named_parameters()]
    changed = [name for name in names if not torch.allclose(second[name], first[name], atol=1e-4)]
    assert any('denoiser' in name for name in changed)
    assert all(name.startswith('student.restoration.') for name in changed)
    for name in ('student.restoration.mean', 'student.restoration.deviation'):
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=0)


def test_a_new_restoration_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='new_restoration: needs initial'):
        train(small_recipe('teacher', 'joint', new_restoration=True), tmp_path)


def test_mixed_precision_trains_too(tmp_path: Path) -> None:
    trained = train(small_recipe('teacher', 'student', 'joint', steps=1, precision='bf16-mixed'), tmp_path)
    assert trained is not None
    assert all(torch.isfinite(value).all() for value in trained.student.state_dict().values())
    # Weights are kept in full precision.
    assert {value.dtype for value in trained.student.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }


def test_mixed_precision_does_not_round_coordinates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision a point 40 m away would be a quarter of a metre off."""
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    class Witness(TeacherStage):
        def forward(self, batch: Batch) -> Losses:
            seen[torch.is_autocast_enabled('cpu')] += [batch.unions.points, batch.warps, batch.regression]
            return super().forward(batch)

    monkeypatch.setitem(STAGES, 'teacher', Witness)
    for precision in ('32-true', 'bf16-mixed'):
        train(small_recipe('teacher', steps=1, precision=precision), tmp_path / precision)
    assert len(seen[True]) == len(seen[False]) > 0
    assert all(torch.equal(*pair) for pair in zip(seen[True], seen[False], strict=True))


@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
@pytest.mark.parametrize('capability', ['avx512_bf16', 'avx2'])
def test_a_processor_without_bfloat16_is_named(
    precision: str,
    capability: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {capability: True, 'amx_bf16': False})
    train(small_recipe('teacher', steps=1, precision=precision), tmp_path)
    warned = 'no bfloat16 instructions' in capsys.readouterr().out
    assert warned == (precision == 'bf16-mixed' and capability == 'avx2')


def test_a_student_can_take_other_numbers_of_steps() -> None:
    torch.manual_seed(0)
    student = Student(small_recipe().model).eval()
    other = with_model(student, small_recipe(model={'steps': 4, 'start_from': 'pure'}).model)
    assert len(other.restoration.times) == 4  # type: ignore[arg-type]
    own = other.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in student.state_dict().items())


def test_a_sparse_encoder_trains_to_a_folder_for_torch(tmp_path: Path) -> None:
    pytest.importorskip('spconv')
    model = {'encoder': 'sparse', 'grid_range': (-12.8, -6.4, -3.0, 12.8, 6.4, 1.0)}
    recipe = small_recipe('teacher', steps=1, model=model, data={'batch': 1})
    (tmp_path / 'small.yaml').write_text(yaml.safe_dump(recipe.model_dump(mode='json')))
    command = ['train', str(tmp_path / 'small.yaml'), '--out', str(tmp_path), '--threads', '1']
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    assert ModelCard.load(tmp_path / 'small').runtime == 'torch'
