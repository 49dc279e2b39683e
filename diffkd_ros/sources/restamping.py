# SPDX-License-Identifier: Apache-2.0
"""One time line for several scenarios."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from diffkd_ros.frame import CoopFrame

# Nanoseconds between scenarios, so that nothing of one scenario is fused in the next.
SCENARIO_GAP = 10_000_000_000
# The same in real time, in addition to the period. A recording is split where nothing is recorded for 1 s.
REALTIME_GAP = 1_200_000_000


def restamped(frames: Iterable[CoopFrame], start: int) -> Iterator[CoopFrame]:
    """The same frames with stamps that increase from `start`, also from one scenario to the next."""
    first, origin, last = start, 0, start - SCENARIO_GAP
    scenario: str | None = None
    for frame in frames:
        if frame.scenario != scenario:
            scenario, origin, first = frame.scenario, frame.stamp, last + SCENARIO_GAP
        last = first + frame.stamp - origin
        yield replace(frame, stamp=last)
