# SPDX-License-Identifier: Apache-2.0
"""One frame under several conditions, drawn from above: what was sensed, found and missed."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.cooperation import Cooperation, cooperation_named
from diffkd_ros.evaluation.history import history_frames, needed_frames
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.evaluation.pipeline import MAX_AGE, Perceiver, Perception
from diffkd_ros.evaluation.report import scene
from diffkd_ros.evaluation.report.plots import describe
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.metrics.protocol import Protocol

_PIXELS = 1150
_COLOURS = 200
SHOWN_SCORE = 0.3
"""Detections below it are not drawn: at the threshold that suits AP, the picture would be full of them."""


def telling_frame(evaluation: Evaluation) -> tuple[str, int]:
    """Scenario and position of the frame in which neighbours help most to find vehicles."""
    together, alone = (evaluation.results(Condition(name)).table() for name in (CLEAN, EGO_ALONE))
    gains = {(row['scenario'], row['index']): row['hits_50'] for row in together}
    for row in alone:
        gains[row['scenario'], row['index']] = gains.get((row['scenario'], row['index']), 0) - row['hits_50']
    return max(gains, key=gains.__getitem__)


def draw_panels(
    plan: Plan, evaluation: Evaluation, conditions: Sequence[Condition]
) -> list[tuple[Condition, bytes]]:
    """Perceive the telling frame under each condition and draw it as a PNG.

    A condition that cannot work on that frame is left out.
    """
    name, position = telling_frame(evaluation)
    drive = plan.source.scenario(plan.source.names().index(name))
    cooperation = cooperation_named(plan.cooperation)(Model(plan.model, sessions=plan.sessions))
    frames = [CleanFrame(drive.frame(p)) for p, _ in needed_frames([position], history_frames(MAX_AGE))]
    alone = _perceive(cooperation, Condition(EGO_ALONE), frames).detection.boxes
    pictures = []
    for condition in conditions:
        try:
            seen = _perceive(cooperation, condition, frames)
        except CorruptionError:
            continue
        grid = cooperation.model.card.grid
        pictures.append((condition, _draw(frames[-1].frame, condition, seen, alone, plan.protocol, grid)))
    return pictures


def _perceive(cooperation: Cooperation, condition: Condition, frames: Sequence[CleanFrame]) -> Perception:
    perceiver = Perceiver(cooperation, condition)
    for frame in frames if condition.needs_history else frames[-1:]:
        sensed = perceiver.take(frame)
    return perceiver.perceive(frames[-1], sensed)


def _draw(
    frame: CoopFrame,
    condition: Condition,
    seen: Perception,
    alone: Boxes3D,
    protocol: Protocol,
    grid: BevGrid,
) -> bytes:
    # Points as sensed, at the true poses; truth of the clean frame.
    to_ego = inverse(frame.agents[frame.ego].pose)
    agents = {}
    for agent, sweep in seen.observed.agents.items():
        pose = to_ego @ frame.agents[agent].pose
        position = float(pose[0, 3]), float(pose[1, 3])
        agents[agent] = scene.AgentView(transform_points(pose, sweep.points), position)
    detection = seen.detection
    view = scene.FusionView(
        (grid.x_min, grid.y_min, grid.x_max, grid.y_max),
        frame.ego,
        agents,
        seen.fused,
        _shown(detection.boxes, protocol),
        _shown(alone, protocol),
        protocol.truth(frame),
        detection.energy_map,
        detection.gate_map,
        detection.reliability_map,
        describe(condition),
        min_points=protocol.min_points,
    )
    from PIL import Image

    picture = BytesIO()
    scene.draw(view, _PIXELS).savefig(picture, format='png')
    # A report holds several; a palette keeps it small.
    indexed = Image.open(picture).convert('RGB').quantize(_COLOURS, dither=Image.Dither.NONE)
    packed = BytesIO()
    indexed.save(packed, format='PNG', optimize=True)
    return packed.getvalue()


def _shown(boxes: Boxes3D, protocol: Protocol) -> Boxes3D:
    kept = protocol.detections(boxes)
    return kept if kept.scores is None else kept[kept.scores >= SHOWN_SCORE]
