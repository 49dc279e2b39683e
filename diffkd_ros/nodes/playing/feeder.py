# SPDX-License-Identifier: Apache-2.0
"""Converts frames to messages ahead of time in a thread of its own, so that publishing keeps its rate."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from diffkd_ros.frame import CoopFrame
from diffkd_ros.messages.building import frame_messages, time_message
from diffkd_ros.messages.names import agent_name
from diffkd_ros.msg import Boxes3D
from diffkd_ros.sources.dataset import readable
from diffkd_ros.sources.restamping import restamped
from diffkd_ros.sources.source import Source

if TYPE_CHECKING:
    from diffkd_ros.sources.rosbag import RecordedFrame

_AHEAD = 6


@dataclass(frozen=True)
class PlayedFrame:
    """One frame as messages; clouds and ground truth that were recorded stay serialised.

    Attributes:
        stamp: of the ego's cloud, nanoseconds.
        scenario: that the frame belongs to.
        ego: name of the agent that fuses.
        stamps: of the clouds, by agent name.
        clouds: by agent name.
        odometry: by agent name, in order: one at the cloud's stamp, or those around it.
        ground_truth: in the ego's LiDAR frame, or None.
        left_out: as in `CoopFrame`.
    """

    stamp: int
    scenario: str
    ego: str
    stamps: dict[str, int]
    clouds: dict[str, PointCloud2 | bytes]
    odometry: dict[str, list[Odometry]]
    ground_truth: Boxes3D | bytes | None
    left_out: Mapping[str, int] = field(default_factory=dict)


def played(frame: CoopFrame) -> PlayedFrame:
    """A frame as messages."""
    messages = frame_messages(frame)
    return PlayedFrame(
        frame.stamp,
        frame.scenario,
        agent_name(frame.ego),
        dict.fromkeys(messages.clouds, frame.stamp),
        messages.clouds,
        {agent: [message] for agent, message in messages.odometry.items()},
        messages.ground_truth,
        frame.left_out,
    )


def replayed(frame: RecordedFrame) -> PlayedFrame:
    """The unchanged messages of a recorded frame."""
    clouds = {agent_name(agent): data for agent, data in frame.clouds.items()}
    return PlayedFrame(
        frame.stamp,
        'recorded',
        agent_name(frame.ego),
        {agent_name(agent): stamp for agent, stamp in frame.stamps.items()},
        clouds,
        {
            agent_name(agent): [deserialize_message(data, Odometry) for data in messages]
            for agent, messages in frame.odometry.items()
        },
        frame.ground_truth,
        frame.left_out,
    )


def stamped(frame: PlayedFrame, stamp: int) -> PlayedFrame:
    """A frame whose messages, none of them serialised, all get another stamp, nanoseconds; changes them."""
    messages = [*frame.clouds.values(), *itertools.chain.from_iterable(frame.odometry.values())]
    if frame.ground_truth is not None:
        messages.append(frame.ground_truth)
    for message in messages:
        message.header.stamp = time_message(stamp)
    return replace(frame, stamp=stamp, stamps=dict.fromkeys(frame.stamps, stamp))


def open_played(
    source: Source, start: int, ego: int, on_remark: Callable[[str], object] = lambda line: None
) -> Iterator[PlayedFrame]:
    """A source's frames as messages; a broken frame is left out, with a line in the log.

    Args:
        source: to play.
        start: stamp of the first frame, nanoseconds; what is from a bag keeps its stamps.
        ego: agent that fuses; 0: as the source says.
        on_remark: called with a line for everything that is wrong with a bag as a whole.

    Raises:
        DatasetError: if it cannot be opened.
    """
    if source.kind == 'bag':
        # Bags are read by what other sources can do without.
        from diffkd_ros.sources.rosbag import RosbagDataset

        dataset = RosbagDataset(source.paths, ego or None, **source.options)
        for stray in dataset.strays():
            on_remark(str(stray))
        frames_recorded = (readable(dataset.recorded, index) for index in range(len(dataset)))
        return (replayed(frame) for frame in frames_recorded if frame is not None)
    frames = restamped(source.frames(), start)
    return (played(replace(frame, ego=ego) if ego else frame) for frame in frames)


class FrameFeeder:
    """Iterates `PlayedFrame`s that a thread prepares a few frames ahead.

    Args:
        open_frames: opens the source; called in the thread.
        limit: stop after this many frames; 0 for no limit.
    """

    def __init__(self, open_frames: Callable[[], Iterable[PlayedFrame]], limit: int) -> None:
        self._open_frames, self._limit = open_frames, limit
        self._condition = threading.Condition()
        self._ready: deque[PlayedFrame] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name='frames', daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[PlayedFrame]:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._ready or self._ended)
                if not self._ready:
                    break
                frame = self._ready.popleft()
                self._condition.notify_all()
            yield frame
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the iteration and drop the prepared frames; returns at once.

        The thread ends after the frame that it prepares, which may take seconds while the simulator compiles.
        """
        with self._condition:
            self._ended = True
            self._ready.clear()
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            for frame in itertools.islice(self._open_frames(), self._limit or None):
                with self._condition:
                    self._condition.wait_for(lambda: self._ended or len(self._ready) < _AHEAD)
                    if self._ended:
                        return
                    self._ready.append(frame)
                    self._condition.notify_all()
        except Exception as error:  # raised by the iterator
            self._error = error
        finally:
            with self._condition:
                self._ended = True
                self._condition.notify_all()
