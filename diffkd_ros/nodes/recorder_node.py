# SPDX-License-Identifier: Apache-2.0
"""Records topics to a rosbag2 in MCAP; replaces `ros2 bag record` where rosbag2 is not installed."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import rclpy
from rclpy.node import Node

from diffkd_ros.bags.writer import BagError
from diffkd_ros.msg import BevChunk, BevFeature
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.link_node import LinkParameters
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.base.subscription import InputSubscription, take_rest
from diffkd_ros.nodes.output.bag_thread import BagThread

if TYPE_CHECKING:
    # Not in Jazzy, where it is a plain dict.
    from rclpy.subscription import MessageInfo

# Seconds between two searches for topics that are not published yet.
_LOOK_PERIOD = 0.2
# Queue depth of each topic, messages: the recorder may lag while other processes are busy.
_DEPTH = 50
_DEPTHS = {BevChunk: qos.CHUNKS.depth}
# Only these are recorded from the V2X link's domain, and from there only.
_LINK_TYPES = tuple(f'diffkd_ros/msg/{each.__name__}' for each in (BevFeature, BevChunk))


@dataclass(frozen=True)
class RecorderParameters(LinkParameters):
    """Parameters of `recorder_node`."""

    out: str = parameter('bag', 'Folder of the bag to write, must not exist yet.')
    topics: tuple[str, ...] = parameter(
        ('/ground_truth',),
        'Topics to record: name:type (for example /tf:tf2_msgs/msg/TFMessage) is subscribed at once, a name '
        'without type as soon as the topic is published.',
    )


class RecorderNode(entry.RunnableNode):
    """Records serialised messages, subscribed with the reliability that their publishers offer."""

    def __init__(self) -> None:
        super().__init__('recorder_node')
        self._p = p = declare(self, RecorderParameters)
        self.open_link(p.v2x_domain)
        self._bag = BagThread(Path(p.out))
        self._waiting: set[str] = set()
        self._topics: set[str] = set()
        for topic in p.topics:
            name, given, message_type = topic.partition(':')
            self._topics.add(name)
            if given:
                self._record(name, message_type)
            else:
                self._waiting.add(name)
        self._look = self.create_timer(_LOOK_PERIOD, self._find_topics)
        self._progress = self.create_timer(5.0, self._report)

    def start(self) -> None:
        """Say that the node is ready, once an interruption closes it."""
        self.get_logger().info(f'ready: records {len(self._p.topics)} topics to {self._p.out}')

    def _find_topics(self) -> None:
        for node in self.nodes:
            for topic, types in node.get_topic_names_and_types():
                # Others can publish in the domain of the link, too.
                if topic in self._waiting and self._node_of(types[0]) is node:
                    self._waiting.discard(topic)
                    self._record(topic, types[0])

    def _node_of(self, message_type: str) -> Node:
        return self.link if message_type in _LINK_TYPES else self

    def _record(self, topic: str, message_type: str) -> None:
        try:
            message_class = _message_class(message_type)
        except (ImportError, AttributeError, ValueError):
            self.get_logger().error(f'{topic} is not recorded: no Python messages for {message_type!r}')
            return
        callback = functools.partial(self._on_message, topic, message_type)
        depth = _DEPTHS.get(message_class, _DEPTH)
        InputSubscription(
            self._node_of(message_type), message_class, topic, depth, 'auto', callback, raw=True
        )

    def _on_message(self, topic: str, message_type: str, data: bytes, info: MessageInfo) -> None:
        try:
            self._bag.write(topic, message_type, int(info['received_timestamp']) or time.time_ns(), data)
        except BagError as error:
            if not self.done.done():
                self.done.set_exception(error)

    def _report(self) -> None:
        self.log_progress(self._summary())

    def _summary(self) -> str:
        counts = self._bag.counts
        message = f'{counts.total()} messages'
        if self._bag.dropped:
            message += f', {self._bag.dropped} dropped: the disk is too slow'
        silent = {topic for topic in self._topics - self._waiting if not counts[topic]}
        if silent:
            message += f', no message on {", ".join(sorted(silent))}'
        if self._waiting:
            message += f', no publisher of {", ".join(sorted(self._waiting))}'
        return message

    def close(self) -> None:
        """Record what was published before the end, and finish the bag.

        Raises:
            BagError: if it is not complete, unless that has ended the node.
        """
        reported = self.done.done() and rclpy.ok()
        take_rest(each for node in self.nodes for each in node.subscriptions)
        try:
            self._bag.close()
        except BagError:
            if not reported:
                raise
        finally:
            self.log_last(self._summary())


def _message_class(name: str) -> type:
    """The message class of a type such as ``sensor_msgs/msg/PointCloud2``."""
    package, folder, message = name.split('/')
    return getattr(importlib.import_module(f'{package}.{folder}'), message)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(RecorderNode, args)


if __name__ == '__main__':
    main()
