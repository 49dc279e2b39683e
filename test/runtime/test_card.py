# SPDX-License-Identifier: Apache-2.0
"""A card is checked when it is read, and its graphs when they are opened."""

import shutil

import pytest
import yaml

from diffkd_ros.runtime.card import EGO, ENCODER, ModelCard, ModelError, sha256
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder


@pytest.fixture
def folder(model, tmp_path):
    """A copy of the shipped model."""
    return shutil.copytree(model, tmp_path / 'model')


def change(folder, **values):
    """Change values of the card; a dict changes values of a section."""
    path = folder / 'card.yaml'
    card = yaml.safe_load(path.read_text())
    for key, value in values.items():
        card[key] = {**card[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(card))


@pytest.mark.parametrize(
    ('grid', 'reason'),
    [
        ({'x_min': 60.0}, 'minima must be below maxima'),
        ({'x_max': 1e30}, 'within 1000 m'),
        ({'height': 0}, '1 to 2048 rows and columns'),
        ({'height': -64, 'width': -128}, '1 to 2048 rows and columns'),
        ({'height': 10**9}, '1 to 2048 rows and columns'),
        ({'height': 32}, r'cells must be square, got 0\.8 m along x, 1\.6 m along y'),
        ({'x_min': float('nan')}, r'grid\.x_min: not a finite number'),
        ({'hight': 64}, 'unknown key grid.hight, did you mean height'),
    ],
)
def test_impossible_grids_are_refused(folder, grid, reason):
    change(folder, grid=grid)
    with pytest.raises(ModelError, match=rf'not a model card: .*card\.yaml: .*{reason}') as error:
        ModelCard.load(folder)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('change_of_card', 'reason'),
    [
        ({'channels': 16}, 'feature must be 1 x 16 x 64 x 128 floats, is 1 x 32 x 64 x 128'),
        ({'grid': {'height': 128, 'width': 256}}, 'feature must be 1 x 32 x 128 x 256 floats'),
    ],
)
def test_a_card_of_another_graph_is_named_before_the_first_run(folder, change_of_card, reason):
    change(folder, **change_of_card)
    card = ModelCard.load(folder)
    with pytest.raises(ModelError, match=rf'encoder\.onnx does not fit its card: {reason}'):
        FeatureEncoder(card)
    with pytest.raises(ModelError, match=r'ego\.onnx does not fit its card: features must be any x'):
        CooperativeDetector(card)


def test_graphs_that_were_swapped_are_named(folder):
    (folder / ENCODER).rename(folder / 'x')
    (folder / EGO).rename(folder / ENCODER)
    (folder / 'x').rename(folder / EGO)
    change(folder, files={name: sha256(folder / name) for name in (ENCODER, EGO)})
    card = ModelCard.load(folder)
    with pytest.raises(ModelError, match=r'encoder\.onnx has no points: found features'):
        FeatureEncoder(card)
    with pytest.raises(ModelError, match=r'ego\.onnx has no features: found points'):
        CooperativeDetector(card)


def test_a_card_that_expands_without_end_is_refused(folder):
    levels = ''.join(f'a{k + 1}: &a{k + 1} [{", ".join([f"*a{k}"] * 10)}]\n' for k in range(9))
    path = folder / 'card.yaml'
    path.write_text(path.read_text() + 'a0: &a0 [1, 2]\n' + levels)
    with pytest.raises(ModelError, match='more than 100000 values'):
        ModelCard.load(folder)
