# SPDX-License-Identifier: Apache-2.0
"""The shipped model without its layered message, and one simulated drive."""

from pathlib import Path

import pytest

from diffkd_ros.evaluation.cooperation import IntermediateCooperation
from diffkd_ros.evaluation.model import Model
from diffkd_ros.sources.simulator import Scenario, Simulator, SimulatorConfig


@pytest.fixture(scope='session')
def model_folder(whole_map_model: Path) -> Path:
    return whole_map_model


@pytest.fixture(scope='session')
def model(whole_map_model: Path) -> Model:
    return Model(whole_map_model)


@pytest.fixture(scope='session')
def intermediate(model: Model) -> IntermediateCooperation:
    return IntermediateCooperation(model)


@pytest.fixture(scope='session')
def drive() -> Scenario:
    return Simulator(SimulatorConfig(agents=2), 3).scenario(0)
