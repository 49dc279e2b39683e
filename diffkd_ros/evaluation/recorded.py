# SPDX-License-Identifier: Apache-2.0
"""Scores the recorded detections of a live ego as the clean condition of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffkd_ros.bags.answers import Answer, Status, read_answers
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.run import keep_notes
from diffkd_ros.frame import CoopFrame
from diffkd_ros.messages.names import agent_name
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.frame_results import FrameResults, Inference, join
from diffkd_ros.metrics.protocol import Protocol
from diffkd_ros.metrics.scoring import score_frame

_CLEAN = Condition(CLEAN)
_ENCODING = ('cloud', 'encode')
_FUSING = ('neighbours', 'restore', 'examine', 'move', 'fuse', 'decode', 'merge')


def score_answers(plan: Plan, paths: Sequence[Path]) -> None:
    """Score recorded detections and save them as clean results, unless these exist.

    Frames of the source without recorded detections are left out.

    Args:
        plan: checked by `settle`; its source has the stamps of the detections.
        paths: bags with the detections, read as one.

    Raises:
        EvaluationError: if no frame of the source has recorded detections.
        DatasetError: if a bag is missing or damaged.
    """
    answers: Mapping[int, Answer] | None = None
    scored = False
    for number, name in enumerate(plan.source.names()):
        if plan.kept(_CLEAN, name) is not None:
            scored = True
            continue
        drive = plan.source.scenario(number)
        results: list[FrameResults] = []
        reasons: dict[str, str] = {}
        parts: Counter[str] = Counter()
        for position in plan.positions(drive):
            try:
                frame = drive.frame(position)
                plan.protocol.truth(frame)
            except (DiffkdError, ValueError) as error:
                reasons[f'{_CLEAN.name}/{name}/{position}'] = str(error)
                continue
            if answers is None:
                answers = read_answers(paths, frame.ego)
            if frame.stamp in answers:
                parts.update(frame.left_out)
                results.append(score_answer(frame, answers[frame.stamp], plan.protocol))
            else:
                reasons[f'{_CLEAN.name}/{name}/{position}'] = 'no recorded detections at its stamp'
        keep_notes(plan.left_out(_CLEAN, name), reasons)
        keep_notes(plan.parts_left_out(name), parts)
        if results:
            scored = True
            join(results).save(plan.file(_CLEAN, name))
    if not scored:
        raise EvaluationError(
            f'{", ".join(map(str, paths))} holds no detections with the stamps of {plan.source.spec}'
        )


def score_answer(frame: CoopFrame, answer: Answer, protocol: Protocol) -> FrameResults:
    """Score the recorded detections of one frame.

    Args:
        frame: with ground truth, at the same stamp.
        answer: if it has a status, returns are counted for the ego and the agents it fused, else for all.
        protocol: of the evaluation.

    Raises:
        EvaluationError: if the frame has no ground truth, or the detections have no scores.
    """
    if answer.status is None:
        return score_frame(frame, answer.detections, protocol)
    fused = {frame.ego, *(a for a in frame.neighbours if agent_name(a) in answer.status.fused)}
    observed = replace(frame, agents={agent: frame.agents[agent] for agent in sorted(fused)})
    return score_frame(frame, answer.detections, protocol, observed, _inference(answer.status))


def _inference(status: Status) -> Inference:
    weights = [neighbour.gate_weight for neighbour in status.neighbours if neighbour.accepted]
    sent = [neighbour.bytes for neighbour in status.neighbours if neighbour.bytes]

    def milliseconds(stages: Sequence[str]) -> float:
        known = [status.stages[stage] for stage in stages if stage in status.stages]
        return sum(known) if known else float('nan')

    return Inference.of_frame(
        reliability=status.reliability,
        gate_neighbours=sum(weights) / len(weights) if weights else float('nan'),
        messages=len(sent),
        sent_bytes=sum(sent),
        encode_ms=milliseconds(_ENCODING),
        fuse_ms=milliseconds(_FUSING),
    )
