# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import pytest

from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.evaluation.pipeline import Perceiver
from diffkd_ros.runtime import codec


def perceive(cooperation, condition, *frames):
    perceiver = Perceiver(cooperation, condition)
    for frame in frames:
        clean = CleanFrame(frame)
        sensed = perceiver.take(clean)
        perception = perceiver.perceive(clean, sensed)
    return perception


def detected_by_hand(model, now, then):
    """Boxes from the ego's sweep of one frame and the neighbour's of another."""
    own = model.encode(now.agents[1].points).feature
    payload = codec.encode(model.encode(then.agents[2].points).feature)
    grid = model.card.grid
    shared = codec.decode(payload, model.card.channels, grid.height, grid.width)
    return model.detect([own, shared], [now.agents[1].pose, then.agents[2].pose]).boxes


def test_clean_frames_are_encoded_sent_and_fused(model, intermediate, drive):
    frame = drive.frame(20)
    perception = perceive(intermediate, Condition(CLEAN), frame)
    by_hand = detected_by_hand(model, frame, frame)
    assert perception.fused == (1, 2)
    assert len(by_hand) > 5
    np.testing.assert_array_equal(perception.detection.boxes.boxes, by_hand.boxes)
    np.testing.assert_array_equal(perception.detection.boxes.scores, by_hand.scores)


def test_ego_alone_does_not_depend_on_neighbours(intermediate, drive):
    frame = drive.frame(20)
    lonely = replace(frame, agents={1: frame.agents[1]})
    perception = perceive(intermediate, Condition(EGO_ALONE), frame)
    assert set(perception.observed.agents) == {1}
    np.testing.assert_array_equal(
        perception.detection.boxes.boxes,
        perceive(intermediate, Condition(CLEAN), lonely).detection.boxes.boxes,
    )


def test_delayed_feature_is_fused_at_the_pose_where_it_was_sensed(model, intermediate, drive):
    frames = [drive.frame(k) for k in range(7)]
    condition = Condition('delay', 2, who='neighbours')
    assert perceive(intermediate, condition, frames[0]).fused == (1,)
    late = perceive(intermediate, condition, *frames)
    assert late.fused == (1, 2)
    # 200 ms with a standard deviation of 40 ms: two or three frames, seldom one or four.
    same = [
        age
        for age in range(1, 5)
        if np.array_equal(
            late.detection.boxes.boxes, detected_by_hand(model, frames[6], frames[6 - age]).boxes
        )
    ]
    assert len(same) == 1


def test_old_messages_are_not_fused(intermediate, drive):
    frames = [drive.frame(k) for k in (0, 30)]
    perceiver = Perceiver(intermediate, Condition('delay', 3, who='neighbours'))
    for frame in frames:
        clean = CleanFrame(frame)
        perception = perceiver.perceive(clean, perceiver.take(clean))
    # What was sent at first has arrived, but is three seconds old.
    assert perception.fused == (1,)


def test_agents_that_are_not_corrupted_keep_their_features(intermediate, drive):
    clean = CleanFrame(drive.frame(20))
    perceiver = Perceiver(intermediate, Condition('beam_missing', 3, who='ego'))
    sensed = perceiver.take(clean)
    assert len(sensed.agents[1].points) < 0.4 * len(clean.frame.agents[1].points)
    encode = intermediate.model.encode
    assert clean.of_points(2, sensed.agents[2], encode) is clean.of_points(2, clean.frame.agents[2], encode)
    assert clean.of_points(1, sensed.agents[1], encode) is not clean.of_points(
        1, clean.frame.agents[1], encode
    )


def test_an_ego_without_points_still_fuses(intermediate, drive):
    frame = drive.frame(20)
    blind = replace(frame.agents[1], points=np.zeros((0, 4), np.float32), ring=None, time=None)
    perception = perceive(intermediate, Condition(CLEAN), replace(frame, agents={**frame.agents, 1: blind}))
    assert perception.fused == (1, 2)


@pytest.mark.parametrize('corruption', ['quantisation', 'tile_loss', 'bandwidth'])
def test_link_corruptions_change_the_detections(model, intermediate, drive, corruption):
    frame = drive.frame(20)
    boxes = perceive(intermediate, Condition(corruption, 3, who='neighbours'), frame).detection.boxes.boxes
    by_hand = detected_by_hand(model, frame, frame).boxes
    assert boxes.shape != by_hand.shape or not np.allclose(boxes, by_hand)
