# SPDX-License-Identifier: Apache-2.0
"""The stand-in for a CARLA server, as a process for the real CARLA client."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffkd_ros.cosim.testing.process import StandInProcess

if importlib.util.find_spec('rclpy') is not None:
    from ros_partner import Partner, domain, group, partner

    __all__ = ['Partner', 'domain', 'group', 'partner']


@pytest.fixture(scope='session')
def _server() -> Iterator[StandInProcess]:
    from diffkd_ros.cosim.testing.process import StandInProcess

    with StandInProcess() as server:
        yield server


@pytest.fixture
def empty(_server: StandInProcess) -> StandInProcess:
    """A server without vehicles, in its initial state."""
    _server.call('stand_in_clear')
    return _server
