# SPDX-License-Identifier: Apache-2.0
"""Cooperation by layered messages, which keep to a number of bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import LinkConditions
from diffkd_ros.evaluation.cooperation import Cooperation, Outcome
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.frame import AgentSweep
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET, Packer
from diffkd_ros.runtime.link.unpacking import Unpacker

ENVELOPE = 200
"""Most bytes of the other fields of a `BevChunk`, which is sent for every chunk."""


@dataclass(frozen=True, slots=True)
class ChunkedMessage:
    """A `Message` whose content is the chunks of a sweep, in the field that a link may degrade.

    Attributes:
        chunks: in the order in which they are sent.
        size: bytes of all chunks, each with its `ENVELOPE`.
        first: the first chunk, as sent.
    """

    chunks: list[bytes]
    pose: NDArray[np.float64]
    size: int
    first: bytes


class LayeredCooperation(Cooperation):
    """Neighbours send boxes and codes of their maps; the ego restores what did not arrive and fuses.

    Raises:
        ModelError: if the model has no layered message.
    """

    name = 'layered'
    sends = 'chunks'
    budget = DEFAULT_BUDGET

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        tables = model.receiver.tables
        self._packer, self._unpacker = Packer(tables), Unpacker(tables)

    def message(
        self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions
    ) -> ChunkedMessage | None:
        """The chunks of a sweep; None if no point lies in the grid, or no chunk fits."""
        outgoing = clean.of_points(agent, sweep, self.model.prepare)
        if outgoing is None:
            return None
        budget = self.budget if link.budget is None else int(link.budget)
        chunks = self._packer.pack(outgoing, budget, ENVELOPE)
        size = sum(map(len, chunks)) + ENVELOPE * len(chunks)
        return ChunkedMessage(chunks, sweep.pose, size, chunks[0]) if chunks else None

    def has_base(self, message: ChunkedMessage) -> bool:
        """Returns whether the first chunk arrived."""
        return message.chunks[0] == message.first

    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[ChunkedMessage]) -> Outcome:
        """Decode, restore, fuse, detect, and merge with the boxes that were sent."""
        if not messages:
            return self._alone(clean, clean.frame.ego, sweep)
        model, receiver = self.model, self.model.receiver
        own = clean.of_points(clean.frame.ego, sweep, model.encode)
        started = time.perf_counter()
        ego = own.feature or model.nothing()
        poses = [sweep.pose, *(message.pose for message in messages)]
        received = [self._unpacker.unpack(message.chunks) for message in messages]
        detection = detect_layered(model.card, receiver, model.detect, ego, received, poses)
        milliseconds = (time.perf_counter() - started) * 1e3
        return Outcome(detection, len(messages), own.milliseconds, milliseconds)
