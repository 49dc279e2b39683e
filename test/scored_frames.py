# SPDX-License-Identifier: Apache-2.0
"""Frames and results with known content, for tests of the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.metrics.average_precision import ANY_OVERLAP
from diffkd_ros.metrics.frame_results import Detections, FrameResults, Inference, Truths, join

EGO, OTHER = 1, 2


def cars(*places: float) -> np.ndarray:
    """Cars of 4 x 2 m along the x axis. Shifted by d metres along x, their IoU is (4 - d) / (4 + d)."""
    boxes = np.tile([0.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.0], (len(places), 1))
    boxes[:, 0] = places
    return boxes


def found(*placed: tuple[float, float]) -> Boxes3D:
    """Detections by position and score."""
    return Boxes3D(cars(*(x for x, _ in placed)), scores=[score for _, score in placed])


def returns(*groups: tuple[float, float, float, int]) -> np.ndarray:
    """A cloud with n returns at each x, y, z."""
    rows = [[x, y, z, 0.5] for x, y, z, n in groups for _ in range(n)]
    return np.array(rows, np.float32).reshape(-1, 4)


def coop_frame(
    truth: Boxes3D | None,
    ego: np.ndarray | None = None,
    other: np.ndarray | None = None,
    scenario: str = 'drive',
    index: int = 0,
) -> CoopFrame:
    """Two agents, the other 20 m ahead of the ego and facing it; the map is the ego's LiDAR frame.

    Clouds are given in the map.
    """
    nothing = np.zeros((0, 4), np.float32)
    facing = nothing if other is None else other * np.array([-1, -1, 1, 1], np.float32)
    facing = facing + np.array([20, 0, 0, 0], np.float32) * (len(facing) > 0)
    return CoopFrame(
        {
            EGO: AgentSweep(nothing if ego is None else ego, np.eye(4)),
            OTHER: AgentSweep(facing, pose_from_euler([20, 0, 0], yaw=np.pi)),
        },
        EGO,
        0,
        truth,
        scenario,
        index,
    )


def results(
    scores: Sequence[float],
    iou: Sequence[float],
    truths: int,
    scenario: str = 'drive',
    index: int = 0,
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7),
) -> FrameResults:
    """Results of one frame, from the overlap of each detection with its own truth (0: no truth)."""
    order = np.argsort(-np.asarray(scores, float), kind='stable')
    overlap = np.asarray(iou, np.float32)[order]
    rows = (ANY_OVERLAP, *thresholds)
    own = np.cumsum(overlap > 0) - 1
    hit = np.array([(overlap > 0) & (overlap >= np.float32(row)) for row in rows])
    count, none = len(overlap), np.zeros(len(overlap), np.int32)
    return FrameResults(
        'test',
        rows,
        np.array([scenario]),
        np.array([index]),
        Detections(
            np.zeros(count, np.int32),
            np.asarray(scores, np.float32)[order],
            np.zeros(count, np.float32),
            none,
            none,
            none,
            np.where(hit, own, -1).astype(np.int32),
            np.where(hit, overlap, 0).astype(np.float32),
        ),
        Truths(
            np.zeros(truths, np.int32),
            np.ones(truths, np.bool_),
            np.zeros(truths, np.float32),
            np.zeros(truths, np.int32),
            np.zeros(truths, np.int32),
        ),
        Inference.of_frame(0.5, 0.6, 0.2, truths, 1000 * index + count, 30.0, 90.0),
    )


def random_frames(
    rng: np.random.Generator, scenarios: Sequence[str], frames: int = 3, each: int = 6
) -> list[FrameResults]:
    """Frames of random quality, some of them without detections or truths."""
    parts = []
    for scenario in scenarios:
        for index in range(frames):
            count = int(rng.integers(0, each))
            iou = np.where(rng.random(count) < 0.6, rng.random(count), 0.0)
            truths = int((iou > 0).sum() + rng.integers(0, 3))
            parts.append(results(rng.random(count).tolist(), iou.tolist(), truths, scenario, index))
    return parts


def random_results(
    rng: np.random.Generator, scenarios: Sequence[str], frames: int = 3, each: int = 6
) -> FrameResults:
    """The same as one table."""
    return join(random_frames(rng, scenarios, frames, each))


def drawn(parts: Sequence[FrameResults], scenarios: Sequence[str], times: Sequence[int]) -> FrameResults:
    """Frames of each scenario as often as it was drawn, joined frame by frame."""
    return join(
        [
            part
            for name, count in zip(scenarios, times, strict=True)
            for _ in range(count)
            for part in parts
            if part.scenarios == [name]
        ]
    )
