# SPDX-License-Identifier: Apache-2.0
"""Measurements by frame, where the frame is fetched late."""

import threading
import time
from types import SimpleNamespace

import numpy as np
from patience import PATIENCE

from diffkd_ros.cosim.sweeps import SweepCollector


def measurement(frame: int) -> SimpleNamespace:
    """What the CARLA client hands to a LiDAR's callback."""
    zero = SimpleNamespace(x=0.0, y=0.0, z=0.0, roll=0.0, yaw=0.0, pitch=0.0)
    points = np.full((2, 4), frame, '<f4')
    return SimpleNamespace(
        frame=frame, raw_data=points.tobytes(), transform=SimpleNamespace(location=zero, rotation=zero)
    )


def test_a_frame_that_was_dropped_is_not_waited_for() -> None:
    """A follower that falls far behind would otherwise wait its whole timeout for a sweep that has been."""
    collector = SweepCollector()
    for frame in range(1, 30):
        collector.add(1, measurement(frame))
    started = time.monotonic()
    assert collector.take(2, [1], PATIENCE) == {}
    assert time.monotonic() - started < PATIENCE / 2
    assert collector.passed(2, 1)
    found = collector.take(29, [1], PATIENCE)
    assert found[1].points[0, 0] == 29
    assert not collector.passed(29, 1)


def test_another_agents_later_sweep_does_not_end_the_wait() -> None:
    collector = SweepCollector()
    collector.add(2, measurement(6))
    timer = threading.Timer(0.3, collector.add, (1, measurement(5)))
    timer.start()
    found = collector.take(5, [1], PATIENCE)
    timer.join()
    assert set(found) == {1}
