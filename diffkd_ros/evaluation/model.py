# SPDX-License-Identifier: Apache-2.0
"""The evaluated model, and frames with cached results of their clean sweeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector, Detection
from diffkd_ros.runtime.encoder import CloudError, FeatureEncoder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import OutgoingMap
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.session import Session

Result = TypeVar('Result')
Sessions = Callable[[ModelCard], tuple[Session, Session]]
"""Opens the sessions of a model's encoder and ego; a module-level function, so that it can be pickled."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Result of the encoder.

    Attributes:
        feature: None if no point lies in the grid.
        milliseconds: duration.
    """

    feature: BevFeature | None
    milliseconds: float


class Model:
    """A model folder's encoder and detector.

    Args:
        folder: of the model.
        min_score: score threshold of the detections, in place of the card's.
        sessions: opens the sessions of a model without ONNX graphs.
        threads: CPU threads.

    Raises:
        ModelError: if the model does not load.
    """

    def __init__(
        self,
        folder: Path,
        min_score: float | None = None,
        sessions: Sessions | None = None,
        threads: int = 1,
    ) -> None:
        self.card = ModelCard.load(folder)
        card = self.card if min_score is None else self.card.model_copy(update={'min_score': min_score})
        encoder, ego = (None, None) if sessions is None else sessions(card)
        self._encoder = FeatureEncoder(card, threads, session=encoder)
        self._detector = CooperativeDetector(card, threads, session=ego)
        self._threads = threads

    def encode(self, points: NDArray[np.float32]) -> Encoded:
        """Encode (n, 4) points in the LiDAR frame."""
        started = time.perf_counter()
        try:
            feature = self._encoder.encode(points)
        except CloudError:
            feature = None
        return Encoded(feature, (time.perf_counter() - started) * 1e3)

    def prepare(self, points: NDArray[np.float32]) -> OutgoingMap | None:
        """What a vehicle sends of (n, 4) points in the LiDAR frame; None if no point lies in the grid.

        Raises:
            ModelError: if the model has no layered message.
        """
        feature = self.encode(points).feature
        return None if feature is None else self.sender.prepare(feature)

    @cached_property
    def sender(self) -> MapSender:
        """The part of a vehicle that sends layers; with the card's score threshold, as a vehicle sends.

        Raises:
            ModelError: if the model has no layered message.
        """
        return MapSender(self.card, self._threads)

    @cached_property
    def receiver(self) -> MapReceiver:
        """The part of the ego that receives layers; errors as for `sender`."""
        return MapReceiver(self.card, self._threads)

    def nothing(self) -> BevFeature:
        """The feature map of an agent without points."""
        grid = self.card.grid
        return BevFeature.empty(self.card.channels, grid.height, grid.width)

    def detect(self, features: Sequence[BevFeature], poses: Sequence[NDArray[np.float64]]) -> Detection:
        """Fuse feature maps, the ego's first, and detect."""
        return self._detector.detect(features, poses)


class CleanFrame:
    """A frame with a cache of what is computed from its clean sweeps."""

    def __init__(self, frame: CoopFrame) -> None:
        self.frame = frame
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """The result for a key, computed at the first call."""
        if key not in self._kept:
            self._kept[key] = compute()
        return cast(Result, self._kept[key])

    def known(self, key: Hashable) -> Any:
        """The cached result for a key, None if there is none."""
        return self._kept.get(key)

    def of_points(
        self, agent: int, sweep: AgentSweep, compute: Callable[[NDArray[np.float32]], Result]
    ) -> Result:
        """The result for an agent's points, cached if they are the clean ones."""
        if sweep.points is not self.frame.agents[agent].points:
            return compute(sweep.points)
        return self.once((compute, agent), lambda: compute(sweep.points))
