# SPDX-License-Identifier: Apache-2.0
"""Cooperation by layered messages, which keep to a number of bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import LinkConditions
from diffkd_ros.evaluation.cooperation import Cooperation, Message, Outcome
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.frame import AgentSweep
from diffkd_ros.runtime.link.maps import MapCodes
from diffkd_ros.runtime.link.merging import merge_received
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.unpacking import Unpacker

BUDGET = 4000
"""Bytes of a message where no bandwidth is given: 0.32 Mbit/s at 10 Hz."""


class LayeredCooperation(Cooperation):
    """Neighbours send boxes and codes of their maps; the ego restores what did not arrive and fuses."""

    name = 'layered'
    map_conditions = False

    def message(
        self, clean: CleanFrame, agent: int, sweep: AgentSweep, link: LinkConditions
    ) -> Message[list[bytes]] | None:
        """The chunks of a sweep; None if no point lies in the grid."""
        codes = clean.of_points(agent, sweep, self._coded)
        if codes is None:
            return None
        budget = BUDGET if link.budget is None else int(link.budget)
        chunks = Packer(self.model.receiver.tables).pack(codes, budget)
        return Message(chunks, sweep.pose, sum(map(len, chunks)))

    def outcome(
        self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Message[list[bytes]]]
    ) -> Outcome:
        """Decode, restore, fuse, detect, and merge with the boxes that were sent."""
        if not messages:
            return self._alone(clean, clean.frame.ego, sweep)
        model, receiver = self.model, self.model.receiver
        own = clean.of_points(clean.frame.ego, sweep, model.encode)
        started = time.perf_counter()
        ego = own.feature or model.nothing()
        poses = [sweep.pose, *(message.pose for message in messages)]
        unpacker = Unpacker(receiver.tables)
        received = [unpacker.unpack(message.content) for message in messages]
        detection = model.detect([ego, *receiver.features(ego, received, poses)], poses)
        card = model.card
        boxes = merge_received(detection.boxes, received, poses, receiver.tables, card.grid, card.decoding)
        milliseconds = (time.perf_counter() - started) * 1e3
        return Outcome(replace(detection, boxes=boxes), len(messages), own.milliseconds, milliseconds)

    def _coded(self, points: NDArray[np.float32]) -> MapCodes | None:
        feature = self.model.encode(points).feature
        return None if feature is None else self.model.sender.code(feature)
