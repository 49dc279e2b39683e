# SPDX-License-Identifier: Apache-2.0
"""Scoring of recorded detections: correct ones, missing ones, and those of another recording."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffkd_ros.bags.convert import write_bag
from diffkd_ros.bags.writer import BagWriter
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.recorded import score_answers
from diffkd_ros.evaluation.run import Plan, make_jobs, settle
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.messages.building import boxes_message, header_message, make_from
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.simulator import LidarConfig, Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('recorded') / 'bag'
    config = SimulatorConfig(agents=2, frames_per_scenario=3, lidar=LidarConfig(columns=256))
    write_bag(map(Simulator(config, seed=8).scenario(0).frame, range(3)), path)
    return path


@pytest.fixture
def plan(bag, model_folder, tmp_path):
    plan = Plan(tmp_path / 'out', Source(f'bag:{bag}', None, None), model_folder, 'sim', answers=(tmp_path,))
    settle(plan)
    return plan


def answered(path, frames, delay=0):
    """A bag in which the ego has detected exactly the truth, with descending scores."""
    with BagWriter(path) as writer:
        make = make_from(writer.types.types)
        for frame in frames:
            truth = ground_truth_in(frame, frame.ego)
            scored = type(truth)(truth.boxes, scores=np.linspace(0.9, 0.5, len(truth)).astype(np.float32))
            header = header_message(frame.stamp + delay, 'cav_1/lidar', make)
            message = boxes_message(header, scored, ['vehicle'], make)
            kind = message.__msgtype__
            writer.write('/cav_1/detections', kind, frame.stamp, writer.types.serialize_cdr(message, kind))
    return path


def test_answered_frames_are_scored_and_others_are_listed(bag, plan, tmp_path):
    frames = list(RosbagDataset(bag))
    score_answers(plan, [answered(tmp_path / 'answers', [frames[0], frames[2]])])
    clean = Condition(CLEAN)
    results = plan.kept(clean, 'bag_000')
    assert results.index.tolist() == [0, 2]
    assert results.counted_truths > 0
    assert results.average_precision(0.7) == 1.0
    reasons = json.loads(plan.left_out(clean, 'bag_000').read_text())
    assert reasons == {'clean/bag_000/1': 'no recorded detections at its stamp'}
    # Nothing of it is run again.
    assert make_jobs(plan, [clean], ['bag_000']) == []


def test_detections_of_another_recording_are_refused(bag, plan, tmp_path):
    other = answered(tmp_path / 'answers', RosbagDataset(bag), delay=7)
    with pytest.raises(EvaluationError, match='no detections with the stamps of bag:'):
        score_answers(plan, [other])
