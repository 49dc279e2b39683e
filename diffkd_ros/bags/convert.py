# SPDX-License-Identifier: Apache-2.0
"""Writes the frames of any source as a rosbag2 or in the layout of OPV2V."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diffkd_ros.bags.writer import BagError, BagWriter, serialised
from diffkd_ros.files import whole_folder
from diffkd_ros.frame import CoopFrame
from diffkd_ros.sources.opv2v import write_opv2v
from diffkd_ros.sources.restamping import restamped

# Stamp of the first frame, nanoseconds: not 0, which in ROS means an unknown time, and a constant, so that
# the same frames give the same messages.
_START = 1_000_000_000


@dataclass(slots=True)
class Written:
    """What was written: the number of frames, names of the scenarios, ids of all agents, and what the source
    left out, by reason, with counts.
    """

    frames: int = 0
    scenarios: set[str] = field(default_factory=set)
    agents: set[int] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)


def write_bag(frames: Iterable[CoopFrame], path: Path) -> None:
    """Write frames as the topics that a player would publish.

    They are `/cav_<n>/points` and `/cav_<n>/odometry` (road-side units: `/rsu_<n>/...`), `/ground_truth` in
    the ego's LiDAR frame if it is known, and `/tf`. Scenarios follow each other 10 s apart.

    Args:
        frames: one scenario after the other.
        path: folder of the bag, which must not exist yet.

    Raises:
        BagError: if the folder exists, or writing fails.
    """
    with BagWriter(path) as bag:
        for frame in restamped(frames, _START):
            for topic, message_type, data in serialised(frame, bag.types):
                bag.write(topic, message_type, frame.stamp, data)


_WRITERS: dict[str, Callable[[Iterable[CoopFrame], Path], None]] = {'bag': write_bag, 'opv2v': write_opv2v}


def convert(
    frames: Iterable[CoopFrame],
    path: Path,
    to: str = 'bag',
    on_frame: Callable[[int], object] = lambda count: None,
) -> Written:
    """Write frames to a new folder.

    Args:
        frames: one scenario after the other.
        path: folder, which must not exist yet.
        to: `bag` or `opv2v`.
        on_frame: called with the number of frames written so far.

    Raises:
        BagError: if there are no frames, the folder exists, or writing fails.
        DatasetError: if the layout of OPV2V cannot hold a frame.
    """
    if path.exists():
        raise BagError(f'cannot write to {path}: it exists already')
    upcoming = iter(frames)
    first = next(upcoming, None)
    if first is None:
        raise BagError(f'nothing to write to {path}: the source has no frames')
    written = Written()

    def counted() -> Iterator[CoopFrame]:
        for frame in itertools.chain([first], upcoming):
            yield frame
            written.frames += 1
            written.scenarios.add(frame.scenario)
            written.agents.update(frame.agents)
            written.left_out.update(frame.left_out)
            on_frame(written.frames)

    try:
        with whole_folder(path) as unfinished:
            _WRITERS[to](counted(), unfinished)
    except OSError as error:
        raise BagError(f'writing {path} failed: {error}') from error
    return written
