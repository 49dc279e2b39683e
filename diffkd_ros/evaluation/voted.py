# SPDX-License-Identifier: Apache-2.0
"""Late cooperation with a vote: the control that defences against lies are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.evaluation.cooperation import LateCooperation, Message, Outcome
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.frame import AgentSweep, Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes
from diffkd_ros.geometry.poses import inverse
from diffkd_ros.runtime.plausibility.view import SAME, overlapping

_VOTES = 2


class VotedCooperation(LateCooperation):
    """As late cooperation, without boxes that the ego does not find and fewer than two neighbours sent."""

    name = 'voted'

    def outcome(self, clean: CleanFrame, sweep: AgentSweep, messages: Sequence[Message[Boxes3D]]) -> Outcome:
        """Merge the ego's detections with those on which two agents agree."""
        alone = self._alone(clean, clean.frame.ego, sweep)
        merged = self._merged(alone, sweep, messages)
        boxes, own = merged.detection.boxes, alone.detection.boxes
        votes: NDArray[np.int64] = np.zeros(len(boxes), np.int64)
        for message in messages:
            sent = transform_boxes(inverse(sweep.pose) @ message.pose, message.content.boxes)
            votes += overlapping(boxes.boxes, sent, SAME)
        agreed = (votes >= _VOTES) | overlapping(boxes.boxes, own.boxes, SAME)
        return replace(merged, detection=replace(merged.detection, boxes=boxes[agreed]))
