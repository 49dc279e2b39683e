# SPDX-License-Identifier: Apache-2.0
"""One frame under several conditions, drawn from above."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.cooperations import cooperation_named
from diffkd_ros.evaluation.measures import IOU, Evaluation, confident
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import Perceiver, Perception
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.report import scene
from diffkd_ros.evaluation.report.plots import describe
from diffkd_ros.evaluation.report.view import AgentView, FusionView
from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.metrics.protocol import Protocol

_PIXELS = 1150
_COLOURS = 200
SHOWN_SCORE = 0.3
"""Weaker detections are not drawn: at the lower threshold that suits AP they would cover the picture."""


def telling_frame(evaluation: Evaluation) -> tuple[str, int]:
    """Scenario and position of the frame in which cooperation finds most additional vehicles."""
    together, alone = (evaluation.results(Condition(name)) for name in (CLEAN, EGO_ALONE))
    gains = dict(zip(_places(together), together.hits_by_frame(IOU), strict=True))
    for place, hits in zip(_places(alone), alone.hits_by_frame(IOU), strict=True):
        gains[place] = gains.get(place, 0) - hits
    return max(gains, key=gains.__getitem__)


def _places(results: FrameResults) -> list[tuple[str, int]]:
    return list(zip(results.scenario.tolist(), results.index.tolist(), strict=True))


def draw_panels(
    plan: Plan, evaluation: Evaluation, conditions: Sequence[Condition]
) -> list[tuple[Condition, bytes]]:
    """Perceive the telling frame under each condition and draw it as a PNG.

    Conditions that cannot be applied to that frame are left out.
    """
    name, position = telling_frame(evaluation)
    drive = plan.source.scenario(plan.source.names().index(name))
    cooperation = cooperation_named(plan.cooperation)(Model(plan.model, sessions=plan.sessions))
    ego_alone = Perceiver(cooperation, Condition(EGO_ALONE), plan.budget, plan.plausibility)
    perceivers = [
        (condition, Perceiver(cooperation, condition, plan.budget, plan.plausibility))
        for condition in conditions
    ]
    history = max(perceiver.history for perceiver in (ego_alone, *(each for _, each in perceivers)))
    frames = [CleanFrame(drive.frame(p)) for p in range(max(0, position - history), position + 1)]
    alone = _perceive(ego_alone, frames).detection.boxes
    grid = cooperation.model.card.grid
    pictures = []
    for condition, perceiver in perceivers:
        try:
            seen = _perceive(perceiver, frames)
        except CorruptionError:
            continue
        view = fusion_view(frames[-1].frame, seen, alone, plan.protocol, grid, describe(condition))
        pictures.append((condition, _png(view)))
    return pictures


def _perceive(perceiver: Perceiver, frames: Sequence[CleanFrame]) -> Perception:
    for frame in frames[-1 - perceiver.history : -1]:
        perceiver.remember(frame, perceiver.take(frame))
    return perceiver.perceive(frames[-1], perceiver.take(frames[-1]))


def fusion_view(
    frame: CoopFrame,
    seen: Perception,
    alone: Boxes3D,
    protocol: Protocol,
    grid: BevGrid,
    title: str,
    note: str = '',
) -> FusionView:
    """The content of a picture of one perceived frame.

    Points are drawn as sensed, but at the true poses.

    Args:
        frame: the clean frame, with ground truth.
        seen: the perception to draw.
        alone: detections of the ego alone.
        protocol: which truths and detections are scored, so drawn; of the latter, those from `SHOWN_SCORE`.
        grid: extent of the picture.
        title: text at the top left.
        note: text at the top right.

    Raises:
        EvaluationError: if the frame has no ground truth.
    """
    to_ego = inverse(frame.agents[frame.ego].pose)
    agents = {}
    for agent, sweep in seen.observed.agents.items():
        pose = to_ego @ frame.agents[agent].pose
        position = float(pose[0, 3]), float(pose[1, 3])
        agents[agent] = AgentView(transform_points(pose, sweep.points), position)
    detection = seen.detection
    return FusionView(
        grid.area,
        frame.ego,
        agents,
        seen.fused,
        _shown(detection.boxes, protocol),
        _shown(alone, protocol),
        protocol.truth(frame),
        detection.energy_map,
        detection.gate_map,
        detection.reliability_map,
        title,
        note,
        min_points=protocol.min_points,
    )


def _shown(boxes: Boxes3D, protocol: Protocol) -> Boxes3D:
    kept = protocol.detections(boxes)
    return kept if kept.scores is None else kept[kept.scores >= SHOWN_SCORE]


def shown_hits(results: FrameResults) -> int:
    """Number of vehicles found by the detections that are drawn."""
    return int(confident(results, SHOWN_SCORE).hits_by_frame(IOU).sum())


def _png(view: FusionView) -> bytes:
    from PIL import Image

    picture = BytesIO()
    scene.draw(view, _PIXELS).savefig(picture, format='png')
    # A palette keeps the report, which embeds several pictures, small.
    indexed = Image.open(picture).convert('RGB').quantize(_COLOURS, dither=Image.Dither.NONE)
    packed = BytesIO()
    indexed.save(packed, format='PNG', optimize=True)
    return packed.getvalue()
