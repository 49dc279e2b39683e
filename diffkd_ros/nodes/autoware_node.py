# SPDX-License-Identifier: Apache-2.0
"""Converts `detections` to Autoware's `DetectedObjects` on `objects`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import FrameError
from diffkd_ros.messages.reading import MessageError, boxes_of
from diffkd_ros.msg import Boxes3D
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.output.autoware import autoware_objects, detected_objects

try:
    from autoware_perception_msgs import msg as autoware_msgs
except ImportError:  # comes with Autoware
    autoware_msgs = None


@dataclass(frozen=True)
class AutowareParameters:
    """Parameters of `autoware_node`."""

    min_score: float = parameter(
        0.0, 'Detections with a lower score are dropped.', minimum=0.0, maximum=1.0, live=True
    )


class AutowareNode(entry.RunnableNode):
    """Converts each message on `detections` to one on `objects`."""

    def __init__(self) -> None:
        super().__init__('autoware_node')
        self._p = declare(self, AutowareParameters, self._adopt)
        if autoware_msgs is None:
            raise DiffkdError('autoware_node needs the package autoware_perception_msgs')
        self._publisher = self.create_publisher(autoware_msgs.DetectedObjects, 'objects', qos.RESULTS)
        self._subscription = self.create_subscription(Boxes3D, 'detections', self._convert, qos.RESULTS)

    def start(self) -> None:
        """Say that the node is ready, once an interruption closes it."""
        self.get_logger().info('ready')

    def _adopt(self, p: AutowareParameters) -> None:
        self._p = p

    def _convert(self, message: Boxes3D) -> None:
        try:
            boxes = boxes_of(message)
        except (MessageError, FrameError) as error:
            self.get_logger().warning(f'detections refused: {error}', throttle_duration_sec=5.0)
            return
        if boxes.scores is not None:
            boxes = boxes[boxes.scores >= self._p.min_score]
        objects = autoware_objects(boxes, message.class_names)
        self._publisher.publish(detected_objects(autoware_msgs, message.header, objects))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(AutowareNode, args)


if __name__ == '__main__':
    main()
