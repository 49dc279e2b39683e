# SPDX-License-Identifier: Apache-2.0
"""Stamps of frames from several scenarios."""

from __future__ import annotations

import numpy as np

from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.sources.restamping import SCENARIO_GAP, restamped


def test_stamps_go_on_from_scenario_to_scenario():
    sweep = AgentSweep(np.ones((1, 4), np.float32), np.eye(4))
    frames = [
        CoopFrame({1: sweep}, 1, stamp, scenario=name)
        for name, stamp in (('a', 5), ('a', 8), ('b', 2), ('b', 3))
    ]
    stamps = [frame.stamp for frame in restamped(frames, 1000)]
    assert stamps == [1000, 1003, 1003 + SCENARIO_GAP, 1004 + SCENARIO_GAP]
