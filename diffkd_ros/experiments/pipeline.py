# SPDX-License-Identifier: Apache-2.0
"""One frame through: sense, corrupt, encode, send, receive, fuse, detect, as the vehicles' nodes do it.

What neighbours share goes through the codec, as it would over the air. A `Perceiver` stands for one condition
in one drive and takes its frames in order, so that late messages and bursts happen in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import Link, corrupt_frame, open_link
from diffkd_ros.evaluation.frame_results import FrameResults, score_frame
from diffkd_ros.evaluation.protocol import Protocol
from diffkd_ros.experiments.conditions import EGO_ALONE, Condition
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector, Detection
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder
from diffkd_ros.runtime.features import BevFeature

MAX_AGE = 0.5
"""Seconds; older features of neighbours are not fused, as with the nodes' default parameter."""


@dataclass(frozen=True, slots=True)
class SharedFeature:
    """What a neighbour sends.

    Attributes:
        feature: (channels, height, width) float32, after the codec.
        density: (height, width) float32, likewise.
        pose: (4, 4) map <- LiDAR where the sender believed to be at the message's stamp.
    """

    feature: NDArray[np.float32]
    density: NDArray[np.float32]
    pose: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Perception:
    """What the ego made of a frame.

    Attributes:
        detection: boxes and maps.
        fused: agents whose features were fused, the ego first: the order of the maps.
        observed: the frame as it was sensed, without the agents from which nothing was fused.
    """

    detection: Detection
    fused: tuple[int, ...]
    observed: CoopFrame


class Model:
    """A model folder's encoder and detector, and its codec.

    Args:
        folder: of the model.
        min_score: detections from this score on are kept, instead of the card's.

    Raises:
        ModelError: if the model does not load.
    """

    def __init__(self, folder: Path, min_score: float | None = None) -> None:
        self.card = ModelCard.load(folder)
        card = self.card if min_score is None else self.card.model_copy(update={'min_score': min_score})
        self._encoder = FeatureEncoder(card)
        self._detector = CooperativeDetector(card)

    def encode(self, sweep: AgentSweep) -> BevFeature | None:
        """Encode a sweep; None if it has no return in the grid."""
        try:
            return self._encoder.encode(sweep.points)
        except CloudError:
            return None

    def nothing(self) -> BevFeature:
        """What an agent knows that has sensed nothing."""
        grid = self.card.grid
        shape = grid.height, grid.width
        return BevFeature(np.zeros((self.card.channels, *shape), np.float32), np.zeros(shape, np.float32))

    def over_the_air(self, feature: BevFeature) -> BevFeature:
        """A feature as it arrives: through the codec and back."""
        return codec.decode(codec.encode(feature), *feature.feature.shape)

    def detect(self, features: Sequence[BevFeature], poses: Sequence[NDArray[np.float64]]) -> Detection:
        """Fuse and detect; the ego first."""
        return self._detector.detect(features, poses)


def bytes_sent(feature: NDArray[np.float32], density: NDArray[np.float32]) -> int:
    """Size of a map as it travels."""
    return len(codec.encode(BevFeature(feature, density)).data)


class CleanFrame:
    """A frame and the features of its clean sweeps, each computed once and only if asked for.

    Args:
        frame: the frame.
        model: encodes its sweeps.
    """

    def __init__(self, frame: CoopFrame, model: Model) -> None:
        self.frame = frame
        self._model = model
        self._own: dict[int, BevFeature | None] = {}
        self._shared: dict[int, BevFeature | None] = {}

    def own(self, agent: int, sweep: AgentSweep) -> BevFeature | None:
        """An agent's feature of a sweep, kept if the sweep's points are the clean ones."""
        if sweep.points is not self.frame.agents[agent].points:
            return self._model.encode(sweep)
        if agent not in self._own:
            self._own[agent] = self._model.encode(sweep)
        return self._own[agent]

    def shared(self, agent: int, sweep: AgentSweep) -> BevFeature | None:
        """The same as it arrives at others."""
        if sweep.points is self.frame.agents[agent].points and agent in self._shared:
            return self._shared[agent]
        own = self.own(agent, sweep)
        arriving = None if own is None else self._model.over_the_air(own)
        if sweep.points is self.frame.agents[agent].points:
            self._shared[agent] = arriving
        return arriving


class Perceiver:
    """The ego of one drive under one condition.

    Args:
        model: what it runs.
        condition: what goes wrong.
    """

    def __init__(self, model: Model, condition: Condition) -> None:
        self._model = model
        self._condition = condition
        self._links: dict[int, Link[SharedFeature]] = {}

    def take(self, clean: CleanFrame) -> CoopFrame:
        """Sense a frame and, over links, send what neighbours share; frames must come in order.

        Returns:
            The frame as it was sensed.

        Raises:
            CorruptionError: if the corruption cannot work on this frame.
        """
        condition, frame = self._condition, clean.frame
        if condition.over_links:
            for agent in frame.neighbours:
                shared = self._shared(clean, frame, agent)
                if shared is not None:
                    self._link(frame.scenario, agent).send(frame.stamp, shared)
            return frame
        if condition.reference:
            return frame
        return corrupt_frame(
            frame, condition.corruption, condition.severity, condition.seed, condition.who, condition.profile
        )

    def perceive(self, clean: CleanFrame, sensed: CoopFrame) -> Perception:
        """Fuse what the ego has of a frame that was taken, and detect."""
        ego = sensed.agents[sensed.ego]
        features = [clean.own(sensed.ego, ego) or self._model.nothing()]
        poses, fused = [ego.pose], [sensed.ego]
        if self._condition.corruption != EGO_ALONE:
            for agent in _nearest(sensed, self._model.card.max_agents - 1):
                shared = self._received(clean, sensed, agent)
                if shared is not None:
                    features.append(BevFeature(shared.feature, shared.density))
                    poses.append(shared.pose)
                    fused.append(agent)
        observed = replace(sensed, agents={agent: sensed.agents[agent] for agent in fused})
        return Perception(self._model.detect(features, poses), tuple(fused), observed)

    def _shared(self, clean: CleanFrame, sensed: CoopFrame, agent: int) -> SharedFeature | None:
        sweep = sensed.agents[agent]
        feature = clean.shared(agent, sweep)
        return None if feature is None else SharedFeature(feature.feature, feature.density, sweep.pose)

    def _received(self, clean: CleanFrame, sensed: CoopFrame, agent: int) -> SharedFeature | None:
        if not self._condition.over_links:
            return self._shared(clean, sensed, agent)
        arrival = self._link(sensed.scenario, agent).newest(sensed.stamp)
        if arrival is None or sensed.stamp - arrival.stamp > round(MAX_AGE * 1e9):
            return None
        return arrival.payload

    def _link(self, scenario: str, agent: int) -> Link[SharedFeature]:
        if agent not in self._links:
            condition = self._condition
            self._links[agent] = open_link(
                condition.corruption,
                condition.severity,
                condition.seed,
                scenario,
                agent,
                condition.profile,
                bytes_sent,
            )
        return self._links[agent]


def _nearest(frame: CoopFrame, most: int) -> list[int]:
    """The ids of the neighbours nearest to the ego, ascending."""
    here = frame.agents[frame.ego].pose[:2, 3]
    by_distance = sorted(
        frame.neighbours, key=lambda agent: float(np.hypot(*(frame.agents[agent].pose[:2, 3] - here)))
    )
    return sorted(by_distance[:most])


def score(clean: CoopFrame, perception: Perception, protocol: Protocol) -> FrameResults:
    """Score against the truth of the clean frame; returns are counted as the agents fused sensed them."""
    return score_frame(clean, perception.detection.boxes, protocol, perception.observed)
