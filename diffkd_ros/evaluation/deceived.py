# SPDX-License-Identifier: Apache-2.0
"""The ego of a scenario in which some of the neighbours lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diffkd_ros.attacks.liars import Liars
from diffkd_ros.attacks.statement import REPLAYED, Knowledge, Optimiser, Statement
from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.corruptions.randomness import generator
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.cooperation import Cooperation, Origin, Plausibility
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.evaluation.pipeline import HISTORY, Perceiver, Perception
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.metrics.deception import Judgement
from diffkd_ros.metrics.inference import MESSAGES_PER_SECOND
from diffkd_ros.nodes.link.places import Places, is_empty
from diffkd_ros.nodes.link.plausibility import in_place_of
from diffkd_ros.runtime.codec import PayloadError
from diffkd_ros.sources.source import Scenario

_REPLAYED_FRAMES = math.ceil(REPLAYED * MESSAGES_PER_SECOND)
ATTACK_HISTORY = max(HISTORY, _REPLAYED_FRAMES)
"""Frames before the first scored one, so that all attacks are measured on the same frames."""
_NEXT_NAME = 1_000_000
"""Distance of the ids of a liar's further names."""


class DeceivedPerceiver(Perceiver):
    """The ego of one scenario under one attack. Honest messages are those of clean frames, bit for bit.

    Neighbours are chosen as by the nodes. Each name is a participant of its own, as with several processes or
    with signatures, so that the names of one liar can take all places.

    Args:
        cooperation: by maps, layers or boxes.
        condition: with an attack.
        liars: of the condition.
        drive: opens the scenario.
        elsewhere: opens another scenario, with as many agents.
        budget: as for `Perceiver`.
        optimiser: for attacks by gradients.
        plausibility: as for `Perceiver`.
    """

    def __init__(
        self,
        cooperation: Cooperation,
        condition: Condition,
        liars: Liars,
        drive: Callable[[], Scenario],
        elsewhere: Callable[[], Scenario],
        budget: int | None = None,
        optimiser: Optimiser | None = None,
        plausibility: Plausibility = 'scenario',
    ) -> None:
        super().__init__(cooperation, condition, budget, plausibility)
        self._liars, self._drive, self._elsewhere = liars, drive, elsewhere
        self._optimiser, self._attack = optimiser, condition.lie
        self._owners: dict[int, int] = {}
        self._places = Places(cooperation.model.card.max_agents - 1, str.encode)
        self._refused: set[int] = set()

    def take(self, clean: CleanFrame) -> CoopFrame:
        """Sense a frame.

        Raises:
            CorruptionError: if the ego has another number of neighbours.
        """
        frame = clean.frame
        if len(frame.neighbours) != self._liars.neighbours:
            raise CorruptionError(f'{len(frame.neighbours)} neighbours, {self._liars} needs others')
        return frame

    def perceive(self, clean: CleanFrame, sensed: CoopFrame) -> Perception:
        """As of `Perceiver`. A liar whose message the ego refuses counts as taken for a liar."""
        perception = super().perceive(clean, sensed)
        judged: dict[int, bool] = dict.fromkeys(self._refused, True)
        for name, liar in perception.judgement.judged.items():
            if liar:
                self._places.damaged(str(name), sensed.stamp)
            agent = self._owners.get(name, name)
            judged[agent] = judged.get(agent, False) or liar
        return replace(perception, judgement=Judgement(self._among(sensed), judged))

    def _among(self, frame: CoopFrame) -> tuple[int, ...]:
        return self._liars.among(frame.neighbours, self._condition.seed, frame.scenario)

    def _statement(self, clean: CleanFrame, agent: int) -> Statement | None:
        return self._cooperation.statement(clean, agent, clean.frame.agents[agent])

    def _received(self, clean: CleanFrame, sensed: CoopFrame) -> dict[int, Any]:
        liars = self._among(sensed)
        self._refused.clear()
        poses = {str(agent): sensed.agents[agent].pose for agent in sensed.neighbours if agent not in liars}
        said: dict[int, Statement] = {}
        for agent in liars:
            lie = self._lie(clean, agent)
            if lie is not None and in_place_of(sensed.agents[sensed.ego].pose, lie.pose):
                self._refused.add(agent)
            elif lie is not None:
                for number in range(self._attack.names):
                    name = agent + number * _NEXT_NAME
                    self._owners[name], said[name] = agent, lie
                    poses[str(name)] = lie.pose

        crowded = len(poses) > self._cooperation.model.card.max_agents - 1

        def shared_by(name: str) -> Any:
            agent = int(name)
            if crowded and agent in said and _says_little(said[agent]):
                self._refused.add(self._owners[agent])
                return None
            if agent not in said:
                return self._message(clean, agent, sensed.agents[agent])
            return self._lying_message(clean, agent, said)

        choice = self._places.choose(sensed.stamp, sensed.agents[sensed.ego].pose, poses, shared_by)
        return dict(sorted((int(name), message) for name, message in choice.chosen.items()))

    def _lying_message(self, clean: CleanFrame, name: int, said: Mapping[int, Statement]) -> Any:
        """The message of a lie; None if nothing fits or the ego refuses it."""
        frame, owner = clean.frame, self._owners[name]
        honest = self._statement(clean, owner)
        assert honest is not None, 'a liar without a map says nothing'
        origin = Origin(name, frame.stamp)
        try:
            return self._cooperation.message_of(said[name], honest, origin, self._limits)
        except PayloadError:
            self._refused.add(owner)
            self._places.damaged(str(name), frame.stamp)
            return None

    def _lie(self, clean: CleanFrame, agent: int) -> Statement | None:
        honest, frame, attack = self._statement(clean, agent), clean.frame, self._attack
        if honest is None:
            return None
        draw = () if attack.steady else (frame.index,)
        others = [frame.ego, *(other for other in frame.neighbours if other != agent)]

        def statements() -> list[Statement]:
            ego, *each = (self._statement(clean, other) for other in others)
            return [] if ego is None else [ego, *(one for one in each if one is not None)]

        known = Knowledge(
            self._cooperation.model.card.grid,
            ground_truth_in(frame, agent).boxes,
            frame.agents[frame.ego].pose,
            generator(self._condition.seed, 'attack', frame.scenario, agent, *draw),
            statements,
            lambda: self._earlier(frame, agent),
            lambda: self._of_elsewhere(frame, agent),
            self._optimiser,
        )
        return attack.lie(honest, known)

    def _earlier(self, frame: CoopFrame, agent: int) -> Statement | None:
        """What the liar sensed `REPLAYED` before; None at the beginning of a drive."""
        if frame.index < _REPLAYED_FRAMES:
            return None
        return self._statement(CleanFrame(self._drive().frame(frame.index - _REPLAYED_FRAMES)), agent)

    def _of_elsewhere(self, frame: CoopFrame, agent: int) -> Statement | None:
        other = self._elsewhere().frame(frame.index)
        there = other.neighbours[frame.neighbours.index(agent)]
        return self._statement(CleanFrame(other), there)


def _says_little(said: Statement) -> bool:
    return not said.boxes and is_empty(said.bev)
