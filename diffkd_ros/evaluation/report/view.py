# SPDX-License-Identifier: Apache-2.0
"""The content of one picture of a fused frame, in the ego's LiDAR frame, and its match with the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import within
from diffkd_ros.metrics.average_precision import Matching, match

HIT_IOU = 0.5
"""Minimum IoU of a hit."""


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent as the ego sees it.

    Attributes:
        points: (n, 3 or more) x, y, z in the **ego's** LiDAR frame, metres.
        position: x, y of the agent's LiDAR in the ego's LiDAR frame.
    """

    points: NDArray[np.float32]
    position: tuple[float, float]


@dataclass(frozen=True, slots=True)
class FusionView:
    """Content of one picture; all coordinates in the ego's LiDAR frame.

    Maps have row 0 at y_min and column 0 at x_min.

    Attributes:
        extent: x_min, y_min, x_max, y_max of the maps and the picture, metres.
        ego: id of the ego, a key of `agents`.
        agents: all agents with points to show, fused or not.
        fused: ids whose features were fused, the ego first: the order of `gate`.
        detections: of the cooperative detector, with scores.
        ego_only: of the ego alone on the same sweep, with scores.
        truth: with `num_points` where known.
        energy: (agents, height, width) float32 >= 0; magnitude of each agent's restored feature, ordered as
            `gate`, 0 where an agent has none. The maximum over the agents is drawn, relative to the frame's
            99.5th percentile.
        gate: (agents, height, width) float32 in [0, 1]; each agent's share of the fused feature.
        reliability: (height, width) float32 in [0, 1]; the ego's reliability.
        title: text at the top left.
        note: text at the top right; may be empty.
        min_points: truths with fewer returns are ignored.
    """

    extent: tuple[float, float, float, float]
    ego: int
    agents: Mapping[int, AgentView]
    fused: tuple[int, ...]
    detections: Boxes3D
    ego_only: Boxes3D
    truth: Boxes3D
    energy: NDArray[np.float32]
    gate: NDArray[np.float32]
    reliability: NDArray[np.float32]
    title: str
    note: str = ''
    min_points: int = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """Detections and truths within the picture, and how they match.

    Attributes:
        detections: of the cooperative detector.
        truth: all vehicles.
        cooperative: match of the detections.
        alone: match of the ego's own detections.
    """

    detections: Boxes3D
    truth: Boxes3D
    cooperative: Matching
    alone: Matching

    @classmethod
    def of(cls, view: FusionView) -> Outcome:
        """Match what a view shows."""
        detections = within(view.detections, *view.extent)
        truth = within(view.truth, *view.extent)
        alone = within(view.ego_only, *view.extent)
        settings = (HIT_IOU, view.min_points)
        return cls(detections, truth, match(detections, truth, *settings), match(alone, truth, *settings))

    @property
    def gained(self) -> NDArray[np.bool_]:
        """(n_truths,) bool; found by cooperation, missed by the ego alone."""
        return self.alone.missed & ~self.cooperative.missed

    def sentence(self) -> str:
        """The counts as text."""
        counted = int(self.cooperative.counted.sum())
        found, alone = (counted - int(m.missed.sum()) for m in (self.cooperative, self.alone))
        false, false_alone = (int(m.false_alarm.sum()) for m in (self.cooperative, self.alone))
        lost = int((self.cooperative.missed & ~self.alone.missed).sum())
        return (
            f'{counted} vehicles:  {found} found together, {alone} by the ego alone   '
            f'({int(self.gained.sum())} gained, {lost} lost)     '
            f'false alarms:  {false} together, {false_alone} alone'
        )
