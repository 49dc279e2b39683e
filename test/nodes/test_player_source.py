# SPDX-License-Identifier: Apache-2.0
"""A real player plays the frames that its source names for every other part of the package."""

from __future__ import annotations

import numpy as np

from diffkd_ros.launching import graph
from diffkd_ros.sources.rosbag import RosbagDataset
from diffkd_ros.sources.source import Source


def test_the_player_plays_the_frames_that_are_evaluated(group, tmp_path):
    recorder = group.start(graph.recorder_spec([1, 2, 3], 1, str(tmp_path / 'bag')))
    group.wait_ready(120.0)
    # The seed in the source takes precedence over the parameter.
    playing = {'source': 'sim:8', 'seed': 5, 'mode': 'lockstep', 'frames': 2, 'timeout': 0.5}
    player = group.start(graph.player_spec(playing, recorded=True))
    assert player.wait(240.0), player.tail()
    assert player.returncode == 0, player.tail()
    group.stop([recorder, player], patience=60.0)
    scenario = Source('sim:8', scenarios=1, frames_per_scenario=2).scenario(0)
    frames = list(RosbagDataset(tmp_path / 'bag'))
    assert len(frames) == 2
    for position, frame in enumerate(frames):
        for agent, sweep in scenario.frame(position).agents.items():
            np.testing.assert_array_equal(frame.agents[agent].points, sweep.points)
