# SPDX-License-Identifier: Apache-2.0
"""Scoring of one frame: matches detections to truths and counts the LiDAR returns in and around each box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import count_points
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.metrics.average_precision import ANY_OVERLAP, EvaluationError, match_each
from diffkd_ros.metrics.frame_results import (
    DROPPED,
    OBSERVED_MARGIN,
    Detections,
    FrameResults,
    Inference,
    Truths,
)
from diffkd_ros.metrics.protocol import Protocol

_ANY_HEIGHT = 1e6  # metres


def score_frame(
    frame: CoopFrame,
    detections: Boxes3D,
    protocol: Protocol,
    observed: CoopFrame | None = None,
    inference: Inference | None = None,
) -> FrameResults:
    """Score one frame's detections.

    Args:
        frame: with ground truth and the true poses.
        detections: with scores, in the LiDAR frame of the frame's ego.
        protocol: what is scored.
        observed: the sweeps as the detector got them, corrupted or missing; its points are transformed by the
            true poses of `frame`. Default: the sweeps of `frame`.
        inference: figures of the inference, if known.

    Raises:
        EvaluationError: if the frame has no ground truth, scores are missing or not finite, or `observed` has
            an agent that `frame` does not have.
    """
    detections = protocol.detections(detections)
    thresholds = (ANY_OVERLAP, *protocol.iou_thresholds)
    truth = protocol.truth(frame)
    if detections.scores is not None:
        detections = detections[np.argsort(-detections.scores, kind='stable')]
    matchings = match_each(detections, truth, thresholds, protocol.min_points)
    outcomes = [np.where(m.dropped, DROPPED, m.truth_index) for m in matchings]
    prisms = detections.boxes + np.array([0, 0, 0, 2 * OBSERVED_MARGIN, 2 * OBSERVED_MARGIN, 0, 0])
    prisms[:, 5] = _ANY_HEIGHT
    ego, others = _count_returns(frame, observed or frame, [truth.boxes, detections.boxes, prisms])

    def distance(boxes: Boxes3D) -> NDArray[np.float32]:
        return np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1]).astype(np.float32)

    return FrameResults(
        protocol.name,
        thresholds,
        np.array([frame.scenario]),
        np.array([frame.index], np.int64),
        Detections(
            np.zeros(len(detections), np.int32),
            np.zeros(0, np.float32) if detections.scores is None else detections.scores,
            distance(detections),
            ego[1],
            others[1],
            ego[2] + others[2],
            np.array(outcomes, np.int32),
            np.array([m.iou for m in matchings], np.float32),
        ),
        Truths(
            np.zeros(len(truth), np.int32),
            matchings[0].counted,
            distance(truth),
            ego[0],
            others[0],
        ),
        inference or Inference.of_frame(),
    )


def _count_returns(
    frame: CoopFrame, observed: CoopFrame, boxes: Sequence[NDArray[np.float64]]
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]]:
    """Returns of the ego, and of the other agents, in each of several sets of boxes in the ego's frame."""
    strangers = sorted(set(observed.agents) - set(frame.agents))
    if strangers:
        raise EvaluationError(
            f'frame {frame.index} of scenario {frame.scenario!r} lacks agents {strangers} of `observed`'
        )
    everything = np.concatenate(boxes)
    counts = np.zeros((2, len(everything)), np.int32)
    to_ego = inverse(frame.agents[frame.ego].pose)
    for agent, sweep in observed.agents.items():
        points = transform_points(to_ego @ frame.agents[agent].pose, sweep.points)
        counts[int(agent != frame.ego)] += count_points(points, everything).astype(np.int32)
    edges = np.cumsum([len(part) for part in boxes])[:-1]
    ego, others = (np.split(row, edges) for row in counts)
    return ego, others
