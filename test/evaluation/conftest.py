# SPDX-License-Identifier: Apache-2.0
"""The shipped model, and one simulated drive."""

from pathlib import Path

import pytest

from diffkd_ros.evaluation.cooperation import IntermediateCooperation
from diffkd_ros.evaluation.model import Model
from diffkd_ros.sources.simulator import Scenario, Simulator, SimulatorConfig

MODEL = Path(__file__).parents[2] / 'models' / 'sim_edge'


@pytest.fixture(scope='session')
def model_folder() -> Path:
    return MODEL


@pytest.fixture(scope='session')
def model() -> Model:
    return Model(MODEL)


@pytest.fixture(scope='session')
def intermediate(model: Model) -> IntermediateCooperation:
    return IntermediateCooperation(model)


@pytest.fixture(scope='session')
def drive() -> Scenario:
    return Simulator(SimulatorConfig(agents=2), 3).scenario(0)
