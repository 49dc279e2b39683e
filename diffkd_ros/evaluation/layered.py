# SPDX-License-Identifier: Apache-2.0
"""Cooperation by layered messages, which keep to a number of bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.attacks.statement import Statement
from diffkd_ros.corruptions import LinkConditions
from diffkd_ros.evaluation.cooperation import Cooperation, Origin, Outcome, Plausibility
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.frame import AgentSweep
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.link.chunk import holds_boxes
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.maps import OutgoingMap, ReceivedMap
from diffkd_ros.runtime.link.memory import MapMemory, Moment
from diffkd_ros.runtime.link.motion import Motion, Tracks
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET, Packer
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.plausibility.examination import Examination
from diffkd_ros.runtime.plausibility.judge import VIEWS, Judge

ENVELOPE = 200
"""Most bytes of the other fields of a `BevChunk`, which is sent for every chunk."""


@dataclass(frozen=True, slots=True)
class ChunkedMessage:
    """A `Message` whose content is the chunks of a sweep, in the field that a link may degrade.

    Attributes:
        chunks: in the order in which they are sent.
        size: bytes of all chunks, each with its `ENVELOPE`.
        agent: the sender.
        stamp: of its sweep, nanoseconds.
    """

    chunks: list[bytes]
    pose: NDArray[np.float64]
    size: int
    agent: int
    stamp: int


class LayeredCooperation(Cooperation):
    """Neighbours send boxes and codes of their maps; the ego restores what did not arrive and fuses.

    Raises:
        ModelError: if the model has no layered message.
    """

    name = 'layered'
    sends = 'chunks'
    examines = True
    follows = True
    budget = DEFAULT_BUDGET

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._tables = tables = model.receiver.tables
        self._packer, self._unpacker = Packer(tables), Unpacker(tables)
        self.remembers = model.card.memory
        self._memory, self._tracks = MapMemory(), Tracks()
        self._plausibility: Plausibility = 'sweep'
        self._judge: Judge | None = None

    def begin(self, plausibility: Plausibility = 'sweep') -> LayeredCooperation:
        """With memory, tracks and, if one is to be kept, a judge of its own."""
        begun = copy(self)
        begun._memory, begun._tracks, begun._plausibility = MapMemory(), Tracks(), plausibility
        begun._judge = Judge(VIEWS) if plausibility == 'scenario' else None
        return begun

    def message(
        self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions
    ) -> ChunkedMessage | None:
        """The chunks of a sweep; None if no point lies in the grid, or no chunk fits."""
        outgoing = clean.of_points(agent, sweep, self.model.prepare)
        if outgoing is None:
            return None
        return self._packed(outgoing, sweep.pose, Origin(agent, clean.frame.stamp), link)

    def message_of(
        self, said: Statement, honest: Statement, origin: Origin, link: LinkConditions
    ) -> ChunkedMessage | None:
        """The chunks of a statement, coded by the model.

        Tiles that differ from honest ones come first, or not at all in a lie `by_boxes`.
        """
        outgoing = self.model.sender.prepare(said.bev)
        feature, density = (
            getattr(said.bev, name) != getattr(honest.bev, name) for name in ('feature', 'density')
        )
        changed = self._tables.as_tiles(feature.any(axis=0) | density).any(axis=-1)
        benefit = outgoing.benefit
        # The packer leaves tiles with a benefit below 0 out.
        other = -1.0 if said.by_boxes else benefit + np.ptp(benefit) + abs(benefit.min()) + 1
        benefit = np.where(changed.reshape(benefit.shape), other, benefit)
        boxes = outgoing.boxes if said.boxes is None else said.boxes
        return self._packed(replace(outgoing, boxes=boxes, benefit=benefit), said.pose, origin, link)

    def _packed(
        self, outgoing: OutgoingMap, pose: Matrix, origin: Origin, link: LinkConditions
    ) -> ChunkedMessage | None:
        budget = self.budget if link.budget is None else int(link.budget)
        chunks = self._packer.pack(outgoing, budget, ENVELOPE)
        if not chunks:
            return None
        size = sum(map(len, chunks)) + ENVELOPE * len(chunks)
        return ChunkedMessage(chunks, pose, size, origin.agent, origin.stamp)

    def has_base(self, message: ChunkedMessage) -> bool:
        """Returns whether boxes arrived."""
        return any(map(holds_boxes, message.chunks))

    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[ChunkedMessage]) -> Outcome:
        """Decode, restore, fuse, detect, and merge with the boxes that were sent."""
        if not (messages or self.remembers):
            return self._alone(clean, clean.frame.ego, sweep)
        model = self.model
        own = clean.of_points(clean.frame.ego, sweep, model.encode)
        started = time.perf_counter()
        ego = own.feature or model.nothing()
        received, poses, moment = self._received(clean, sweep, messages)
        examination = self._examination(clean, messages)
        detection = detect_layered(
            model.card,
            model.receiver,
            model.detect,
            ego,
            received,
            poses,
            moment,
            examination,
            self._motion(clean, messages),
        )
        milliseconds = (time.perf_counter() - started) * 1e3
        fused = len(detection.gate_weights) - 1
        return Outcome(detection, fused, own.milliseconds, milliseconds, detection.doubts)

    def _motion(self, clean: CleanFrame, messages: Sequence[ChunkedMessage]) -> Motion:
        return Motion(self._tracks, [message.agent for message in messages], _stamps(clean, messages))

    def _examination(self, clean: CleanFrame, messages: Sequence[ChunkedMessage]) -> Examination | None:
        if self._plausibility == 'none':
            return None
        names, judge = [str(message.agent) for message in messages], self._judge or Judge()
        return Examination(self.model.sender, judge, names, _stamps(clean, messages), self.model.card.grid)

    def remember(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[ChunkedMessage]) -> None:
        """Decode what arrived, for the tracks and, if the model has one, the memory."""
        received, poses, moment = self._received(clean, sweep, messages)
        self._motion(clean, messages).note(received, poses)
        if moment is not None:
            own = clean.of_points(clean.frame.ego, sweep, self.model.encode)
            self.model.receiver.remember(own.feature or self.model.nothing(), received, poses, moment)

    def _received(
        self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[ChunkedMessage]
    ) -> tuple[list[ReceivedMap], list[Matrix], Moment | None]:
        """What arrived of the neighbours' maps, the poses of all agents, and their places in the memory."""
        received = [self._unpacker.unpack(message.chunks) for message in messages]
        poses = [sweep.pose, *(message.pose for message in messages)]
        if not self.remembers:
            return received, poses, None
        agents = [clean.frame.ego, *(message.agent for message in messages)]
        return received, poses, Moment(self._memory, agents, _stamps(clean, messages))


def _stamps(clean: CleanFrame, messages: Sequence[ChunkedMessage]) -> list[int]:
    """Of the ego's sweep and of each neighbour's, nanoseconds."""
    return [clean.frame.stamp, *(message.stamp for message in messages)]
