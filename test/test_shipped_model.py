# SPDX-License-Identifier: Apache-2.0
"""The shipped model reaches the scores of its card on frames that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest

from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.metrics.average_precision import AveragePrecision
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.share import share_directory
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.recipe import Recipe, load_recipe

HELD_OUT_SEED = 77


@pytest.fixture(scope='module')
def card(shipped_model: Path) -> ModelCard:
    return ModelCard.load(shipped_model)


def test_cooperation_finds_what_the_ego_alone_cannot(card: ModelCard) -> None:
    encoder, detector = FeatureEncoder(card), CooperativeDetector(card)
    grid = card.grid
    together, alone = AveragePrecision((0.5,)), AveragePrecision((0.5,))
    payloads = []
    simulator = Simulator(SimulatorConfig(), HELD_OUT_SEED)
    for frame in (scenario.frame(k) for scenario in map(simulator.scenario, range(8)) for k in (10, 60)):
        agents = [frame.ego, *frame.neighbours]
        sent = [codec.encode(encoder.encode(frame.agents[agent].points)) for agent in agents]
        features = [codec.decode(s, card.channels, grid.height, grid.width) for s in sent]
        poses = [frame.agents[agent].pose for agent in agents]
        truth = within(ground_truth_in(frame, frame.ego), *grid.area)
        together.add(detector.detect(features, poses).boxes, truth)
        alone.add(detector.detect(features[:1], poses[:1]).boxes, truth)
        payloads += [len(s.data) for s in sent]
    # Half of the card's gain: 16 frames vary, but a broken model fails.
    assert together.compute()[0.5] > 0.5 * card.results['cooperative']['ap50'] + 0.1
    assert together.compute()[0.5] > alone.compute()[0.5] + 0.05
    assert np.max(payloads) < 400_000


def test_the_card_says_where_the_model_comes_from(card: ModelCard) -> None:
    assert card.training['data'] == "sim; sim is this package's simulator"
    assert card.training['seeds']['train_scenarios'] != card.training['seeds']['validation_scenarios']
    recipe = load_recipe(share_directory() / 'config' / 'train' / 'sim_edge.yaml')
    # Where its first checkpoint was is of no interest.
    own = card.training['recipe'] | {'description': card.description, 'initial': None}
    assert Recipe.model_validate(own) == recipe
    # The teacher was trained in parts.
    after_teacher = [stage for stage in recipe.stages if stage.name != 'teacher']
    teacher, *stages = card.training['stages'][-len(after_teacher) - 1 :]
    assert teacher['name'] == 'teacher'
    assert [(stage['name'], stage['samples']) for stage in stages] == [
        (stage.name, stage.samples) for stage in after_teacher
    ]
    assert all(stage['minutes'] > 0 for stage in card.training['stages'])


def test_features_are_the_same_with_more_threads(card: ModelCard) -> None:
    """Bit for bit, or a replay would not give the recorded detections."""
    frame = Simulator(SimulatorConfig(), HELD_OUT_SEED).scenario(0).frame(0)
    points = frame.agents[frame.ego].points
    expected, several = FeatureEncoder(card).encode(points), FeatureEncoder(card, threads=4)
    for _ in range(40):
        found = several.encode(points)
        np.testing.assert_array_equal(found.feature, expected.feature)
        np.testing.assert_array_equal(found.density, expected.density)
