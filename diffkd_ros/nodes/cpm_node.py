# SPDX-License-Identifier: Apache-2.0
"""Converts `detections` to ETSI Collective Perception Messages on `cpm`, to be sent by an ITS stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import FrameError
from diffkd_ros.messages.reading import MessageError, boxes_of, stamp_of
from diffkd_ros.msg import Boxes3D
from diffkd_ros.nodes.base import entry, qos
from diffkd_ros.nodes.base.parameters import declare, parameter
from diffkd_ros.nodes.input.pose_buffer import MissingPoseError
from diffkd_ros.nodes.input.pose_parameters import PoseParameters, pose_source_of
from diffkd_ros.nodes.output.cpm import MapOrigin, collective_perception, cpm_message

try:
    from etsi_its_cpm_ts_msgs import msg as cpm_msgs
except ImportError:  # apt install ros-<distribution>-etsi-its-cpm-ts-msgs
    cpm_msgs = None


@dataclass(frozen=True)
class CpmParameters(PoseParameters):
    """Parameters of `cpm_node`."""

    station_id: int = parameter(0, 'StationId of this vehicle.', minimum=0, maximum=2**32 - 1)
    latitude: float = parameter(
        0.0, "Latitude of the map frame's origin, degrees.", minimum=-90.0, maximum=90.0
    )
    longitude: float = parameter(
        0.0, "Longitude of the map frame's origin, degrees.", minimum=-180.0, maximum=180.0
    )
    altitude: float = parameter(
        0.0, "Altitude of the map frame's origin above the ellipsoid, m.", minimum=-1000.0, maximum=8000.0
    )
    min_score: float = parameter(
        0.0, 'Detections with a lower score are dropped.', minimum=0.0, maximum=1.0, live=True
    )


class CpmNode(entry.RunnableNode):
    """Converts each message on `detections` to one on `cpm`, with the pose of the LiDAR at its stamp."""

    def __init__(self) -> None:
        super().__init__('cpm_node')
        self._p = declare(self, CpmParameters, self._adopt)
        if cpm_msgs is None:
            raise DiffkdError('cpm_node needs the package etsi_its_cpm_ts_msgs')
        self._origin = MapOrigin(self._p.latitude, self._p.longitude, self._p.altitude)
        # Detections arrive long after their pose, and a callback must not wait.
        self._poses = pose_source_of(self, self._p, wait=0.0)
        self._poses.subscribe()
        self._publisher = self.create_publisher(cpm_msgs.CollectivePerceptionMessage, 'cpm', qos.RESULTS)
        self._subscription = self.create_subscription(Boxes3D, 'detections', self._convert, qos.RESULTS)

    def start(self) -> None:
        """Say that the node is ready, once an interruption closes it."""
        self.get_logger().info('ready')

    def _adopt(self, p: CpmParameters) -> None:
        self._p = p

    def _convert(self, message: Boxes3D) -> None:
        stamp = stamp_of(message.header)
        try:
            boxes = boxes_of(message)
            pose = self._poses.pose_at(stamp, message.header.frame_id).pose
        except (MessageError, FrameError, MissingPoseError) as error:
            self.get_logger().warning(f'detections refused: {error}', throttle_duration_sec=5.0)
            return
        if boxes.scores is not None:
            boxes = boxes[boxes.scores >= self._p.min_score]
        values = collective_perception(stamp, boxes, message.class_names, pose, self._origin)
        self._publisher.publish(cpm_message(cpm_msgs, self._p.station_id, values))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point."""
    entry.run(CpmNode, args)


if __name__ == '__main__':
    main()
