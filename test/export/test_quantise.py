# SPDX-License-Identifier: Apache-2.0
"""The shipped model with 8-bit convolutions against the shipped model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from typer.testing import CliRunner

from diffkd_ros.cli import app
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.metrics.average_precision import AveragePrecision
from diffkd_ros.runtime.card import CARD, ENCODER, ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

HELD_OUT_SEED = 77


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('quantised') / 'model'
    outcome = CliRunner().invoke(app, ['quantise', '--out', str(folder)])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output == f'{folder}: {ModelCard.load(folder).model_id}\n'
    return folder


@pytest.fixture(scope='module')
def frames() -> list[CoopFrame]:
    simulator = Simulator(SimulatorConfig(), HELD_OUT_SEED)
    return [simulator.scenario(k).frame(30) for k in range(8)]


def test_features_and_detections_are_nearly_those_of_floats(
    folder: Path, shipped_model: Path, frames: list[CoopFrame]
) -> None:
    """The error of the features is within 6 %, and AP@0.7 on these few frames within 3 points."""
    cards = [ModelCard.load(each) for each in (shipped_model, folder)]
    encoders, detector = [FeatureEncoder(card) for card in cards], CooperativeDetector(cards[0])
    error = size = 0.0
    scores = [AveragePrecision((0.7,)) for _ in cards]
    for frame in frames:
        agents = [frame.agents[agent] for agent in (frame.ego, *frame.neighbours)]
        exact, rounded = ([encoder.encode(each.points) for each in agents] for encoder in encoders)
        for one, other in zip(exact, rounded, strict=True):
            assert np.array_equal(one.density, other.density)
            error += np.square(one.feature - other.feature).sum()
            size += np.square(one.feature).sum()
        truth = within(ground_truth_in(frame, frame.ego), *cards[0].grid.area)
        for maps, score in zip((exact, rounded), scores, strict=True):
            score.add(detector.detect(maps, [each.pose for each in agents]).boxes, truth)
    assert 0 < error < 0.06**2 * size
    exact_score, rounded_score = (score.compute()[0.7] for score in scores)
    assert exact_score > 0.5
    assert abs(rounded_score - exact_score) < 0.03


def test_weights_have_seven_bits(folder: Path) -> None:
    """A CPU without VNNI adds products of two pairs in 16 bits, so that it would compute another map."""
    graph = onnx.load(folder / ENCODER).graph
    weights = [
        onnx.numpy_helper.to_array(each)
        for each in graph.initializer
        if each.name.endswith('weight_quantized')
    ]
    assert len(weights) == 10
    assert all(weight.dtype == np.int8 and np.abs(weight).max() <= 64 for weight in weights)


def test_the_card_tells_it_from_its_origin(folder: Path, shipped_model: Path) -> None:
    """Layers of codes are exchanged with the original, whole maps are not."""
    card, original = ModelCard.load(folder), ModelCard.load(shipped_model)
    assert card.model_id != original.model_id
    assert card.link_id == original.link_id
    assert card.training['quantised']['from'] == original.model_id
    assert card.results == {'before_quantisation': original.results}
    assert '8-bit' in card.description
    assert {k: v for k, v in card.files.items() if k != ENCODER} == {
        k: v for k, v in original.files.items() if k != ENCODER
    }


@pytest.mark.parametrize(
    ('out', 'message'), [('again', 'is quantised already'), ('model', 'is the model itself')]
)
def test_what_cannot_be_quantised_is_named(folder: Path, out: str, message: str) -> None:
    before = (folder / CARD).read_text()
    outcome = CliRunner().invoke(app, ['quantise', '--model', str(folder), '--out', str(folder.parent / out)])
    assert outcome.exit_code == 1
    assert message in outcome.output.replace('\n', ' ')
    assert (folder / CARD).read_text() == before
    assert not (folder.parent / 'again').exists()


def test_a_model_without_its_recipe_is_refused(shipped_model: Path, tmp_path: Path) -> None:
    for each in shipped_model.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    card = yaml.safe_load((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(yaml.safe_dump({**card, 'training': {}}))
    outcome = CliRunner().invoke(app, ['quantise', '--model', str(tmp_path), '--out', str(tmp_path / 'out')])
    assert outcome.exit_code == 1
    assert 'the card of sim_edge has no recipe' in outcome.output
