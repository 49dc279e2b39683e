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

from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.share import PACKAGE_NAME, share_directory
from diffkd_ros.sources.dataset import DatasetError


def message_types() -> Typestore:
    """The standard message types and those of this package, from its installed .msg files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted((share_directory() / 'msg').glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'{PACKAGE_NAME}/msg/{path.stem}'))
    return store


def open_bags(paths: Sequence[Path]) -> AnyReader:
    """Open one or several bags; their messages are read merged, in the order of recording.

    Bags without message definitions, as those of ROS 2 Humble, are read by the current ones.

    Args:
        paths: folders of bags, or their .mcap files.

    Raises:
        DatasetError: if one is missing or is not a bag.
    """
    for path in paths:
        if not path.exists():
            raise DatasetError(f'no bag at {path}')
    types = message_types()
    try:
        reader = AnyReader(list(paths), default_typestore=types)
        reader.open()
    except (AnyReaderError, ReaderError, OSError, AssertionError, struct.error) as error:
        raise DatasetError(f'{", ".join(map(str, paths))} is not a bag: {error}') from error
    return reader


def recorded_stamp(data: bytes) -> int:
    """The stamp, nanoseconds, of a serialised message that begins with a header."""
    # Four bytes of encapsulation, the second of which gives the byte order; then std_msgs/Header.
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return seconds * NANOSECONDS + nanoseconds
