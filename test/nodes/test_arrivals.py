# SPDX-License-Identifier: Apache-2.0
"""What the player's thread waits for."""

import math

import numpy as np

from diffkd_ros.nodes.playing.arrivals import Arrivals


def test_an_answer_without_stages_is_one_too() -> None:
    """Anybody may publish there; the player goes on."""
    arrivals = Arrivals()
    arrivals.answer(1, np.array([2.5, 40.0], np.float32))
    arrivals.answer(2, np.zeros(0, np.float32))
    total, unknown = arrivals.wait_answers([1, 2], 0.0)
    assert total == 40.0
    assert math.isnan(unknown)
