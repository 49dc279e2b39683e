# SPDX-License-Identifier: Apache-2.0
"""Writes frames and serialised messages to a rosbag2 (MCAP) without ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import TypesysError
from rosbags.typesys.store import Typestore

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import CoopFrame
from diffkd_ros.messages.building import frame_messages, make_from, transform_message
from diffkd_ros.messages.names import BOXES3D_TYPE, TRUTH_TOPIC
from diffkd_ros.sources.bag_files import message_types

_FOREVER = QosTime(9223372036, 854775807)
# `ros2 bag play` offers this; all our topics are reliable.
_RELIABLE = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    avoid_ros_namespace_conventions=False,
)
# Version 8 is read by Humble and everything after it.
_METADATA_VERSION: Literal[8] = 8


class BagError(DiffkdError):
    """A bag cannot be written."""


def serialised(frame: CoopFrame, types: Typestore) -> Iterator[tuple[str, str, bytes | memoryview]]:
    """Topic, type and CDR bytes of TF, odometry, clouds and, if known, the ground truth of a frame."""
    make = make_from(types.types)
    messages = frame_messages(frame, make)
    transforms = [
        transform_message(message.header, message.child_frame_id, sweep.pose, make)
        for message, sweep in zip(messages.odometry.values(), frame.agents.values(), strict=True)
    ]
    tf_type = 'tf2_msgs/msg/TFMessage'
    built = [('/tf', tf_type, make(tf_type, transforms=transforms))]
    for part, message_type, by_agent in (
        ('odometry', 'nav_msgs/msg/Odometry', messages.odometry),
        ('points', 'sensor_msgs/msg/PointCloud2', messages.clouds),
    ):
        built += [(f'/{agent}/{part}', message_type, message) for agent, message in by_agent.items()]
    if messages.ground_truth is not None:
        built.append((TRUTH_TOPIC, BOXES3D_TYPE, messages.ground_truth))
    for topic, message_type, message in built:
        yield topic, message_type, types.serialize_cdr(message, message_type)


class BagWriter:
    """Writes serialised messages to an MCAP bag; a context manager, or to be closed with `close`.

    Args:
        path: the bag's folder, which must not exist yet.

    Raises:
        BagError: if it exists or cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.types = message_types()
        self.counts: Counter[str] = Counter()
        self._path = path
        self._connections: dict[str, Connection] = {}
        try:
            # Not compressed: zstd saves only a fifth of a sweep, and takes as long as the encoder.
            self._writer = Writer(path, version=_METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
            # rosbags' own `McapWriter`, which can close a chunk before it is full.
            self._file: Any = self._writer.storage
        except (WriterError, OSError) as error:
            raise BagError(f'cannot write a bag to {path}: {error}') from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Finish the bag, or after an exception leave it without index and `metadata.yaml`."""
        if kind is None:
            self.close()
        else:
            self._file.bio.close()

    def write(self, topic: str, message_type: str, stamp: int, data: bytes | memoryview) -> None:
        """Write one serialised message.

        Args:
            topic: absolute name.
            message_type: as ``sensor_msgs/msg/PointCloud2``.
            stamp: when it was received, nanoseconds.
            data: CDR bytes.

        Raises:
            BagError: if it cannot be written.
        """
        try:
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(
                    topic, message_type, typestore=self.types, offered_qos_profiles=[_RELIABLE]
                )
            self._writer.write(self._connections[topic], stamp, data)
        except (WriterError, TypesysError, OSError) as error:
            raise BagError(f'writing {topic} to {self._path} failed: {error}') from error
        self.counts[topic] += 1

    def flush(self) -> None:
        """Write everything to the file, so that a reader that scans it finds it if this process is killed.

        Raises:
            BagError: if that fails.
        """
        try:
            if self._file.chunk.msgs:
                self._file.close_chunk()
            self._file.bio.flush()
        except OSError as error:
            raise BagError(f'writing {self._path} failed: {error}') from error

    def close(self) -> None:
        """Write the index and `metadata.yaml`.

        Raises:
            BagError: if that fails.
        """
        try:
            self._writer.close()
        except (WriterError, OSError) as error:
            raise BagError(f'finishing {self._path} failed: {error}') from error
