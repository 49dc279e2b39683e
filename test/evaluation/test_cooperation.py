# SPDX-License-Identifier: Apache-2.0
"""Each way to cooperate: messages, their size, and the detections of the ego."""

from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition, make_conditions
from diffkd_ros.evaluation.cooperation import EarlyCooperation, LateCooperation, NoCooperation
from diffkd_ros.evaluation.cooperations import COOPERATIONS, cooperation_named
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.evaluation.pipeline import Perceiver
from diffkd_ros.geometry.boxes import points_in_boxes, transform_boxes
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelError
from diffkd_ros.runtime.link.boxes import boxes_from_bytes, boxes_to_bytes
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig


def perceive(cooperation, condition, *frames):
    perceiver = Perceiver(cooperation, condition)
    for frame in frames:
        clean = CleanFrame(frame)
        perception = perceiver.perceive(clean, perceiver.take(clean))
    return perception


def found_alone(model, points):
    return model.detect([model.encode(points).feature], [np.eye(4)]).boxes


def rows(boxes):
    return {(*box.round(6), float(score)) for box, score in zip(boxes.boxes, boxes.scores, strict=True)}


@pytest.fixture(scope='module')
def late(model):
    return LateCooperation(model)


@pytest.fixture(scope='module')
def early(model):
    return EarlyCooperation(model)


def test_late_merges_what_each_finds_alone(model, late, drive):
    frame = drive.frame(20)
    own, theirs = (found_alone(model, frame.agents[agent].points) for agent in (1, 2))
    # As they travel, 12 bytes each.
    theirs = boxes_from_bytes(boxes_to_bytes(theirs))
    ego_from_neighbour = inverse(frame.agents[1].pose) @ frame.agents[2].pose
    moved = theirs.with_boxes(transform_boxes(ego_from_neighbour, theirs.boxes))
    perception = perceive(late, Condition(CLEAN), frame)
    merged = perception.detection.boxes
    assert rows(merged) <= rows(own) | rows(moved)
    assert rows(merged) - rows(own)
    assert rows(merged) - rows(moved)
    overlap = bev_iou(merged.boxes, merged.boxes) - np.eye(len(merged))
    assert overlap.max() <= model.card.nms_iou
    # What was merged away overlaps something of a higher score that stayed.
    for box, score in zip(own.boxes, own.scores, strict=True):
        assert bev_iou(box[None], merged.boxes[merged.scores >= score]).max() > model.card.nms_iou - 1e-9
    assert perception.inference.sent_bytes.tolist() == [
        12 * int((theirs.scores >= model.card.min_score).sum())
    ]
    assert set(perception.observed.agents) == {1, 2}


def test_late_drops_boxes_around_the_ego(model, late, drive):
    """The neighbour detects the ego, which drops that box."""
    frame = drive.frame(20)
    theirs = found_alone(model, frame.agents[2].points)
    body = np.array([[0.0, 0.0, -1.0]])  # a metre below the LiDAR
    seen_from_there = transform_points(inverse(frame.agents[2].pose) @ frame.agents[1].pose, body)
    assert points_in_boxes(seen_from_there, theirs.boxes[theirs.scores > 0.3])[0] >= 0
    merged = perceive(late, Condition(CLEAN), frame).detection.boxes
    assert points_in_boxes(body, merged.boxes[merged.scores > 0.3])[0] == -1


def test_a_vote_keeps_what_the_ego_finds_and_what_two_others_sent(model, late):
    drive = Simulator(SimulatorConfig(agents=4), 3).scenario(0)
    frame, sure = drive.frame(20), 0.3
    own, *theirs = (found_alone(model, frame.agents[agent].points) for agent in (1, 2, 3, 4))
    back = inverse(frame.agents[1].pose)
    sent = [
        transform_boxes(back @ frame.agents[agent].pose, each.boxes)
        for agent, each in zip((2, 3, 4), theirs, strict=True)
    ]
    everything = perceive(late, Condition(CLEAN), frame).detection.boxes
    kept = rows(perceive(cooperation_named('voted')(model), Condition(CLEAN), frame).detection.boxes)
    votes = sum((bev_iou(everything.boxes, each) >= sure).any(axis=1).astype(int) for each in sent)
    found = (bev_iou(everything.boxes, own.boxes) >= sure).any(axis=1)
    assert kept == rows(everything[found | (votes >= 2)])
    assert 0 < int((~found & (votes == 1)).sum()) < len(everything)


def test_early_detects_in_all_points_together(model, early, drive):
    frame = drive.frame(20)
    neighbour = frame.agents[2]
    # As they travel: centimetres, and intensity in 16 bits.
    arriving = neighbour.points.copy()
    arriving[:, :3] = np.round(arriving[:, :3] * 100) / 100
    arriving[:, 3] = np.round(arriving[:, 3] * 65535) / 65535
    moved = transform_points(inverse(frame.agents[1].pose) @ neighbour.pose, arriving)
    by_hand = found_alone(model, np.concatenate([frame.agents[1].points, moved]))
    perception = perceive(early, Condition(CLEAN), frame)
    np.testing.assert_allclose(perception.detection.boxes.boxes, by_hand.boxes, atol=1e-4)
    assert perception.inference.sent_bytes.tolist() == [8 * len(neighbour.points)]


def test_early_points_keep_to_the_bandwidth(early, drive):
    frame = drive.frame(20)
    capped = perceive(early, Condition('bandwidth', 3, who='neighbours'), frame)
    # 2 Mbit/s for 0.1 s are 25 000 bytes, that is 3125 points.
    assert capped.inference.sent_bytes.tolist() == [25_000]
    assert 8 * len(frame.agents[2].points) > 25_000


@pytest.mark.parametrize('name', ['late', 'early'])
def test_late_messages_are_used_at_the_pose_where_they_were_sensed(model, drive, name):
    frames = [drive.frame(k) for k in range(7)]
    cooperation = cooperation_named(name)(model)
    delayed = perceive(cooperation, Condition('delay', 2, who='neighbours'), *frames).detection.boxes

    def fresh(age):
        then = frames[6 - age].agents[2]
        return perceive(
            cooperation, Condition(CLEAN), replace(frames[6], agents={1: frames[6].agents[1], 2: then})
        ).detection.boxes

    # 200 ms with a standard deviation of 40 ms: two or three frames, seldom one or four.
    assert sum(rows(fresh(age)) == rows(delayed) for age in range(1, 5)) == 1


def test_without_cooperation_only_the_egos_corruption_matters(model, drive):
    frame, alone = drive.frame(20), NoCooperation(model)
    clean = perceive(alone, Condition(CLEAN), frame)
    for condition in (
        Condition(EGO_ALONE),
        Condition('fog', 3, who='neighbours'),
        Condition('pose_gaussian', 4, who='neighbours'),
        Condition('message_loss', 3, who='neighbours'),
        Condition('tile_loss', 3, who='neighbours'),
    ):
        assert rows(perceive(alone, condition, frame).detection.boxes) == rows(clean.detection.boxes)
    assert rows(perceive(alone, Condition('fog', 3, who='ego'), frame).detection.boxes) != rows(
        clean.detection.boxes
    )
    assert clean.inference.messages.tolist() == [0]
    assert set(clean.observed.agents) == {1}


def test_an_ego_without_neighbours_detects_the_same_in_every_way(model, drive):
    frame = drive.frame(20)
    # The shipped model has no layered message.
    kinds = [kind for name, kind in COOPERATIONS.items() if name != 'layered']
    boxes = [perceive(kind(model), Condition(EGO_ALONE), frame).detection.boxes for kind in kinds]
    for other in boxes[1:]:
        np.testing.assert_allclose(other.boxes, boxes[0].boxes, atol=1e-4)
        np.testing.assert_allclose(other.scores, boxes[0].scores, atol=1e-5)


def test_size_of_features_is_that_of_the_codec(model, intermediate, drive):
    frame = drive.frame(20)
    perception = perceive(intermediate, Condition(CLEAN), frame)
    payload = codec.encode(model.encode(frame.agents[2].points).feature)
    inference = perception.inference
    assert (inference.messages.tolist(), inference.sent_bytes.tolist()) == ([1], [len(payload.data)])
    np.testing.assert_allclose(
        [inference.gate_ego[0], inference.gate_neighbours[0]], perception.detection.gate_weights
    )
    assert inference.reliability[0] == pytest.approx(perception.detection.reliability)
    assert inference.encode_ms[0] > 0
    assert inference.fuse_ms[0] > 0
    capped = perceive(intermediate, Condition('bandwidth', 3, who='neighbours'), frame).inference
    coarse = perceive(intermediate, Condition('quantisation', 3, who='neighbours'), frame).inference
    assert capped.sent_bytes[0] <= 25_000 < len(payload.data)
    assert coarse.sent_bytes[0] < len(payload.data)


def test_lost_messages_were_sent(intermediate, drive):
    frames = [drive.frame(k) for k in range(3)]
    condition = Condition('message_loss', 3, who='neighbours')
    perceptions = [perceive(intermediate, condition, frame) for frame in frames]
    assert all(perception.inference.messages.tolist() == [1] for perception in perceptions)
    # A link of its own for each frame, of which the first message meets the same fate.
    assert len({perception.fused for perception in perceptions}) == 1


def test_conditions_of_a_kind_of_message_do_not_apply_to_others():
    every = make_conditions('link')
    names = {condition.corruption for condition in every}
    of_maps, of_chunks = {'tile_loss', 'quantisation'}, {'chunk_loss', 'chunk_burst'}
    left_out = {
        name: names - {condition.corruption for condition in every if kind.meets(condition)}
        for name, kind in COOPERATIONS.items()
    }
    assert left_out == {
        'intermediate': of_chunks,
        'layered': of_maps,
        'late': of_maps | of_chunks,
        'voted': of_maps | of_chunks,
        'early': of_maps | of_chunks,
        'none': set(),
    }


@pytest.mark.parametrize('name', ['intermediate', 'late', 'early'])
def test_a_budget_limits_messages_under_every_condition(model, drive, name):
    frame, cooperation = drive.frame(20), cooperation_named(name)(model)
    clean = CleanFrame(frame)
    for condition in (Condition(CLEAN), Condition('fog', 2), Condition('bandwidth', 1, who='neighbours')):
        sizes = []
        for budget in (100, 3000):
            perceiver = Perceiver(cooperation, condition, budget)
            perception = perceiver.perceive(clean, perceiver.take(clean))
            sizes += perception.inference.sent_bytes.tolist()
        assert 0 < sizes[0] <= 100 < sizes[1] <= 3000 or (name == 'late' and sizes[0] <= 100)


def test_a_model_without_a_layered_message_is_refused_at_once(model):
    with pytest.raises(ModelError, match='no layered message'):
        cooperation_named('layered')(model)


def test_an_unknown_cooperation_is_refused():
    with pytest.raises(EvaluationError, match="'intermediate'"):
        cooperation_named('intermediat')
