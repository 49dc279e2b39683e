# SPDX-License-Identifier: Apache-2.0
"""Opens rosbag2 files (MCAP or sqlite3) without ROS."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diffkd_ros.messages.names import BOXES3D_TYPE
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.sources.dataset import DatasetError

# A copy of msg/Boxes3D.msg, which is not part of a Python package.
BOXES3D_DEFINITION = """
std_msgs/Header header
string[] class_names
float32[] boxes
float32[] scores
uint8[] labels
int32[] track_ids
int32[] num_points
"""


def open_bags(paths: Sequence[Path], types: Typestore | None = None) -> AnyReader:
    """Open one or several bags; their messages are read merged, in the order of recording.

    Args:
        paths: folders of bags, or their .mcap files.
        types: for bags without message definitions, as those of ROS 2 Humble; default: the types in frames.

    Raises:
        DatasetError: if one is missing or is not a bag.
    """
    for path in paths:
        if not path.exists():
            raise DatasetError(f'no bag at {path}')
    try:
        reader = AnyReader(list(paths), default_typestore=types or _frame_types())
        reader.open()
    except (AnyReaderError, ReaderError, OSError, AssertionError, struct.error) as error:
        raise DatasetError(f'{", ".join(map(str, paths))} is not a bag: {error}') from error
    return reader


def _frame_types() -> Typestore:
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(BOXES3D_DEFINITION, BOXES3D_TYPE))
    return store


def recorded_stamp(data: bytes) -> int:
    """The stamp, nanoseconds, of a serialised message that begins with a header."""
    # Four bytes of encapsulation, the second of which gives the byte order; then std_msgs/Header.
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return seconds * NANOSECONDS + nanoseconds
