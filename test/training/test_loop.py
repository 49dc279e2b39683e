# SPDX-License-Identifier: Apache-2.0
"""The whole recipe in small, with real frames, checkpoints and export."""

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from diffkd_ros.training.data import training_batches
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.stages import STAGES, copy_teacher
from diffkd_ros.training.validation import grid_of

SMALL = {
    'name': 'small',
    'description': 'A few steps, for a test.',
    'model': {
        'grid_range': (-25.6, -12.8, -3.0, 25.6, 12.8, 1.0),
        'stages': (8, 16, 16),
        'depth': 1,
        'channels': 8,
        'latent_channels': 8,
        'blocks': 1,
        'head_channels': 16,
        'key_channels': 8,
    },
    'data': {'batch': 2, 'workers': 0, 'validation_scenarios': 1, 'validation_frames': 1},
    'stages': [{'name': name, 'steps': 2} for name in STAGES],
}


def test_the_command_runs_a_recipe_to_a_verified_model_folder(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(SMALL)
    (tmp_path / 'small.yaml').write_text(yaml.safe_dump(recipe.model_dump(mode='json')))
    outcome = CliRunner().invoke(
        app, ['train', str(tmp_path / 'small.yaml'), '--out', str(tmp_path), '--threads', '1']
    )
    assert outcome.exit_code == 0, outcome.output
    card = ModelCard.load(tmp_path / 'small')
    assert card.name == 'small'
    assert card.results.keys() >= {'teacher', 'cooperative', 'ego_only'}
    assert [(stage['name'], stage['steps']) for stage in card.training['stages']] == [
        (name, 2) for name in STAGES
    ]
    assert sorted(path.name for path in tmp_path.glob('*.csv')) == [
        f'{i}_{name}.csv' for i, name in enumerate(STAGES)
    ]

    # The checkpoint can be measured as it is; what it is exported to computes the same.
    outcome = CliRunner().invoke(
        app,
        ['evaluate', '--model', str(tmp_path / 'checkpoint.safetensors'), '--out', str(tmp_path / 'e'),
         '--corruptions', 'none', '--scenarios', '1', '--frames-per-scenario', '1', '--workers', '1'],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    assert ModelCard.load(tmp_path / 'e' / 'model' / 'small').files == card.files

    # A finished run is not trained again; another recipe's run is not continued.
    before = (tmp_path / 'checkpoint.safetensors').read_bytes()
    other = Recipe.model_validate(SMALL | {'seed': 1})
    with pytest.raises(CheckpointError, match='another recipe'):
        train(other, tmp_path, threads=1)
    assert (tmp_path / 'checkpoint.safetensors').read_bytes() == before


def test_a_checkpoint_brings_every_weight_back(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(SMALL)
    saved = Teacher(recipe.model), Student(recipe.model)
    minutes = [1.5, 2.0]
    save_checkpoint(tmp_path / 'c.safetensors', recipe, *saved, minutes)
    read = Teacher(recipe.model), Student(recipe.model)
    assert load_checkpoint(tmp_path / 'c.safetensors', recipe, *read) == minutes
    for one, two in zip(saved, read, strict=True):
        weights = two.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize('name', list(STAGES))
def test_each_stage_trains_what_it_should_and_nothing_else(name: str) -> None:
    recipe = Recipe.model_validate(SMALL)
    torch.manual_seed(0)
    teacher, student = Teacher(recipe.model), Student(recipe.model)
    copy_teacher(teacher, student)
    module = STAGES[name](teacher, student).train()
    batch = next(iter(training_batches(recipe.data, grid_of(recipe), 1, 0)))
    losses = module(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()

    def moved(part: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())

    assert moved(teacher) == (name == 'teacher')
    assert moved(student.encoder) == (name == 'student')
    assert moved(student.restoration) == (name in ('diffuser', 'joint'))
    assert moved(student.restoration.gate) == (name == 'joint')
    assert moved(student.fusion) == (name in ('student', 'joint'))
    assert moved(student.head) == (name in ('student', 'joint'))


def test_the_teacher_learns_a_frame_it_sees_again_and_again() -> None:
    recipe = Recipe.model_validate(SMALL)
    torch.manual_seed(0)
    teacher, student = Teacher(recipe.model), Student(StudentConfig())
    module = STAGES['teacher'](teacher, student).train()
    batch = next(iter(training_batches(recipe.data, grid_of(recipe), 1, 0)))
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=5e-3)
    history = []
    for _ in range(40):
        loss = torch.stack(list(module(batch).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
