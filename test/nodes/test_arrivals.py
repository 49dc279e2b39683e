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
