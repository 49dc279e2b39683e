# SPDX-License-Identifier: Apache-2.0
"""Cooperation by layered messages, on a small untrained model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnxscript', reason='the model is exported here')

import torch
from layered_map import without_boxes
from linked_student import linked_student
from small_recipe import SIMULATOR

from diffkd_ros.corruptions import Link, LinkConditions
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.cooperation import LateCooperation
from diffkd_ros.evaluation.layered import ENVELOPE, LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver, Perception
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.grid import grid_warps
from diffkd_ros.geometry.poses import transform_points
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.training.link import Sending

UNLIMITED = 10**6


@pytest.fixture(scope='module')
def student():
    return linked_student()


@pytest.fixture(scope='module')
def layered(linked_model: Path) -> LayeredCooperation:
    return LayeredCooperation(Model(linked_model))


@pytest.fixture(scope='module')
def frames() -> list[CoopFrame]:
    drive = Simulator(SimulatorConfig(**{**SIMULATOR, 'agents': 3}), 3).scenario(0)
    return [drive.frame(k) for k in range(4)]


def perceive(
    cooperation, frame: CoopFrame, condition: Condition | None = None, budget: int | None = None
) -> Perception:
    perceiver, clean = Perceiver(cooperation, condition or Condition(CLEAN), budget), CleanFrame(frame)
    return perceiver.perceive(clean, perceiver.take(clean))


def message_of(cooperation, frame: CoopFrame, budget: int | None = None):
    agent = frame.neighbours[0]
    limits = LinkConditions(message_bytes=budget)
    return cooperation.message(CleanFrame(frame), agent, frame.agents[agent], limits)


def test_a_fast_link_is_not_used_beyond_the_default_budget(layered, frames):
    """Clean frames and those of a bandwidth are then comparable."""
    clean = perceive(layered, frames[0]).inference.sent_bytes
    fast = perceive(layered, frames[0], Condition('bandwidth', 1)).inference.sent_bytes
    assert clean == fast <= layered.budget * len(frames[0].neighbours)


@pytest.mark.parametrize('budget', [150, 260, 1000, 2500, None])
def test_messages_keep_to_the_budget_with_their_envelopes(layered, frames, budget):
    message = message_of(layered, frames[0], budget)
    limit = budget or 4000
    if budget == 150:
        assert message is None
        return
    assert message.size == sum(len(chunk) + ENVELOPE for chunk in message.chunks) <= limit
    complete = message_of(layered, frames[0], UNLIMITED).size
    assert message.size > 0.9 * min(limit, complete) - ENVELOPE


def test_every_neighbours_message_counts(layered, frames):
    inference = perceive(layered, frames[0], budget=600).inference
    assert inference.messages.tolist() == [2]
    assert 600 < inference.sent_bytes[0] <= 1200


def test_without_bytes_the_ego_detects_alone(layered, frames):
    alone = perceive(layered, frames[0], Condition(EGO_ALONE))
    none = perceive(layered, frames[0], budget=0)
    np.testing.assert_array_equal(none.detection.boxes.boxes, alone.detection.boxes.boxes)
    np.testing.assert_array_equal(none.detection.boxes.scores, alone.detection.boxes.scores)
    assert (none.fused, none.inference.sent_bytes.tolist()) == ((1,), [0])


def test_complete_messages_are_detected_in_as_torch_does_in_the_coded_maps(layered, frames, student):
    frame, card = frames[0], layered.model.card
    agents = [frame.ego, *frame.neighbours]
    clouds = [frame.agents[agent].points for agent in agents]
    clouds = [torch.from_numpy(cloud[card.grid.contains(cloud)]) for cloud in clouds]
    index = torch.cat([torch.full((len(cloud),), k) for k, cloud in enumerate(clouds)])
    warps = grid_warps([frame.agents[agent].pose for agent in agents], card.grid)
    with torch.no_grad():
        sent = Sending(student)(torch.cat(clouds), index, len(agents))
        scale = student.restoration
        occupied = (sent.coded.codes.fine[:, :1] > 0).float()
        coded = (sent.coded.fine.sum(dim=1) * scale.deviation + scale.mean) * occupied
        maps = torch.cat((sent.features[:1], coded[1:]))
        density = torch.cat((sent.density[:1], occupied[1:]))
        fusion = student.fuse(maps, maps, density, torch.from_numpy(warps))
        heatmap, regression = student.head(fusion.fused)
    observed = observed_cells(density[:, 0].numpy(), warps, card.grid)
    expected = decode_boxes(heatmap[0, 0].numpy(), regression[0].numpy(), observed, card.grid, card.decoding)
    assert len(expected) > 3
    boxes = perceive(layered, frame, budget=UNLIMITED).detection.boxes
    # Boxes reach beyond the sender's grid, where nothing replaces them.
    inside = np.isin(boxes.scores.round(5), expected.scores.round(5))
    np.testing.assert_allclose(boxes.boxes[inside], expected.boxes, atol=1e-3)


def test_late_fusion_sends_the_boxes_of_the_base_layer_for_the_same_bytes(layered, linked_model, frames):
    """Not those of the ego's detector, from which the untrained sender's differs."""
    late = LateCooperation(Model(linked_model))
    frame, agent = frames[0], frames[0].neighbours[0]
    sweep = frame.agents[agent]
    complete = message_of(layered, frame, UNLIMITED)
    base_layer = Unpacker(layered.model.receiver.tables).unpack(complete.chunks)
    expected = base_layer.boxes
    assert len(expected) > 3
    message = late.message(CleanFrame(frame), agent, sweep, LinkConditions())
    np.testing.assert_array_equal(message.content.boxes, expected.boxes)
    np.testing.assert_array_equal(message.content.scores, expected.scores)
    assert message.size == 12 * len(expected)
    first = Unpacker(layered.model.receiver.tables).unpack(complete.chunks[:1])
    others = len(expected) - len(first.boxes)
    assert (first.bytes_of['boxes'], others) == (2 + message.size - 12 * others, max(len(expected) - 95, 0))
    three = late.message(CleanFrame(frame), agent, sweep, LinkConditions(message_bytes=47))
    np.testing.assert_array_equal(three.content.boxes, expected.boxes[:3])
    # Rounded only in coding.
    outgoing = layered.model.prepare(sweep.points)
    np.testing.assert_allclose(message.content.boxes, outgoing.boxes.boxes, atol=0.06)
    nothing = replace(sweep, points=sweep.points + np.float32([1000, 0, 0, 0]))
    assert late.message(CleanFrame(frame), agent, nothing, LinkConditions()) is None


def test_what_is_sent_for_calibration_only_is_not_sent_in_layers(linked_model, frames):
    """An evaluation detects down to low scores; a vehicle sends what the card's threshold passes."""
    low = LayeredCooperation(Model(linked_model, min_score=0.05))
    codes = low.model.sender.prepare(low.model.encode(frames[0].agents[2].points).feature)
    assert codes.boxes.scores.min() >= low.model.card.min_score


def test_received_boxes_are_found_at_their_places(linked_model, frames):
    """With a threshold that nothing in the fused map passes; what vehicles send keeps the card's."""
    frame, quiet = frames[0], LayeredCooperation(Model(linked_model, min_score=0.999))
    sent = []
    for agent in frame.neighbours:
        sweep = frame.agents[agent]
        boxes = quiet.model.sender.prepare(quiet.model.encode(sweep.points).feature).boxes
        ego_from_agent = np.linalg.inv(frame.agents[frame.ego].pose) @ sweep.pose
        sent += list(transform_points(ego_from_agent, boxes.boxes[:, :3]))
    assert len(perceive(quiet, frame, Condition(EGO_ALONE)).detection.boxes) == 0
    found = perceive(quiet, frame, budget=700).detection.boxes.boxes
    assert len(found) > 5
    # Centres travel in centimetres.
    distances = np.linalg.norm(found[:, None, :3] - np.array(sent), axis=2).min(axis=1)
    assert distances.max() < 0.01


@pytest.mark.parametrize('name', ['chunk_loss', 'chunk_burst'])
def test_lost_chunks_were_sent_and_are_lost_alike_for_a_seed(layered, frames, name):
    def run(condition: Condition) -> list[Perception]:
        perceiver, found = Perceiver(layered, condition), []
        for frame in frames:
            clean = CleanFrame(frame)
            found.append(perceiver.perceive(clean, perceiver.take(clean)))
        return found

    def scores(found: list[Perception]) -> list[float]:
        return [score for each in found for score in each.detection.boxes.scores.tolist()]

    lossless = run(Condition(CLEAN))
    some, again, other = (run(Condition(name, 3, seed, 'neighbours')) for seed in (0, 0, 1))
    assert scores(some) == scores(again)
    assert len({tuple(scores(found)) for found in (lossless, some, other)}) == 3
    for perception, whole in zip(some, lossless, strict=True):
        np.testing.assert_array_equal(perception.inference.sent_bytes, whole.inference.sent_bytes)
    most = run(Condition(name, 5, 0, 'neighbours'))
    assert sum(len(each.fused) for each in most) < sum(len(each.fused) for each in lossless)


def test_what_is_followed_does_not_depend_on_other_conditions(shipped_model):
    """A frame whose messages all arrived is detected in once for all conditions."""
    drive = Simulator(SimulatorConfig(agents=3, frames_per_scenario=9), 3).scenario(0)
    layered, lost = LayeredCooperation(Model(shipped_model)), Condition('message_loss', 2, who='neighbours')

    def boxes(*others: Condition) -> Iterator[np.ndarray]:
        perceivers = [Perceiver(layered, condition) for condition in (*others, lost)]
        for frame in map(CleanFrame, map(drive.frame, range(9))):
            found = [each.perceive(frame, each.take(frame)) for each in perceivers][-1]
            yield found.detection.boxes.boxes

    for alone, beside in zip(boxes(), boxes(Condition(CLEAN)), strict=True):
        np.testing.assert_array_equal(alone, beside)


def test_a_sweep_with_boxes_is_used_rather_than_a_newer_one_without(layered, frames):
    """As in the nodes."""
    agent, stamp = frames[0].neighbours[0], frames[0].stamp
    complete = message_of(layered, frames[0])
    assert len(complete.chunks) > 1
    assert layered.has_base(replace(complete, chunks=complete.chunks[1:2]))
    tables = layered.model.receiver.tables
    headless = replace(complete, chunks=[without_boxes(chunk, tables) for chunk in complete.chunks[1:]])
    link = Link(LinkConditions(), 0, 'drive', agent, prefer=layered.has_base)
    link.send(stamp, headless)
    assert link.newest(stamp) is not None
    assert link.newest(stamp, preferred=True) is None
    link.send(stamp + 1, complete)
    link.send(stamp + 2, headless)
    assert link.newest(stamp + 2).stamp == stamp + 2
    assert link.newest(stamp + 2, preferred=True).payload is complete
