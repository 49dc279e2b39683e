# SPDX-License-Identifier: Apache-2.0
"""Runs one frame: sense, corrupt, send, receive, detect, score, as the vehicles' nodes do.

A `Perceiver` runs one scenario under one condition. It takes the frames in order, because messages may be
late or lost in bursts, and a model may remember.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffkd_ros.corruptions import Link, corrupt_frame
from diffkd_ros.evaluation.conditions import EGO_ALONE, Condition
from diffkd_ros.evaluation.cooperation import Cooperation, Outcome, Plausibility
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.metrics.deception import Judgement
from diffkd_ros.metrics.frame_results import FrameResults, Inference
from diffkd_ros.metrics.protocol import Protocol
from diffkd_ros.metrics.scoring import score_frame
from diffkd_ros.runtime.detector import Detection
from diffkd_ros.runtime.link.memory import MOST_SWEEPS
from diffkd_ros.runtime.neighbours import choose_neighbours, choose_sweep

MAX_AGE = 0.5
"""Maximum age of a neighbour's message in seconds, the default of the nodes' parameter."""
HISTORY = math.ceil(MAX_AGE * 10.0)
"""Frames at 10 Hz within that age, whose messages may be fused with a scored one."""


@dataclass(frozen=True, slots=True)
class Perception:
    """Result of the ego for one frame.

    Attributes:
        detection: boxes and maps.
        fused: agents whose features were fused, the ego first: the order of the maps.
        observed: the frame as sensed, without the agents whose messages were not used.
        inference: figures of the inference, one row.
        judgement: who lied, and who was taken for a liar; empty where nothing judges.
    """

    detection: Detection
    fused: tuple[int, ...]
    observed: CoopFrame
    inference: Inference
    judgement: Judgement = field(default_factory=Judgement)


class Perceiver:
    """The ego of one scenario under one condition.

    Args:
        cooperation: the way to cooperate.
        condition: the corruption.
        budget: most bytes of a message, in addition to the condition's limits; None for the cooperation's.
        plausibility: see `Cooperation.begin`.
    """

    def __init__(
        self,
        cooperation: Cooperation,
        condition: Condition,
        budget: int | None = None,
        plausibility: Plausibility = 'sweep',
    ) -> None:
        self._cooperation = cooperation.begin(plausibility)
        # Whether the result depends on this frame only.
        self._follows = cooperation.follows and condition.needs_history
        self._single = not (plausibility == 'scenario' or cooperation.remembers or self._follows)
        self._condition = condition
        most = cooperation.budget if budget is None else budget
        self._limits = replace(condition.link, message_bytes=most)
        self._links: dict[int, Link[Any]] = {}
        self._sent: list[int] = []

    @property
    def history(self) -> int:
        """Number of frames before a scored one on which its result depends.

        The message in use may be `HISTORY` frames old, and what is remembered of its sender, a map or the
        boxes of late sweeps, precedes it by up to `MOST_SWEEPS`.
        """
        late = HISTORY if self._condition.needs_history else 0
        return late + (MOST_SWEEPS if self._cooperation.remembers or self._follows else 0)

    def take(self, clean: CleanFrame) -> CoopFrame:
        """Sense a frame and, over links, send the neighbours' messages; frames must come in order.

        Returns:
            The frame as sensed.

        Raises:
            CorruptionError: if the corruption cannot be applied to this frame.
        """
        condition, frame = self._condition, clean.frame
        if condition.over_links:
            self._sent = []
            for agent in frame.neighbours:
                message = self._message(clean, agent, frame.agents[agent])
                if message is not None:
                    self._sent.append(message.size)
                    self._link(frame.scenario, agent).send(frame.stamp, message)
            return frame
        if condition.reference:
            return frame
        return corrupt_frame(
            frame, condition.corruption, condition.severity, condition.seed, condition.who, condition.profile
        )

    def remember(self, clean: CleanFrame, sensed: CoopFrame) -> None:
        """Note a frame that was taken and is not scored, where later results depend on it."""
        if self._cooperation.remembers or self._follows:
            messages = list(self._received(clean, sensed).values())
            self._cooperation.remember(clean, sensed.agents[sensed.ego], messages)

    def perceive(self, clean: CleanFrame, sensed: CoopFrame) -> Perception:
        """Detect with what the ego has received of a frame that was taken."""
        messages = self._received(clean, sensed)
        sent = self._sent if self._condition.over_links else [m.size for m in messages.values()]
        ego = sensed.agents[sensed.ego]
        outcome = self._outcome(clean, ego, messages)
        doubts = dict(zip(messages, outcome.doubts or [None] * len(messages), strict=True))
        used = (sensed.ego, *(agent for agent, doubt in doubts.items() if doubt is None))
        # Those that wait for their examination are not judged yet.
        judged = {
            agent: doubt is not None
            for agent, doubt in doubts.items()
            if outcome.doubts and not (doubt is not None and doubt.waiting)
        }
        return Perception(
            outcome.detection,
            used[: 1 + outcome.fused],
            replace(sensed, agents={agent: sensed.agents[agent] for agent in used if agent in sensed.agents}),
            outcome.inference(sent),
            Judgement(judged=judged),
        )

    def _received(self, clean: CleanFrame, sensed: CoopFrame) -> dict[int, Any]:
        """The messages used, by sender, ascending."""
        if self._condition.corruption == EGO_ALONE:
            return {}
        ego_pose, max_agents = sensed.agents[sensed.ego].pose, self._cooperation.model.card.max_agents
        if self._condition.over_links:
            newest = {agent: self._newest(sensed, agent) for agent in sensed.neighbours}
            poses = {agent: message.pose for agent, message in newest.items() if message is not None}
            choice = choose_neighbours(ego_pose, poses, newest.get, max_agents)
        else:
            poses = {agent: sensed.agents[agent].pose for agent in sensed.neighbours}
            choice = choose_neighbours(
                ego_pose,
                poses,
                lambda agent: self._message(clean, agent, sensed.agents[agent]),
                max_agents,
            )
        return dict(sorted(choice.chosen.items()))

    def _newest(self, sensed: CoopFrame, agent: int) -> Any:
        """The message that is used of those that arrived from a neighbour; None if it is too old."""
        link, oldest = self._link(sensed.scenario, agent), sensed.stamp - round(MAX_AGE * 1e9)
        newest = (link.newest(sensed.stamp, with_base) for with_base in (True, False))
        chosen = choose_sweep(
            (arrival for arrival in newest if arrival is not None),
            oldest,
            lambda arrival: arrival.stamp,
            lambda arrival: self._cooperation.has_base(arrival.payload),
        )
        return None if chosen is None or chosen.stamp < oldest else chosen.payload

    def _message(self, clean: CleanFrame, agent: int, sweep: AgentSweep) -> Any:
        if sweep is clean.frame.agents[agent]:
            return clean.once(self._key(agent), lambda: self._make(clean, agent, sweep))
        return self._make(clean, agent, sweep)

    def _key(self, agent: int) -> Hashable:
        """Under which an agent's clean message is known to other conditions with the same limits."""
        return 'message', agent, self._limits.bits, self._limits.budget

    def _make(self, clean: CleanFrame, agent: int, sweep: AgentSweep) -> Any:
        return self._cooperation.message(clean, agent, sweep, self._limits)

    def _outcome(self, clean: CleanFrame, ego: AgentSweep, messages: dict[int, Any]) -> Outcome:
        def compute() -> Outcome:
            return self._cooperation.outcome(clean, ego, list(messages.values()))

        # Nothing was corrupted on which the result depends, so it equals that of other conditions.
        untouched = (
            self._single
            and ego is clean.frame.agents[clean.frame.ego]
            and all(message is clean.known(self._key(agent)) for agent, message in messages.items())
        )
        return clean.once(('outcome', *map(self._key, messages)), compute) if untouched else compute()

    def _link(self, scenario: str, agent: int) -> Link[Any]:
        if agent not in self._links:
            # The sender has kept to its limits before the message enters the link.
            conditions = replace(self._limits, bits=None, bandwidth=None, message_bytes=None)
            seed, has_base = self._condition.seed, self._cooperation.has_base
            self._links[agent] = Link(conditions, seed, scenario, agent, prefer=has_base)
        return self._links[agent]


def score(clean: CoopFrame, perception: Perception, protocol: Protocol) -> FrameResults:
    """Score against the truth of the clean frame; returns are counted in the sweeps that were used."""
    return score_frame(clean, perception.detection.boxes, protocol, perception.observed, perception.inference)


def needed_frames(positions: Sequence[int], history: int) -> Iterator[tuple[int, bool]]:
    """Positions to run in order, and whether each is scored, with `history` frames before each scored one."""
    for position in sorted({p - back for p in positions for back in range(history + 1) if p >= back}):
        yield position, position in positions
