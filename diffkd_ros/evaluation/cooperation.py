# SPDX-License-Identifier: Apache-2.0
"""The ways to cooperate: what a neighbour sends, and how the ego detects with its sweep and the messages.

Intermediate cooperation is what the vehicles' nodes do. The others use the same model, so that only the
cooperation differs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.attacks.statement import Statement
from diffkd_ros.corruptions import LinkConditions
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.frame import AgentSweep, Boxes3D
from diffkd_ros.geometry.poses import Matrix, inverse, transform_points
from diffkd_ros.metrics.frame_results import Inference
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.detector import Detection
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.boxes import BOX_BYTES, boxes_from_bytes, boxes_to_bytes
from diffkd_ros.runtime.link.merging import merge_boxes
from diffkd_ros.runtime.plausibility.judge import Doubt

POINT_BYTES = 8
"""Four 16-bit integers: x, y, z in centimetres, intensity in steps of 1/65535."""
_CENTIMETRES = 100.0
_FARTHEST = 327.67  # metres: the largest that fits
_INTENSITIES = 65535.0

Plausibility = Literal['none', 'sweep', 'scenario']
"""How it is examined whether what neighbours sent is plausible: not at all; each sweep by itself, so that a
result does not depend on which frames are run; or by their earlier sweeps of the scenario, too, as by the
nodes."""

Content = TypeVar('Content')


@dataclass(frozen=True, slots=True)
class Message(Generic[Content]):
    """What a neighbour sends.

    Attributes:
        content: detections, or (n, 4) float32 points, in the sender's LiDAR frame.
        pose: (4, 4) map <- LiDAR, the sender's own estimate at the message's stamp.
        size: bytes of the content, without header and pose, which every message has.
    """

    content: Content
    pose: NDArray[np.float64]
    size: int


@dataclass(frozen=True, slots=True)
class SharedFeature:
    """A `Message` whose content is a feature map, in the two fields that a link may degrade.

    Attributes:
        feature: (channels, height, width) float32, after the codec.
        density: (height, width) float32, after the codec.
    """

    feature: NDArray[np.float32]
    density: NDArray[np.float32]
    pose: NDArray[np.float64]
    size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the ego.

    Attributes:
        detection: boxes, and maps of the ego and of `fused` neighbours.
        fused: number of neighbours whose features were fused; 0 where no features are sent.
        encode_ms: milliseconds from points to the ego's feature map.
        fuse_ms: milliseconds from feature maps to boxes.
        doubts: why each message was not used, None if it was; empty where nothing judges.
    """

    detection: Detection
    fused: int
    encode_ms: float
    fuse_ms: float
    doubts: tuple[Doubt | None, ...] = ()

    def inference(self, sizes: Sequence[int]) -> Inference:
        """Figures of the inference, given the sizes of the messages sent."""
        gates = self.detection.gate_weights
        return Inference.of_frame(
            reliability=self.detection.reliability,
            gate_ego=float(gates[0]),
            gate_neighbours=float(gates[1:].mean()) if self.fused else float('nan'),
            messages=len(sizes),
            sent_bytes=sum(sizes),
            encode_ms=self.encode_ms,
            fuse_ms=self.fuse_ms,
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Of a message: its sender and the stamp of the sweep, nanoseconds."""

    agent: int
    stamp: int


class Cooperation(ABC):
    """A way to cooperate.

    Args:
        model: encoder and detector of every agent.

    Attributes:
        name: on the command line.
        sends: content of the messages.
        budget: most bytes of a message where no limit is given; None for no limit.
        remembers: whether a result depends on the frames before.
        examines: whether the ego examines what neighbours sent.
        follows: whether it follows what moves, so that the result of a late message depends on those before.
    """

    name: ClassVar[str]
    sends: ClassVar[Literal['map', 'boxes', 'points', 'chunks', 'nothing']]
    budget: ClassVar[int | None] = None
    remembers: bool = False
    examines: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    def __init__(self, model: Model) -> None:
        self.model = model

    @classmethod
    def meets(cls, condition: Condition) -> bool:
        """Returns whether a condition applies. Every one does where nothing is sent."""
        return condition.degrades in (None, cls.sends) or cls.sends == 'nothing'

    @abstractmethod
    def message(self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions) -> Any:
        """A `Message` or `SharedFeature` of a neighbour; None if it has nothing to send.

        Args:
            clean: the frame.
            agent: the neighbour.
            sweep: as sensed.
            link: limits of the message.
        """

    def statement(self, clean: CleanFrame, agent: int, sweep: AgentSweep) -> Statement | None:
        """What an agent says of a sweep before it is coded; None if no point lies in the grid."""
        feature = clean.of_points(agent, sweep, self.model.encode).feature
        return (
            None if feature is None else Statement(feature, self._own_boxes(clean, agent, sweep), sweep.pose)
        )

    def message_of(self, said: Statement, honest: Statement, origin: Origin, link: LinkConditions) -> Any:
        """The message of a sender that makes a statement, by maps, layers or boxes; None if nothing fits.

        Args:
            said: in place of what was sensed.
            honest: what the sender would say otherwise.
            origin: of the message.
            link: limits of the message.

        Raises:
            PayloadError: if the ego refuses it.
        """
        raise NotImplementedError

    def has_base(self, message: Any) -> bool:
        """Returns whether the base layer of a message arrived, see `choose_sweep`."""
        return True

    def begin(self, plausibility: Plausibility = 'sweep') -> Cooperation:
        """The same way to cooperate for the frames of a scenario, in order, of which none is known yet.

        Args:
            plausibility: how it examines what neighbours sent, if it `examines`.
        """
        return self

    def remember(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Any]) -> None:
        """Note a frame without detecting, if this `remembers` or `follows`; arguments as for `outcome`."""
        raise NotImplementedError

    @abstractmethod
    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Any]) -> Outcome:
        """Detect.

        Args:
            clean: the frame.
            sweep: the ego's, as sensed.
            messages: received, as returned by `message`.
        """

    def _own_boxes(self, clean: CleanFrame, agent: int, sweep: AgentSweep) -> Boxes3D | None:
        """What an agent detects alone; None if there is a layered message and no point for it."""
        if not self.model.card.link:
            return self._alone(clean, agent, sweep).detection.boxes
        outgoing = clean.of_points(agent, sweep, self.model.prepare)
        return None if outgoing is None else outgoing.boxes

    def _alone(self, clean: CleanFrame, agent: int, sweep: AgentSweep) -> Outcome:
        return clean.of_points(agent, sweep, self._of_points)

    def _of_points(self, points: NDArray[np.float32]) -> Outcome:
        encoded = self.model.encode(points)
        detection = self.model.detect([encoded.feature or self.model.nothing()], [np.eye(4)])
        return Outcome(detection, 0, encoded.milliseconds, sum(detection.latency_ms.values()))


class IntermediateCooperation(Cooperation):
    """Neighbours send feature maps, encoded by the codec; the ego fuses them."""

    name = 'intermediate'
    sends = 'map'

    def message(
        self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions
    ) -> SharedFeature | None:
        """The feature map of a sweep; None if no point lies in the grid."""
        shared = clean.of_points(agent, sweep, self._through_codec)
        if shared is None:
            return None
        return self._limited(*shared, sweep.pose, link)

    def message_of(
        self, said: Statement, honest: Statement, origin: Origin, link: LinkConditions
    ) -> SharedFeature:
        """The map of a statement."""
        payload, card = codec.encode(said.bev), self.model.card
        grid = card.grid
        bev = codec.decode(payload, card.channels, grid.height, grid.width, card.feature_range)
        return self._limited(bev, len(payload.data), said.pose, link)

    @staticmethod
    def _limited(bev: BevFeature, size: int, pose: Matrix, link: LinkConditions) -> SharedFeature:
        feature, density = bev.feature, bev.density
        if link.limits_sender:
            feature, density = link.limit(feature, density, _size_of_map)
            size = _size_of_map(feature, density)
        return SharedFeature(feature, density, pose, size)

    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[SharedFeature]) -> Outcome:
        """Fuse feature maps and detect."""
        own = clean.of_points(clean.frame.ego, sweep, self.model.encode)
        features = [own.feature or self.model.nothing()]
        features += [BevFeature(message.feature, message.density) for message in messages]
        poses = [sweep.pose, *(message.pose for message in messages)]
        detection = self.model.detect(features, poses)
        return Outcome(detection, len(messages), own.milliseconds, sum(detection.latency_ms.values()))

    def _through_codec(self, points: NDArray[np.float32]) -> tuple[BevFeature, int] | None:
        feature = self.model.encode(points).feature
        if feature is None:
            return None
        payload = codec.encode(feature)
        return codec.decode(payload, *feature.feature.shape), len(payload.data)


def _size_of_map(feature: NDArray[np.float32], density: NDArray[np.float32]) -> int:
    return len(codec.encode(BevFeature(feature, density)).data)


class LateCooperation(Cooperation):
    """Every agent detects alone and sends boxes, which are merged by non-maximum suppression."""

    name = 'late'
    sends = 'boxes'

    def message(
        self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions
    ) -> Message[Boxes3D] | None:
        """An agent's own detections, by descending score, rounded as in a layered message.

        Those of a model with a layered message are its base layer: without a point in the grid there is none.
        Detections below the model's threshold, kept for calibration only, do not count as sent.
        """
        own = self._own_boxes(clean, agent, sweep)
        return None if own is None else self._sent(own, sweep.pose, link)

    def message_of(
        self, said: Statement, honest: Statement, origin: Origin, link: LinkConditions
    ) -> Message[Boxes3D]:
        """The boxes of a statement."""
        boxes = said.boxes
        if boxes is None:
            boxes = (
                self.model.sender.prepare(said.bev).boxes
                if self.model.card.link
                else self.model.detect([said.bev], [np.eye(4)]).boxes
            )
        return self._sent(boxes, said.pose, link)

    def _sent(self, own: Boxes3D, pose: Matrix, link: LinkConditions) -> Message[Boxes3D]:
        boxes = boxes_from_bytes(boxes_to_bytes(own))
        if link.budget is not None:
            boxes = boxes[: int(link.budget // BOX_BYTES)]
        assert boxes.scores is not None
        sent = int((boxes.scores >= self.model.card.min_score).sum())
        return Message(boxes, pose, BOX_BYTES * sent)

    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Message[Boxes3D]]) -> Outcome:
        """Merge the ego's detections with those received, except for boxes around the ego."""
        return self._merged(self._alone(clean, clean.frame.ego, sweep), sweep, messages)

    def _merged(self, alone: Outcome, sweep: AgentSweep, messages: Sequence[Message[Boxes3D]]) -> Outcome:
        started = time.perf_counter()
        poses = [sweep.pose, *(message.pose for message in messages)]
        received = [message.content for message in messages]
        boxes = merge_boxes(alone.detection.boxes, received, poses, self.model.card.decoding)
        merge_ms = (time.perf_counter() - started) * 1e3
        detection = replace(alone.detection, boxes=boxes)
        return replace(alone, detection=detection, fuse_ms=alone.fuse_ms + merge_ms)


class EarlyCooperation(Cooperation):
    """Neighbours send points; the ego detects in all of them, in its own frame, as in a single sweep."""

    name = 'early'
    sends = 'points'

    def message(
        self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions
    ) -> Message[NDArray[np.float32]] | None:
        """A sweep in 16-bit steps, None if empty; a regular subset of its points if the link is too slow."""
        points = clean.of_points(agent, sweep, _in_steps)
        if link.budget is not None and len(points) * POINT_BYTES > link.budget:
            fitting = int(link.budget // POINT_BYTES)
            points = points[np.linspace(0, len(points) - 1, fitting).round().astype(np.int64)]
        return Message(points, sweep.pose, POINT_BYTES * len(points)) if len(points) else None

    def outcome(
        self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Message[NDArray[np.float32]]]
    ) -> Outcome:
        """Detect in all points together."""
        if not messages:
            return self._alone(clean, clean.frame.ego, sweep)
        to_ego = inverse(sweep.pose)
        clouds = [transform_points(to_ego @ message.pose, message.content) for message in messages]
        return self._of_points(np.concatenate([sweep.points, *clouds]))


def _in_steps(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Finite points, quantised as described at `POINT_BYTES`."""
    points = points[np.isfinite(points).all(axis=1)]
    result = np.empty_like(points)
    result[:, :3] = np.rint(np.clip(points[:, :3], -_FARTHEST, _FARTHEST) * _CENTIMETRES) / _CENTIMETRES
    result[:, 3] = np.rint(np.clip(points[:, 3], 0.0, 1.0) * _INTENSITIES) / _INTENSITIES
    return result


class NoCooperation(Cooperation):
    """Nothing is sent: the ego detects alone."""

    name = 'none'
    sends = 'nothing'

    def message(self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions) -> None:
        """Nothing."""

    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Any]) -> Outcome:
        """Detect in the ego's own sweep."""
        return self._alone(clean, clean.frame.ego, sweep)
