# SPDX-License-Identifier: Apache-2.0
"""Frames of any source as a rosbag2."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffkd_ros.bags.writer import BagError, BagWriter, serialised
from diffkd_ros.frame import CoopFrame
from diffkd_ros.sources.restamping import restamped

# Stamp of the first frame, nanoseconds. Not 0, which to ROS means that no time is known; and always the same,
# so that the same frames give the same messages.
_START = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Written:
    """What a bag got.

    Attributes:
        frames: of all drives.
        scenarios: drives, with a gap in time between them.
        agents: ids of all that took part.
        messages: on all topics.
    """

    frames: int
    scenarios: int
    agents: tuple[int, ...]
    messages: int


def write_bag(
    frames: Iterable[CoopFrame], path: Path, on_frame: Callable[[int], object] = lambda count: None
) -> Written:
    """Write frames as the topics a player would publish.

    They are `/cav_<n>/points` and `/cav_<n>/odometry` (road-side units: `/rsu_<n>/...`), `/ground_truth` in
    the ego's LiDAR frame where it is known, and `/tf`. Drives follow each other 10 s apart.

    Args:
        frames: drive after drive.
        path: folder of the bag, which must not exist yet.
        on_frame: called with the number of frames written so far.

    Raises:
        BagError: if there are no frames, the folder exists, or writing fails.
    """
    upcoming = iter(frames)
    first = next(upcoming, None)
    if first is None:
        raise BagError(f'nothing to write to {path}: the source has no frames')
    count = 0
    scenarios: set[str] = set()
    agents: set[int] = set()
    with BagWriter(path) as bag:
        for count, frame in enumerate(restamped(itertools.chain([first], upcoming), _START), start=1):
            for topic, message_type, data in serialised(frame, bag.types):
                bag.write(topic, message_type, frame.stamp, data)
            scenarios.add(frame.scenario)
            agents.update(frame.agents)
            on_frame(count)
    return Written(count, len(scenarios), tuple(sorted(agents)), bag.counts.total())
