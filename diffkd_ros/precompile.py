# SPDX-License-Identifier: Apache-2.0
"""Compiles every function that Numba compiles, by calling it: `diffkd compile`."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.overlap import nms
from diffkd_ros.metrics.average_precision import DetectionOrder
from diffkd_ros.metrics.bootstrap import ScenarioBootstrap
from diffkd_ros.metrics.protocol import protocol_named
from diffkd_ros.metrics.scoring import score_frame
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig
from diffkd_ros.sources.simulator.config import DEFAULT_WORLD, World


def compile_all() -> None:
    """Compile what is not stored yet, on one core."""
    frames = {}
    for world in get_args(World):
        config = SimulatorConfig(world=world, agents=2, frames_per_scenario=2)
        frames[world] = Simulator(config, 0).scenario(0).frame(0)
    frame = frames[DEFAULT_WORLD]
    truth = ground_truth_in(frame, frame.ego)
    scores = np.ones(len(truth), np.float32)
    nms(truth.boxes, scores, 0.15)
    results = score_frame(frame, replace(truth, scores=scores), protocol_named('sim'))
    bootstrap = ScenarioBootstrap(results.scenarios, resamples=1)
    for order in DetectionOrder:
        bootstrap.average_precision(results, 0.5, order)
