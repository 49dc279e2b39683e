# SPDX-License-Identifier: Apache-2.0
"""The two worlds: what is drawn for a scene before anything is placed in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffkd_ros.sources.simulator.config import BASIC_LAYOUTS, BASIC_VEHICLES, Layout, SimulatorConfig
from diffkd_ros.sources.simulator.shapes import VARIED_CLASSES, VEHICLE_CLASSES, VehicleClass
from diffkd_ros.sources.simulator.surroundings import Style
from diffkd_ros.sources.simulator.traffic import Flow

_VARIED: dict[Layout, float] = {
    'four_way': 0.3, 't_junction': 0.15, 'bend': 0.1, 'straight': 0.25, 'car_park': 0.2,
}  # fmt: skip
_FAST = Flow((7.0, 16.0), (3.0, 20.0), 0.45)
_SLOW = Flow((2.0, 5.0), (3.0, 12.0), 0.3)
_QUEUE = Flow((1.0, 5.0), (0.0, 1.5), 0.3)
_QUEUES = 0.35  # share of the scenes with a queue


@dataclass(frozen=True, slots=True)
class Setting:
    """What kind of scene is drawn.

    Attributes:
        layout: of the roads.
        vehicles: in the scene, parked ones included.
        fewest: vehicles without which the scene is not used.
        driving: how many of them drive.
        classes: from which vehicles are drawn.
        flow: of the traffic.
        style: of the surroundings.
    """

    layout: Layout
    vehicles: int
    fewest: int
    driving: int
    classes: tuple[VehicleClass, ...]
    flow: Flow
    style: Style


def draw_layout(rng: np.random.Generator, config: SimulatorConfig) -> Layout:
    """Draw the layout of the roads."""
    weighted = config.layouts or (_VARIED if config.world == 'varied' else BASIC_LAYOUTS)
    layouts = sorted(weighted)
    weights = np.array([weighted[layout] for layout in layouts])
    return layouts[int(rng.choice(len(layouts), p=weights / weights.sum()))]


def draw_setting(rng: np.random.Generator, config: SimulatorConfig, layout: Layout) -> Setting:
    """Draw how full a scene is and what stands at its roads."""
    if config.world == 'basic':
        usual, share, flow, style = BASIC_VEHICLES, (0.45, 0.7), Flow(), Style()
    elif layout == 'straight':
        usual, share, flow, style = (40, 95), (0.7, 0.95), _FAST, Style(False, 0.25, 0.25, 0.75, 0.5)
    elif layout == 'car_park':
        usual, share, flow, style = (60, 110), (0.15, 0.3), _SLOW, Style(False, 0.05, 0.9, 0.9, 0.5)
    else:
        usual, share, flow, style = (45, 95), (0.4, 0.7), Flow(), Style(fences=0.5)
    if config.world == 'varied' and rng.random() < _QUEUES:
        flow, share = _QUEUE, (0.7, 0.95)
    low, high = config.vehicles or usual
    total = int(rng.integers(low, high + 1))
    classes = VEHICLE_CLASSES if config.world == 'basic' else VARIED_CLASSES
    return Setting(layout, total, low, round(total * rng.uniform(*share)), classes, flow, style)
