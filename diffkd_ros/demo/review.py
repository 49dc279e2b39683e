# SPDX-License-Identifier: Apache-2.0
"""Evaluates a recorded run offline: average precision of the ego alone, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.cooperations import live_cooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver, Perception, score
from diffkd_ros.evaluation.report.panels import SHOWN_SCORE, fusion_view, shown_hits
from diffkd_ros.evaluation.report.view import FusionView
from diffkd_ros.messages.names import agent_name
from diffkd_ros.metrics.frame_results import join
from diffkd_ros.metrics.protocol import Protocol, protocol_named
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.sources.dataset import readable
from diffkd_ros.sources.rosbag import RosbagDataset


@dataclass(frozen=True)
class Review:
    """Results of the offline evaluation.

    Attributes:
        frames: number of frames in the recording.
        incomplete: number of frames without all of their messages, which are left out.
        ego_only: average precision of the ego alone, by IoU threshold.
        views: of the frames to be animated.
        best: index of the view in which cooperation finds most additional vehicles.
    """

    frames: int
    incomplete: int
    ego_only: dict[float, float]
    views: list[FusionView]
    best: int


def demo_protocol(card: ModelCard) -> Protocol:
    """The simulator's protocol on the model's grid, which is where the evaluator node scores too."""
    grid, protocol = card.grid, protocol_named('sim')
    low, high = protocol.evaluation_range[2], protocol.evaluation_range[5]
    return replace(protocol, evaluation_range=(grid.x_min, grid.y_min, low, grid.x_max, grid.y_max, high))


def review_bag(bag: Path, model: Model, animated: range, progress: Callable[[int], None]) -> Review:
    """Run the model on a recording, with the ego alone on every frame, and on some with its neighbours.

    Args:
        bag: recorded by the demo.
        model: that the run used.
        animated: indices of the frames to draw.
        progress: called with the number of frames done.
    """
    cooperation, protocol = live_cooperation(model.card)(model), demo_protocol(model.card)
    ego_alone, together = (Perceiver(cooperation, Condition(name)) for name in (EGO_ALONE, CLEAN))
    source = RosbagDataset(bag)
    frames = filter(None, (readable(source.__getitem__, index) for index in range(len(source))))
    results, views, gains = [], [], []
    for count, frame in enumerate(frames, start=1):
        clean = CleanFrame(frame)
        alone = ego_alone.perceive(clean, frame)
        results.append(score(frame, alone, protocol))
        if count - 1 in animated:
            seen = together.perceive(clean, frame)
            gains.append(shown_hits(score(frame, seen, protocol)) - shown_hits(results[-1]))
            title, boxes = f'frame {frame.index}', alone.detection.boxes
            views.append(fusion_view(frame, seen, boxes, protocol, model.card.grid, title, _note(seen)))
        else:
            together.remember(clean, frame)
        progress(count)
    best = max(range(len(gains)), key=gains.__getitem__, default=0)
    whole = join(results)
    ego_only = {iou: whole.average_precision(iou, protocol.order) for iou in protocol.iou_thresholds}
    return Review(len(results), source.incomplete, ego_only, views, best)


def _note(seen: Perception) -> str:
    weights = zip(seen.fused, seen.detection.gate_weights, strict=True)
    shares = ', '.join(f'{agent_name(agent)} {weight:.0%}' for agent, weight in weights)
    return f'drawn: score ≥ {SHOWN_SCORE}   gate shares: {shares}'
