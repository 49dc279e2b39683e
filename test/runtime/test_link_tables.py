# SPDX-License-Identifier: Apache-2.0
"""`link.npz` of a model folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from layered_map import link_arrays

from diffkd_ros.runtime.card import ModelCard, ModelError, sha256
from diffkd_ros.runtime.link.entropy import Decompressor, EntropyModel, compress
from diffkd_ros.runtime.link.tables import LinkTables


@pytest.fixture
def folder(model, tmp_path):
    """The shipped model with tables of a layered message."""
    folder = shutil.copytree(model, tmp_path / 'model')
    write(folder, link_arrays())
    return folder


def write(folder, arrays):
    if isinstance(arrays, bytes):
        (folder / 'link.npz').write_bytes(arrays)
    else:
        np.savez(folder / 'link.npz', **arrays)
    path = folder / 'card.yaml'
    card = yaml.safe_load(path.read_text()) | {'link': True}
    (folder / 'sender.onnx').write_bytes(b'not opened here')
    for name in ('link.npz', 'sender.onnx'):
        card['files'][name] = sha256(folder / name)
    path.write_text(yaml.safe_dump(card))


def test_the_tables_are_those_of_the_file(folder):
    card = ModelCard.load(folder)
    tables = LinkTables.load(card)
    assert (tables.height, tables.width, tables.channels, tables.levels) == (64, 128, 32, 2)
    np.testing.assert_array_equal(tables.fine_vectors, link_arrays()['fine_vectors'])
    assert sorted(tables.order) == list(range(512))
    assert card.link_id == f'sim_edge@{sha256(folder / "link.npz")[:12]}'


def test_a_model_without_a_layered_message_loads_and_says_so(whole_map_model):
    card = ModelCard.load(whole_map_model)
    assert not card.link
    with pytest.raises(ModelError, match='has no layered message'):
        LinkTables.load(card)


def test_tables_that_were_changed_are_refused(folder):
    np.savez(folder / 'link.npz', **link_arrays(fine_codes=128))
    with pytest.raises(ModelError, match=r'link\.npz is not the file its card describes'):
        ModelCard.load(folder)
    (folder / 'link.npz').unlink()
    with pytest.raises(ModelError, match=r'link\.npz is missing'):
        ModelCard.load(folder)


def changed(**values):
    return {name: values.get(name, array) for name, array in link_arrays().items()}


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ('arrays', 'reason'),
    [
        ({}, 'coarse_vectors is missing'),
        (b'PK\x03\x04 no archive', 'is not a file of arrays'),
        (b'', 'is not a file of arrays'),
        (link_arrays(channels=16), 'has 16 channels, the card 32'),
        (changed(coarse_vectors=ones(64, 32)), 'the coarse vector of code 0, which is empty, must be 0'),
        (changed(coarse_vectors=np.zeros((64, 32))), 'must be finite float32 of 2 dimensions, is float64'),
        (changed(coarse_vectors=np.full((64, 32), np.nan, np.float32)), 'must be finite'),
        (changed(coarse_vectors=np.array(['x'], object)), 'is not a file of arrays'),
        (changed(coarse_vectors=np.zeros((300, 32), np.float32)), '300 codes, expected 2 to 256'),
        (changed(fine_vectors=np.zeros((9, 256, 32), np.float32)), '9 fine levels, expected 1 to 4'),
        (changed(fine_vectors=np.zeros((2, 256, 31), np.float32)), '32 coarse and 31 fine channels'),
        (changed(code_vectors=np.zeros((2, 255, 32), np.float32)), 'code_vectors has shape .*, expected'),
        (changed(code_cost=np.zeros((2, 255), np.float32)), 'code_cost has shape .*, expected'),
        (changed(coarse_probability=ones(64)), 'coarse_probability must be probabilities'),
        (changed(fine_probability=ones(2, 255) / 255), r'fine_probability has shape \(2, 255\), expected'),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused_with_the_file(folder, arrays, reason):
    write(folder, arrays)
    with pytest.raises(ModelError, match=rf'link\.npz.*{reason}'):
        LinkTables.load(ModelCard.load(folder))


@pytest.mark.parametrize(
    ('shape', 'reason'), [((62, 128), '62 x 128 cells are not whole tiles'), ((2048, 2048), '262144 tiles')]
)
def test_maps_that_cannot_be_coded_are_refused(shape, reason):
    with pytest.raises(ModelError, match=reason):
        LinkTables(link_arrays(), *shape)


def test_tiles_are_squares_of_four_by_four_cells():
    tables = LinkTables(link_arrays(), 8, 12)
    cells = np.arange(96).reshape(8, 12)
    tiles = tables.as_tiles(cells)
    np.testing.assert_array_equal(tiles[4], cells[4:8, 4:8].ravel())
    np.testing.assert_array_equal(tables.as_cells(tiles), cells)


def test_every_code_can_be_coded_at_about_its_cost():
    draw = np.random.default_rng(2)
    model = EntropyModel.of_probabilities(np.array([0.9, 0.1, 0, 0], np.float32))
    codes = draw.choice(4, 5000, p=[0.9, 0.09, 0.005, 0.005])
    data = compress([(codes, model)])
    assert model.bits[:2] == pytest.approx([-np.log2(0.9), -np.log2(0.1)], abs=1e-4)
    assert len(data) == pytest.approx(model.bits[codes].sum() / 8, rel=0.01)
    decompressor = Decompressor(data)
    np.testing.assert_array_equal(decompressor.read(len(codes), model), codes)
    decompressor.close()


def test_the_coded_bytes_are_these_on_every_platform():
    model = EntropyModel.of_probabilities(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    codes = np.arange(64) % 4
    assert (
        compress([(codes, model), (codes[:9], EntropyModel([5, 1, 2, 1]))]).hex()
        == 'd7827ed2c48f12aab4483c0efaf472ccd8330abb0f3f5a'
    )
