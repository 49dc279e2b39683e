# SPDX-License-Identifier: Apache-2.0
"""Writes serialised ROS messages to a rosbag2 (MCAP) with `rosbags`: no rosbag2 needs to be installed."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from pathlib import Path
from typing import Literal

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
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diffkd_ros.share import PACKAGE_NAME, share_directory

_FOREVER = QosTime(9223372036, 854775807)
# What `ros2 bag play` offers when it plays the topic; every topic of ours is reliable.
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
# About 300 MB of sweeps, should the disk stall.
_QUEUED = 300


class BagError(RuntimeError):
    """A bag that cannot be written."""


def message_types() -> Typestore:
    """The standard message types and our own, from the .msg files installed with the package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted((share_directory() / 'msg').glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'{PACKAGE_NAME}/msg/{path.stem}'))
    return store


class BagWriter:
    """Takes messages from any thread and writes them in one of its own.

    Args:
        path: the bag's folder, which must not exist yet.

    Raises:
        BagError: if it exists or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._types = message_types()
        try:
            # Not compressed: a sweep shrinks by a fifth only, and zstd takes as much time as the encoder.
            self._writer = Writer(path, version=_METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise BagError(f'cannot write a bag to {path}: {error}') from error
        self._connections: dict[str, Connection] = {}
        self._queue: queue.Queue[tuple[str, str, int, bytes] | None] = queue.Queue(_QUEUED)
        self._error: Exception | None = None
        self.dropped = 0
        self.counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name='bag', daemon=True)
        self._thread.start()

    def write(self, topic: str, message_type: str, stamp: int, data: bytes) -> None:
        """Queue one serialised message; if the disk lags far behind it is dropped and counted.

        Args:
            topic: absolute name.
            message_type: as ``sensor_msgs/msg/PointCloud2``.
            stamp: when it was received, nanoseconds.
            data: CDR bytes.

        Raises:
            BagError: if an earlier message could not be written.
        """
        if self._error is not None:
            raise BagError(f'writing the bag failed: {self._error}') from self._error
        try:
            self._queue.put_nowait((topic, message_type, stamp, data))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, then the index and `metadata.yaml`.

        Raises:
            BagError: if that fails.
        """
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise BagError(f'writing the bag failed: {self._error}') from self._error

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                topic, message_type, stamp, data = item
                if topic not in self._connections:
                    self._connections[topic] = self._writer.add_connection(
                        topic, message_type, typestore=self._types, offered_qos_profiles=[_RELIABLE]
                    )
                self._writer.write(self._connections[topic], stamp, data)
                self.counts[topic] += 1
            self._writer.close()
        except Exception as error:  # raised again in the next call of write or close
            self._error = error
            while self._queue.get() is not None:
                self.dropped += 1
