# SPDX-License-Identifier: Apache-2.0
"""The recipes for the data sets, on miniature sets with small networks: every step from file to student."""

from pathlib import Path

import pytest
import torch
from recorded_sets import write_dair, write_json
from small_recipe import MODEL, SIMULATOR

from diffkd_ros.share import share_directory
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe, load_recipe

# The layout of the networks stays: profile, fusion, start and steps.
SMALL_MODEL = MODEL | {'pillar_channels': 4, 'vectors': 2}


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(SimulatorConfig.model_validate(SIMULATOR), 5)
    for split, number in (('train', 0), ('validate', 1)):
        write_opv2v([simulator.scenario(number).frame(i) for i in (0, 30)], tmp_path / 'opv2v' / split)
    monkeypatch.setenv('OPV2V', str(tmp_path / 'opv2v'))
    monkeypatch.setenv('DAIR_V2X', str(write_dair(tmp_path / 'dair')))
    splits = {'cooperative_split': {'train': ['000010', '000009'], 'val': ['000020']}}
    write_json(tmp_path / 'splits.json', splits)
    monkeypatch.setenv('DAIR_V2X_SPLIT', str(tmp_path / 'splits.json'))


def small(recipe: Recipe, length: str = 'steps', count: int = 1) -> Recipe:
    content = recipe.model_dump()
    content['model'] |= SMALL_MODEL
    content['data'] |= {'workers': 0}
    content['stages'] = [{'name': stage['name'], length: count} for stage in content['stages']]
    return Recipe.model_validate(content)


@pytest.mark.usefixtures('sets')
@pytest.mark.parametrize('name', ['opv2v', 'dair'])
def test_a_data_set_becomes_a_student(name: str, tmp_path: Path) -> None:
    recipe = small(load_recipe(share_directory() / 'config' / 'train' / f'{name}.yaml'))
    trained = train(recipe, tmp_path / 'run')
    assert trained is not None
    done = [stage['name'] for stage in trained.training['stages']]
    assert done == ['teacher', 'student', 'diffuser', 'joint']
    assert trained.results['data'].endswith(f'held-out {name} frames')
    assert trained.training['data'].startswith(name)
    assert all(torch.isfinite(value).all() for value in trained.student.state_dict().values())


def test_the_wide_recipe_trains_for_some_steps_of_a_small_batch(tmp_path: Path) -> None:
    recipe = load_recipe(share_directory() / 'config' / 'train' / 'sim_wide.yaml')
    assert all(stage.samples is not None for stage in recipe.stages)
    data = recipe.data.model_copy(update={'batch': 2, 'validation_scenarios': 1, 'validation_frames': 1})
    trained = train(small(recipe.model_copy(update={'data': data}), 'samples', 3), tmp_path / 'run')
    assert trained is not None
    done = [(stage['name'], stage['steps'], stage['samples']) for stage in trained.training['stages']]
    assert done == [(name, 2, 4) for name in ('teacher', 'student', 'diffuser', 'joint')]
    assert all(torch.isfinite(value).all() for value in trained.student.state_dict().values())


def test_the_wide_recipe_is_the_published_grid_with_the_small_restoration() -> None:
    folder = share_directory() / 'config' / 'train'
    wide, published = (load_recipe(folder / f'{name}.yaml').model for name in ('sim_wide', 'opv2v'))
    assert wide.grid_range == published.grid_range
    assert (wide.height, wide.width) == (published.height, published.width)
    assert (wide.profile, wide.latent_channels, wide.steps) == ('edge', 64, 1)


@pytest.mark.parametrize(('name', 'features'), [('opv2v', (96, 352)), ('dair', (128, 256))])
def test_the_published_grids_are_divisible_by_every_stride(name: str, features: tuple[int, int]) -> None:
    recipe = load_recipe(share_directory() / 'config' / 'train' / f'{name}.yaml')
    model = recipe.model
    assert (model.height, model.width) == features
    # The backbone halves the pillars three times, the faithful denoiser the features twice.
    assert all(cells % 8 == 0 for cells in features)
    assert model.profile == 'faithful'
    assert recipe.data.augmentation is not None
    assert not {*recipe.data.augmentation.corruptions} & {*recipe.data.augmentation.held_out}
    assert recipe.data.augmentation.held_out
