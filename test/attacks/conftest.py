# SPDX-License-Identifier: Apache-2.0
"""A simulated frame with two neighbours, and what one of them says of it with the shipped model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffkd_ros.attacks.statement import Knowledge, Statement
from diffkd_ros.evaluation.model import Model
from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

LIAR = 2


@pytest.fixture(scope='session')
def frame() -> CoopFrame:
    return Simulator(SimulatorConfig(agents=3), 3).scenario(0).frame(20)


@pytest.fixture(scope='session')
def network(shipped_model: Path) -> Model:
    return Model(shipped_model)


@pytest.fixture(scope='session')
def say(frame: CoopFrame, network: Model) -> Callable[[int], Statement]:
    """What an agent says honestly."""

    def statement(agent: int) -> Statement:
        sweep = frame.agents[agent]
        bev = network.encode(sweep.points).feature
        assert bev is not None
        return Statement(bev, network.sender.prepare(bev).boxes, sweep.pose)

    return statement


@pytest.fixture(scope='session')
def honest(say: Callable[[int], Statement]) -> Statement:
    """The statement of the liar; changed in place, the test of that fails."""
    said = say(LIAR)
    for array in (said.bev.feature, said.bev.density, said.pose):
        array.setflags(write=False)
    return said


@pytest.fixture
def knowledge(
    frame: CoopFrame, network: Model, say: Callable[[int], Statement]
) -> Callable[[int], Knowledge]:
    """What the liar knows, by seed."""

    def known(seed: int) -> Knowledge:
        return Knowledge(
            network.card.grid,
            ground_truth_in(frame, LIAR).boxes,
            frame.agents[frame.ego].pose,
            np.random.default_rng(seed),
            lambda: [say(frame.ego)],
            lambda: say(3),
            lambda: say(3),
        )

    return known
