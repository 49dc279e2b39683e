# SPDX-License-Identifier: Apache-2.0
"""Cooperation by layered messages with a model that remembers, small and untrained."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnxscript', reason='the model is exported here')

from rich.console import Console
from small_recipe import SIMULATOR

from diffkd_ros.corruptions import LinkConditions
from diffkd_ros.evaluation import run
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.evaluate import evaluate
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import HISTORY, Perceiver
from diffkd_ros.frame import Boxes3D
from diffkd_ros.metrics.calibration import MIN_SCORE
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.memory import MOST_SWEEPS, MapMemory, Moment
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.source import Source

LOST = Condition('message_loss', 3, 0, 'neighbours')


@pytest.fixture(scope='module')
def layered(remembering_model: Path) -> LayeredCooperation:
    return LayeredCooperation(Model(remembering_model))


@pytest.fixture(scope='module')
def clean() -> list[CleanFrame]:
    drive = Simulator(SimulatorConfig(**{**SIMULATOR, 'agents': 3}), 3).scenario(0)
    return [CleanFrame(drive.frame(k)) for k in range(HISTORY + MOST_SWEEPS + 1)]


def perceived(cooperation, condition: Condition, frames: list[CleanFrame]) -> list[Boxes3D]:
    perceiver = Perceiver(cooperation, condition)
    return [perceiver.perceive(frame, perceiver.take(frame)).detection.boxes for frame in frames]


def same(one: Boxes3D, other: Boxes3D) -> bool:
    return np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)


def test_a_drive_is_detected_in_with_what_the_sweeps_before_left(layered, clean):
    """As the ego node does: computed here from the messages, sweep by sweep."""
    model, memory = layered.model, MapMemory()
    unpacker = Unpacker(model.receiver.tables)
    found = perceived(layered, Condition(CLEAN), clean)
    for frame, boxes in zip((each.frame for each in clean), found, strict=True):
        messages = [
            layered.message(CleanFrame(frame), agent, frame.agents[agent], LinkConditions(message_bytes=4000))
            for agent in frame.neighbours
        ]
        agents = [frame.ego, *frame.neighbours]
        expected = detect_layered(
            model.card,
            model.receiver,
            model.detect,
            model.encode(frame.agents[frame.ego].points).feature,
            [unpacker.unpack(message.chunks) for message in messages],
            [frame.agents[agent].pose for agent in agents],
            Moment(memory, agents, [frame.stamp] * len(agents)),
        )
        assert len(boxes) > 3
        assert same(boxes, expected.boxes)


@pytest.mark.parametrize(
    ('condition', 'history'),
    [(Condition(CLEAN), MOST_SWEEPS), (Condition(EGO_ALONE), MOST_SWEEPS), (LOST, HISTORY + MOST_SWEEPS)],
    ids=lambda value: getattr(value, 'name', ''),
)
def test_frames_before_a_scored_one_count_without_being_detected_in(layered, clean, condition, history):
    perceiver = Perceiver(layered, condition)
    assert perceiver.history == history
    for frame in clean[:-1]:
        perceiver.remember(frame, perceiver.take(frame))
    boxes = perceiver.perceive(clean[-1], perceiver.take(clean[-1])).detection.boxes
    assert same(boxes, perceived(layered, condition, clean)[-1])
    # Every scenario begins with nothing, whatever other conditions knew.
    assert not same(boxes, perceived(layered, condition, clean[-1:])[0])


def test_a_sweep_without_points_leaves_the_one_before_it_remembered(layered, clean):
    """As in the ego node, which refuses such a sweep."""
    first, second, last = clean[:3]
    frame, ego = second.frame, second.frame.ego
    sweep = replace(frame.agents[ego], points=np.zeros((0, 4), np.float32), ring=None, time=None)
    empty = CleanFrame(replace(frame, agents={**frame.agents, ego: sweep}))
    found, refused, forgotten = (
        perceived(layered, Condition(EGO_ALONE), frames)[-1]
        for frames in ([first, empty, last], [first, last], [last])
    )
    assert same(found, refused)
    assert not same(found, forgotten)


def test_frames_too_far_apart_are_detected_in_without_a_memory(layered, clean):
    first, last = clean[0], clean[-1]
    apart = CleanFrame(replace(last.frame, stamp=first.frame.stamp + 10**9))
    both = perceived(layered, Condition(CLEAN), [first, apart])
    assert same(both[1], perceived(layered, Condition(CLEAN), [apart])[0])


def test_an_evaluation_runs_the_frames_before_each_scored_one(remembering_model, tmp_path):
    """Four are remembered, of a message that may be five frames old."""
    source = Source('sim:5', 1, 2, simulator={**SIMULATOR, 'frames_per_scenario': 20})
    plan = run.Plan(tmp_path / 'run', source, remembering_model, 'sim', LayeredCooperation.name)
    text = io.StringIO()
    conditions = [Condition(CLEAN), Condition(EGO_ALONE), LOST]
    evaluate(plan, conditions, Console(file=text, width=200), draw=False)
    assert 'up to 9 frames before each scored one are run, too; 1 of 2 have fewer' in text.getvalue()
    drive = source.scenario(0)
    assert plan.positions(drive) == [5, 19]
    cooperation = LayeredCooperation(Model(remembering_model, MIN_SCORE))
    for condition, positions in (
        (Condition(CLEAN), [*range(1, 6), *range(15, 20)]),
        (LOST, [*range(6), *range(10, 20)]),
    ):
        frames = [CleanFrame(drive.frame(position)) for position in positions]
        expected = perceived(cooperation, condition, frames)[-1]
        found = run.load_results(plan, [condition], source.names())[condition].detections
        scores = found.score[found.frame == 1]
        assert set(scores.tolist()) <= set(expected.scores.tolist())
        assert len(scores) > 3
