# SPDX-License-Identifier: Apache-2.0
"""Building messages, of rclpy's classes or of those of a type store of `rosbags`."""

from __future__ import annotations

import array
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.clouds import DATATYPES, create_cloud
from diffkd_ros.messages.names import BOXES3D_TYPE, CLASS_NAMES, MAP_FRAME, agent_name, lidar_frame
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.messages.rotations import quaternion_from_matrix


def fill(target: array.array | NDArray, values: ArrayLike) -> None:
    """Fill a numeric sequence of one of rclpy's messages in place; one of variable length must be empty.

    Assigning an ndarray to such a field copies element by element, seconds per megabyte of bytes.
    """
    if isinstance(target, array.array):
        flat = np.ascontiguousarray(values, np.dtype(target.typecode)).reshape(-1)
        target.frombytes(flat.view(np.uint8).data)
    else:
        target[:] = values


# Makes a message from its type, as ``sensor_msgs/msg/PointCloud2``, and all its fields; numeric sequences are
# ndarrays of the field's type.
Make = Callable[..., Any]


@functools.cache
def _ros_class(message_type: str) -> Any:
    package, _, name = message_type.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


def make_ros(message_type: str, /, **fields: Any) -> Any:
    """Make a message of rclpy's class, which is imported when it is first needed."""
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    message = _ros_class(message_type)(**{n: value for n, value in fields.items() if n not in arrays})
    for name, values in arrays.items():
        fill(getattr(message, name), values)
    return message


def make_from(types: Mapping[str, Callable[..., Any]]) -> Make:
    """Make messages of the classes in a type store of `rosbags`, given as its `types`."""
    return lambda message_type, /, **fields: types[message_type](**fields)


def time_message(stamp: int, make: Make = make_ros) -> Any:
    """Nanoseconds as `builtin_interfaces/Time`."""
    return make('builtin_interfaces/msg/Time', sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def header_message(stamp: int, frame_id: str, make: Make = make_ros) -> Any:
    """A `std_msgs/Header` from a stamp in nanoseconds and a frame."""
    return make('std_msgs/msg/Header', stamp=time_message(stamp, make), frame_id=frame_id)


def _vector(xyz: NDArray[np.float64], kind: str, make: Make) -> Any:
    x, y, z = map(float, xyz)
    return make(f'geometry_msgs/msg/{kind}', x=x, y=y, z=z)


def _quaternion(pose: Matrix, make: Make) -> Any:
    x, y, z, w = map(float, quaternion_from_matrix(pose))
    return make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)


def pose_message(pose: Matrix, make: Make = make_ros) -> Any:
    """A (4, 4) transform as `geometry_msgs/Pose`."""
    return make(
        'geometry_msgs/msg/Pose',
        position=_vector(pose[:3, 3], 'Point', make),
        orientation=_quaternion(pose, make),
    )


def transform_message(header: Any, child_frame_id: str, pose: Matrix, make: Make = make_ros) -> Any:
    """A (4, 4) transform header.frame_id <- child_frame_id as `geometry_msgs/TransformStamped`."""
    transform = make(
        'geometry_msgs/msg/Transform',
        translation=_vector(pose[:3, 3], 'Vector3', make),
        rotation=_quaternion(pose, make),
    )
    return make(
        'geometry_msgs/msg/TransformStamped',
        header=header,
        child_frame_id=child_frame_id,
        transform=transform,
    )


def _twist(linear: NDArray[np.float64], first_covariance: float, make: Make) -> Any:
    twist = make(
        'geometry_msgs/msg/Twist',
        linear=_vector(linear, 'Vector3', make),
        angular=_vector(np.zeros(3), 'Vector3', make),
    )
    covariance = np.zeros(36)
    covariance[0] = first_covariance
    return make('geometry_msgs/msg/TwistWithCovariance', twist=twist, covariance=covariance)


def _unknown_twist(make: Make) -> Any:
    return _twist(np.zeros(3), -1.0, make)


def stamped_as_odometry(stamped: Any, child_frame_id: str, make: Make = make_ros) -> Any:
    """A `geometry_msgs/PoseStamped` or `PoseWithCovarianceStamped` as `nav_msgs/Odometry`.

    Its twist, and the covariance that the former lacks, are unknown.
    """
    pose = stamped.pose
    if not hasattr(pose, 'covariance'):
        pose = make('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=np.zeros(36))
    return make(
        'nav_msgs/msg/Odometry',
        header=stamped.header,
        child_frame_id=child_frame_id,
        pose=pose,
        twist=_unknown_twist(make),
    )


def odometry_message(
    header: Any,
    lidar_frame: str,
    pose: Matrix,
    velocity: NDArray[np.float64] | None,
    make: Make = make_ros,
) -> Any:
    """A LiDAR's pose and velocity as `nav_msgs/Odometry`.

    Args:
        header: stamp and map frame.
        lidar_frame: the child frame, in which the twist is given.
        pose: (4, 4) map <- LiDAR.
        velocity: (3,) metres per second in the map frame; if None, twist.covariance[0] is -1 (unknown).
        make: makes messages.
    """
    return make(
        'nav_msgs/msg/Odometry',
        header=header,
        child_frame_id=lidar_frame,
        pose=make(
            'geometry_msgs/msg/PoseWithCovariance', pose=pose_message(pose, make), covariance=np.zeros(36)
        ),
        twist=_unknown_twist(make) if velocity is None else _twist(pose[:3, :3].T @ velocity, 0.0, make),
    )


def cloud_message(
    header: Any,
    points: NDArray[np.float32],
    ring: NDArray[np.uint16] | None = None,
    time: NDArray[np.float32] | None = None,
    make: Make = make_ros,
) -> Any:
    """An unorganised, packed `sensor_msgs/PointCloud2`: x, y, z, intensity and, if given, ring and time.

    Args:
        header: stamp and LiDAR frame.
        points: (n, 4) x, y, z in metres, intensity in [0, 1].
        ring: (n,) laser index.
        time: (n,) seconds relative to the stamp.
        make: makes messages.
    """
    columns: list[tuple[str, str, NDArray]] = [
        (name, 'float32', points[:, i]) for i, name in enumerate(('x', 'y', 'z', 'intensity'))
    ]
    if ring is not None:
        columns.append(('ring', 'uint16', ring))
    if time is not None:
        columns.append(('time', 'float32', time))
    rows = np.empty(len(points), [(name, datatype) for name, datatype, _ in columns])
    numbers = {name: number for number, name in DATATYPES.items()}
    fields, offset = [], 0
    for name, datatype, column in columns:
        rows[name] = column
        fields.append(
            make('sensor_msgs/msg/PointField', name=name, offset=offset, datatype=numbers[datatype], count=1)
        )
        offset += rows[name].itemsize
    if create_cloud is not None and make is make_ros:
        message = create_cloud(header, fields, rows)
        message.is_dense = True
        return message
    return make(
        'sensor_msgs/msg/PointCloud2',
        header=header,
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=False,
        point_step=rows.itemsize,
        row_step=rows.nbytes,
        data=rows.view(np.uint8),
        is_dense=True,
    )


def boxes_message(header: Any, boxes: Boxes3D, class_names: Sequence[str], make: Make = make_ros) -> Any:
    """Boxes as `diffkd_ros/Boxes3D`; columns that the boxes do not have are empty."""

    def column(values: NDArray | None, kind: type) -> NDArray:
        return np.zeros(0, kind) if values is None else values.astype(kind).reshape(-1)

    return make(
        BOXES3D_TYPE,
        header=header,
        class_names=list(class_names),
        boxes=column(boxes.boxes, np.float32),
        scores=column(boxes.scores, np.float32),
        labels=column(boxes.labels, np.uint8),
        track_ids=column(boxes.track_ids, np.int32),
        num_points=column(boxes.num_points, np.int32),
    )


@dataclass(frozen=True, slots=True)
class FrameMessages:
    """The messages of a frame.

    Attributes:
        clouds: `sensor_msgs/PointCloud2` by agent name.
        odometry: `nav_msgs/Odometry` by agent name.
        ground_truth: `diffkd_ros/Boxes3D` in the ego's LiDAR frame, with the ego's own box, or None.
    """

    clouds: dict[str, Any]
    odometry: dict[str, Any]
    ground_truth: Any | None


def frame_messages(frame: CoopFrame, make: Make = make_ros) -> FrameMessages:
    """Build the messages of a frame."""
    clouds, odometry = {}, {}
    for agent, sweep in frame.agents.items():
        name = agent_name(agent)
        header = header_message(frame.stamp, lidar_frame(name), make)
        clouds[name] = cloud_message(header, sweep.points, sweep.ring, sweep.time, make)
        header = header_message(frame.stamp, MAP_FRAME, make)
        odometry[name] = odometry_message(header, lidar_frame(name), sweep.pose, sweep.velocity, make)
    truth = None
    if frame.ground_truth is not None:
        header = header_message(frame.stamp, lidar_frame(agent_name(frame.ego)), make)
        truth = boxes_message(header, ground_truth_in(frame, frame.ego, own=True), CLASS_NAMES, make)
    return FrameMessages(clouds, odometry, truth)
