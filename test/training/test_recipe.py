# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from diffkd_ros.training.recipe import RecipeError, load_recipe

STAGES = 'stages:\n  - {name: teacher, steps: 2}\n'


def write(path: Path, text: str) -> Path:
    file = path / 'recipe.yaml'
    file.write_text(text)
    return file


def augmented(corruptions: str) -> str:
    return f'name: a\ndescription: b\ndata: {{augmentation: {{corruptions: {corruptions}}}}}\n' + STAGES


def test_every_shipped_recipe_loads() -> None:
    recipes = sorted(Path('config/train').glob('*.yaml'))
    assert recipes
    for path in recipes:
        assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('name: a\ndescription: b\nsede: 3\n' + STAGES, 'unknown key sede, did you mean seed'),
        (
            'name: a\ndescription: b\ndata: {bacth: 3}\n' + STAGES,
            r'unknown key data\.bacth, did you mean batch',
        ),
        ('name: a\ndescription: b\nmodel: {chanels: 3}\n' + STAGES, r'model\.chanels, did you mean channels'),
        (
            'name: a\ndescription: b\ndata: {batch: 0}\n' + STAGES,
            r'data\.batch: .*greater than or equal to 1',
        ),
        ('name: a\ndescription: b\nstages: []\n', 'stages: '),
        (
            'name: a\ndescription: b\nmodel: {restoration: none}\nstages: [{name: diffuser, steps: 1}]\n',
            'stage diffuser: the model has no restoration',
        ),
        (
            'name: a\ndescription: b\nnew_restoration: true\n' + STAGES,
            'new_restoration: none of the stages teacher trains it',
        ),
        (
            'name: a\ndescription: b\nmodel: {grid_range: [-50, -25.6, -3, 50, 25.6, 1]}\n' + STAGES,
            r'model\.grid_range: 100 m along x are 250 pillars of 0\.4 m',
        ),
        ('name: a\ndescription: b\nmodel: {pillar_cell: 0.3}\n' + STAGES, 'must be a multiple of 8'),
        (
            'name: a\ndescription: b\nmodel: {channels: 20}\n' + STAGES,
            r'model\.channels: 20 is not a multiple',
        ),
        (
            'name: a\ndescription: b\nmodel: {latent_channels: 12}\n' + STAGES,
            r'model\.latent_channels: 12 is not a multiple',
        ),
        (
            'name: a\ndescription: b\nmodel: {vectors: 17}\n' + STAGES,
            'need 34 channels, but model.channels is 32',
        ),
        ('name: a\ndescription: b\ndata: {turned: 0.5}\n' + STAGES, r'data\.turned: needs channels'),
        (augmented('[fog, snow], held_out: [rain, snow]'), 'rain'),
        (augmented('[fog, snow], held_out: [snow]'), 'snow: both in corruptions and in held_out'),
        (augmented('[fgo]'), "'fog'"),
        (augmented('[fog], severities: [4]'), 'fog has severities'),
        (augmented('[delay]'), 'delay does not act on clouds'),
        (augmented('[fog], probabilty: 0.5'), r'did you mean probability'),
        ('name: a\ndescription: b\ndata: {sources: [{kind: opv2v}]}\n' + STAGES, 'needs a folder'),
        (
            'name: a\ndescription: b\ndata: {validation: {folder: x}}\n' + STAGES,
            'simulator takes none',
        ),
        ('name: [', 'recipe.yaml'),
        ('name: a\ndescription: b\nstages: [{name: teacher}]\n', 'teacher: give either steps or samples'),
        (
            'name: a\ndescription: b\nstages: [{name: teacher, steps: 2, samples: 8}]\n',
            'teacher: give either steps or samples',
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'nowhere\.yaml'):
        load_recipe(tmp_path / 'nowhere.yaml')


def test_samples_become_steps_of_any_batch(tmp_path: Path) -> None:
    text = 'name: a\ndescription: b\nstages: [{name: teacher, samples: 45}, {name: student, steps: 3}]\n'
    teacher, student = load_recipe(write(tmp_path, text)).stages
    assert [teacher.steps_of(frames) for frames in (1, 4, 15, 45, 100)] == [45, 12, 3, 1, 1]
    assert student.steps_of(4) == student.steps_of(16) == 3
