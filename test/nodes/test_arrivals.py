# SPDX-License-Identifier: Apache-2.0
"""Arrivals that the player's thread waits for."""

import math

import numpy as np

from diffkd_ros.nodes.playing.arrivals import Arrivals


def test_an_answer_without_stages_counts() -> None:
    """Any node may publish on the topic; the player continues."""
    arrivals = Arrivals()
    arrivals.answer(1, np.array([2.5, 40.0], np.float32))
    arrivals.answer(2, np.zeros(0, np.float32))
    total, unknown = arrivals.wait_answers([1, 2], 0.0)
    assert total == 40.0
    assert math.isnan(unknown)


def test_a_feature_in_chunks_has_arrived_with_the_last_one() -> None:
    arrivals = Arrivals()
    for number in (2, 0, 0):
        arrivals.chunk('cav_2', 5, number, 3)
    arrivals.chunk('cav_2', 6, 1, 3)
    assert arrivals.wait_features({'cav_2': 5}, 0.0) == ['cav_2']
    arrivals.chunk('cav_2', 5, 1, 3)
    assert arrivals.wait_features({'cav_2': 5}, 0.0) == []
    assert arrivals.wait_features({'cav_2': 6}, 0.0) == ['cav_2']
