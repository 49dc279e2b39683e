# SPDX-License-Identifier: Apache-2.0
"""Turns frames into messages ahead of time, in a thread of its own, so that making them disturbs no pace."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from nav_msgs.msg import Odometry
from sensor_msgs.msg import PointCloud2

from diffkd_ros.frame import CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.msg import Boxes3D
from diffkd_ros.nodes.conversions import NANOSECONDS, boxes_message, header_message, odometry_message
from diffkd_ros.nodes.point_cloud import cloud_message
from diffkd_ros.sources.ros_messages import agent_name

MAP_FRAME = 'map'
CLASS_NAMES = ['vehicle']
# Stamps jump by this much between drives, so that nothing of one drive is fused in the next.
SCENARIO_GAP = 10 * NANOSECONDS
_AHEAD = 6


@dataclass(frozen=True)
class PlayedFrame:
    """One frame as messages.

    Attributes:
        stamp: nanoseconds, as in all messages.
        ego: name of the agent that fuses.
        clouds: by agent name.
        odometry: by agent name.
        poses: map <- LiDAR by agent name.
        ground_truth: in the ego's LiDAR frame without the ego, or None.
    """

    stamp: int
    ego: str
    clouds: dict[str, PointCloud2]
    odometry: dict[str, Odometry]
    poses: dict[str, Matrix]
    ground_truth: Boxes3D | None


def lidar_frame(agent: str) -> str:
    """The frame of an agent's LiDAR."""
    return f'{agent}/lidar'


def restamped(frames: Iterable[CoopFrame], start: int) -> Iterator[CoopFrame]:
    """The same frames with stamps that increase from `start` on, also from one drive to the next."""
    first, origin, last = start, 0, start - SCENARIO_GAP
    scenario: str | None = None
    for frame in frames:
        if frame.scenario != scenario:
            scenario, origin, first = frame.scenario, frame.stamp, last + SCENARIO_GAP
        last = first + frame.stamp - origin
        yield replace(frame, stamp=last)


def played(frame: CoopFrame) -> PlayedFrame:
    """A frame as messages."""
    names = {agent: agent_name(agent) for agent in frame.agents}
    clouds, odometry = {}, {}
    for agent, sweep in frame.agents.items():
        name = names[agent]
        header = header_message(frame.stamp, lidar_frame(name))
        clouds[name] = cloud_message(header, sweep.points, sweep.ring, sweep.time)
        odometry[name] = odometry_message(
            header_message(frame.stamp, MAP_FRAME), lidar_frame(name), sweep.pose, sweep.velocity
        )
    truth = None
    if frame.ground_truth is not None:
        header = header_message(frame.stamp, lidar_frame(names[frame.ego]))
        truth = boxes_message(header, ground_truth_in(frame, frame.ego), CLASS_NAMES)
    poses = {names[agent]: sweep.pose for agent, sweep in frame.agents.items()}
    return PlayedFrame(frame.stamp, names[frame.ego], clouds, odometry, poses, truth)


class FrameFeeder:
    """Iterates `PlayedFrame`s that a thread prepares a few frames ahead.

    Args:
        open_frames: opens the source; called in the thread.
        start: stamp of the first frame, nanoseconds.
        limit: stop after this many frames; 0 for no limit.
        ego: agent that fuses; 0 for the source's own choice.
    """

    def __init__(
        self, open_frames: Callable[[], Iterable[CoopFrame]], start: int, limit: int, ego: int = 0
    ) -> None:
        self._open_frames = open_frames
        self._start, self._limit, self._ego = start, limit, ego
        self._queue: queue.Queue[PlayedFrame | Exception | None] = queue.Queue(_AHEAD)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name='frames', daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[PlayedFrame]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        """End the thread; frames already prepared are dropped."""
        self._stopping.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)

    def _run(self) -> None:
        try:
            frames = itertools.islice(self._open_frames(), self._limit or None)
            for frame in restamped(frames, self._start):
                self._queue.put(played(replace(frame, ego=self._ego) if self._ego else frame))
                if self._stopping.is_set():
                    return
            self._queue.put(None)
        except Exception as error:  # handed to whoever iterates
            self._queue.put(error)
