# SPDX-License-Identifier: Apache-2.0
"""A seeded simulator of cooperative LiDAR perception in road traffic."""

from diffkd_ros.sources.simulator.config import LidarConfig, SimulatorConfig
from diffkd_ros.sources.simulator.scenario import TRUTH_RANGE, Scenario, Simulator, scenario_name

__all__ = ['TRUTH_RANGE', 'LidarConfig', 'Scenario', 'Simulator', 'SimulatorConfig', 'scenario_name']
