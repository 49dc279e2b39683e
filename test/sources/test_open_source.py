# SPDX-License-Identifier: Apache-2.0
"""Sources by name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffkd_ros.sources.source import SimulationOptions, SourceError, open_source


def test_the_simulator_goes_on_with_the_next_drive():
    options = SimulationOptions(seed=3, agents=2, rate=5.0, frames_per_scenario=2)
    frames = list(itertools.islice(open_source('sim', options), 5))
    assert [frame.index for frame in frames] == [0, 1, 0, 1, 0]
    assert len({frame.scenario for frame in frames}) == 3
    assert frames[1].stamp - frames[0].stamp == 200_000_000
    again = next(iter(open_source('sim', options)))
    np.testing.assert_array_equal(again.agents[2].points, frames[0].agents[2].points)


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ('carla', 'known are sim, opv2v, bag'),
        ('opv2v', 'needs a folder'),
        ('bag:/nowhere', '/nowhere'),
        ('sim:here', 'no folder'),
    ],
)
def test_bad_names(spec, message):
    with pytest.raises(SourceError, match=message):
        open_source(spec)


def test_a_rate_that_cannot_be_simulated_is_named():
    with pytest.raises(SourceError, match=r'^source sim: rate 30\.0: .* less than or equal to 20$'):
        open_source('sim', SimulationOptions(rate=30.0))
