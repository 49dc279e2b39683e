# SPDX-License-Identifier: Apache-2.0
"""A frame as serialised ROS messages, made by `rosbags`: field for field what the player node publishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rosbags.typesys.store import Typestore

from diffkd_ros.frame import AgentSweep, Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.poses import quaternion_from_pose
from diffkd_ros.messages.point_cloud import packed
from diffkd_ros.messages.reading import (
    BOXES3D_TYPE,
    CLASS_NAMES,
    MAP_FRAME,
    TRUTH_TOPIC,
    agent_name,
    lidar_frame,
)

_SECOND = 1_000_000_000
_CLOUD = 'sensor_msgs/msg/PointCloud2'
_ODOMETRY = 'nav_msgs/msg/Odometry'
_TF = 'tf2_msgs/msg/TFMessage'


class Serialised(NamedTuple):
    """A message for `BagWriter.write`."""

    topic: str
    message_type: str
    data: bytes | memoryview


class FrameMessages:
    """Turns frames into messages.

    Args:
        types: the standard types and `diffkd_ros/Boxes3D`.
    """

    def __init__(self, types: Typestore) -> None:
        self._types = types

    def of(self, frame: CoopFrame) -> Iterator[Serialised]:
        """Poses, clouds and ground truth, if there is any, of a frame."""
        names = {agent: agent_name(agent) for agent in frame.agents}
        odometry = {
            agent: self._odometry(frame.stamp, lidar_frame(names[agent]), sweep)
            for agent, sweep in frame.agents.items()
        }
        yield self._serialised('/tf', _TF, self._transforms(odometry.values()))
        for agent in frame.agents:
            yield self._serialised(f'/{names[agent]}/odometry', _ODOMETRY, odometry[agent])
        for agent, sweep in frame.agents.items():
            cloud = self._cloud(self._header(frame.stamp, lidar_frame(names[agent])), sweep)
            yield self._serialised(f'/{names[agent]}/points', _CLOUD, cloud)
        if frame.ground_truth is not None:
            header = self._header(frame.stamp, lidar_frame(names[frame.ego]))
            truth = self._boxes(header, ground_truth_in(frame, frame.ego), CLASS_NAMES)
            yield self._serialised(TRUTH_TOPIC, BOXES3D_TYPE, truth)

    def _serialised(self, topic: str, message_type: str, message: object) -> Serialised:
        return Serialised(topic, message_type, self._types.serialize_cdr(message, message_type))

    def _make(self, message_type: str, /, **fields: Any) -> Any:
        return self._types.types[message_type](**fields)

    def _header(self, stamp: int, frame_id: str) -> Any:
        time = self._make('builtin_interfaces/msg/Time', sec=stamp // _SECOND, nanosec=stamp % _SECOND)
        return self._make('std_msgs/msg/Header', stamp=time, frame_id=frame_id)

    def _vector(self, xyz: Iterable[float], kind: str = 'Vector3') -> Any:
        x, y, z = map(float, xyz)
        return self._make(f'geometry_msgs/msg/{kind}', x=x, y=y, z=z)

    def _odometry(self, stamp: int, child: str, sweep: AgentSweep) -> Any:
        x, y, z, w = map(float, quaternion_from_pose(sweep.pose))
        pose = self._make(
            'geometry_msgs/msg/Pose',
            position=self._vector(sweep.pose[:3, 3], 'Point'),
            orientation=self._make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w),
        )
        velocity, covariance = np.zeros(3), np.zeros(36)
        if sweep.velocity is None:
            covariance[0] = -1.0
        else:
            velocity = sweep.pose[:3, :3].T @ sweep.velocity
        twist = self._make(
            'geometry_msgs/msg/Twist', linear=self._vector(velocity), angular=self._vector((0, 0, 0))
        )
        return self._make(
            _ODOMETRY,
            header=self._header(stamp, MAP_FRAME),
            child_frame_id=child,
            pose=self._make('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=np.zeros(36)),
            twist=self._make('geometry_msgs/msg/TwistWithCovariance', twist=twist, covariance=covariance),
        )

    def _transforms(self, odometry: Iterable[Any]) -> Any:
        transforms = []
        for message in odometry:
            p = message.pose.pose.position
            transform = self._make(
                'geometry_msgs/msg/Transform',
                translation=self._vector((p.x, p.y, p.z)),
                rotation=message.pose.pose.orientation,
            )
            transforms.append(
                self._make(
                    'geometry_msgs/msg/TransformStamped',
                    header=message.header,
                    child_frame_id=message.child_frame_id,
                    transform=transform,
                )
            )
        return self._make(_TF, transforms=transforms)

    def _cloud(self, header: Any, sweep: AgentSweep) -> Any:
        rows, layout = packed(sweep.points, sweep.ring, sweep.time)
        return self._make(
            _CLOUD,
            header=header,
            height=1,
            width=len(rows),
            fields=[
                self._make('sensor_msgs/msg/PointField', name=name, offset=at, datatype=kind, count=1)
                for name, at, kind in layout
            ],
            is_bigendian=False,
            point_step=rows.itemsize,
            row_step=rows.nbytes,
            data=rows.view(np.uint8).reshape(-1),
            is_dense=True,
        )

    def _boxes(self, header: Any, boxes: Boxes3D, class_names: Sequence[str]) -> Any:
        def column(values: Any, kind: type) -> Any:
            return np.zeros(0, kind) if values is None else values.astype(kind)

        return self._make(
            BOXES3D_TYPE,
            header=header,
            class_names=list(class_names),
            boxes=boxes.boxes.astype(np.float32).reshape(-1),
            scores=column(boxes.scores, np.float32),
            labels=boxes.labels.astype(np.uint8),
            track_ids=column(boxes.track_ids, np.int32),
            num_points=column(boxes.num_points, np.int32),
        )
