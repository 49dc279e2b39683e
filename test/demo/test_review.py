# SPDX-License-Identifier: Apache-2.0
"""The offline evaluation of a recorded demo, against detections and matches made step by step."""

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='reading bags needs the data extra')

from diffkd_ros.bags.convert import write_bag
from diffkd_ros.demo.review import review_bag
from diffkd_ros.evaluation.model import Model
from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.metrics.average_precision import AveragePrecision
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

FRAMES = 4


def test_the_ego_alone_is_scored_as_by_hand(tmp_path, model):
    config = SimulatorConfig(agents=2, frames_per_scenario=FRAMES)
    write_bag(map(Simulator(config, seed=8).scenario(0).frame, range(FRAMES)), tmp_path / 'bag')
    done = []
    review = review_bag(tmp_path / 'bag', Model(model), range(0, FRAMES, 2), done.append)

    card = ModelCard.load(model)
    grid, encoder, detector = card.grid, FeatureEncoder(card), CooperativeDetector(card)
    extent = grid.x_min, grid.y_min, grid.x_max, grid.y_max
    by_hand = AveragePrecision()
    for frame in RosbagDataset(tmp_path / 'bag'):
        ego = frame.agents[frame.ego]
        boxes = detector.detect([encoder.encode(ego.points)], [ego.pose]).boxes
        by_hand.add(within(boxes, *extent), within(ground_truth_in(frame, frame.ego), *extent))

    assert review.ego_only == pytest.approx(by_hand.compute())
    assert 0 < review.ego_only[0.5] < 1
    assert (review.frames, review.incomplete, done) == (FRAMES, 0, [1, 2, 3, 4])
    assert [view.title for view in review.views] == ['frame 0', 'frame 2']
    assert review.best in (0, 1)
    for view in review.views:
        assert view.fused == (1, 2)
        assert view.extent == extent
        assert view.note.startswith('drawn: score ≥ 0.3   gate shares: cav_1')
        assert min(view.detections.scores) >= np.float32(0.3)
