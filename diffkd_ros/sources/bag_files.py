# SPDX-License-Identifier: Apache-2.0
"""Opens rosbag2 recordings (MCAP or sqlite3) without ROS, also unfinished and damaged ones.

A message definition is read when a message of its type is, so one that cannot be parsed costs nothing else.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diffkd_ros.documents import read_yaml
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.share import PACKAGE_NAME, share_directory
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.mcap_file import McapFile

_STORED = ('.mcap', '.db3')


def message_types() -> Typestore:
    """The standard message types and those of this package, from its installed .msg files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted((share_directory() / 'msg').glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'{PACKAGE_NAME}/msg/{path.stem}'))
    return store


# Making the code of the types takes longer than opening a bag.
_current_types = cache(message_types)


@lru_cache(maxsize=64)
def _defined_types(message_type: str, definition: str) -> Typestore | None:
    """The types in a definition; None if it cannot be parsed."""
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(definition, message_type))
    except Exception:  # whatever the text leads to
        return None
    return store


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic in one file of a recording.

    Attributes:
        bag: the path that was opened, which may have several files.
        file: number of the file, over all bags.
        id: of the channel in the file.
        topic: absolute name.
        message_type: as ``sensor_msgs/msg/PointCloud2``.
        definition: of the message type, in the format of .msg files; empty if unknown.
    """

    bag: Path
    file: int
    id: int
    topic: str
    message_type: str
    definition: str


class _Rosbag:
    """A file, or a folder of a compressed bag, read by `rosbags`; the interface is that of `McapFile`."""

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        self._reader.open()
        self.connections: dict[int, Connection] = {c.id: c for c in self._reader.connections}
        self.damage = ''
        log = path.with_name(f'{path.name}-wal')
        if log.exists() and log.stat().st_size:
            self.damage = f'messages in {log.name} are not read; opening the file with sqlite3 adds them'

    def close(self) -> None:
        self._reader.close()

    def messages(
        self, channels: Collection[int], start: float, stop: float
    ) -> Iterator[tuple[int, int, bytes]]:
        chosen = [self.connections[number] for number in channels]
        # `rosbags` takes an empty selection for all, and 64-bit integers for times.
        first, last = (None if math.isinf(limit) else int(limit) for limit in (start, stop))
        try:
            for connection, logged, data in self._reader.messages(chosen, first, last) if chosen else ():
                # A column of sqlite can hold any type.
                if isinstance(logged, int) and isinstance(data, bytes):
                    yield connection.id, logged, data
                else:
                    self.damage = 'a time is not an integer, or a message not bytes'
        except Exception as error:  # whatever the bytes lead to
            self.damage = f'reading stopped at an error: {error}'


class Recording:
    """The messages of one or several bags.

    Attributes:
        name: of the bags, for messages to the user.
        channels: all topics of all files.
        types: the current message types, for messages without a definition of their own.

    Args:
        paths: bags as of `open_bags`.

    Raises:
        DatasetError: as `open_bags`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.name = ', '.join(map(str, paths))
        self.channels: list[Channel] = []
        self._remarks: list[str] = []
        self._files: list[tuple[Path, McapFile | _Rosbag]] = []
        self.types = _current_types()
        try:
            for path in paths:
                self._open(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all files."""
        for _, file in self._files:
            file.close()

    @property
    def remarks(self) -> list[str]:
        """A line for everything that is missing in the bags; complete once all messages were read."""
        return self._remarks + [f'{path}: {file.damage}' for path, file in self._files if file.damage]

    def _open(self, bag: Path) -> None:
        if not bag.exists():
            raise DatasetError(f'no bag at {bag}')
        if bag.suffix == '.bag' and not bag.is_dir():
            raise DatasetError(
                f'{bag} is a bag of ROS 1: `rosbags-convert --src {bag} --dst {bag.stem}` converts it'
            )
        problems = []
        for path in self._stored(bag):
            try:
                file = McapFile(path) if path.suffix == '.mcap' else _Rosbag(path)
            except Exception as error:  # whatever the bytes lead to
                problems.append(f'{path}: {error}')
                continue
            self.channels += _channels(bag, len(self._files), file)
            self._files.append((path, file))
        if not any(channel.bag == bag for channel in self.channels):
            raise DatasetError(
                f'{bag} is not a bag: {"; ".join([*self.remarks, *problems]) or "it is empty"}'
            )
        self._remarks += problems

    def _stored(self, bag: Path) -> list[Path]:
        """What to open of a bag: its files, or its folder if only `rosbags` reads its compression."""
        if not bag.is_dir():
            return [bag]
        files = sorted(path for path in bag.iterdir() if path.suffix in _STORED)
        path = bag / 'metadata.yaml'
        try:
            metadata = read_yaml(path)['rosbag2_bagfile_information']
            listed = [Path(name).name for name in metadata['relative_file_paths']]
            compressed = metadata.get('compression_mode') in ('FILE', 'MESSAGE', 'file', 'message')
        except Exception as error:  # whatever is in the file
            problem = f'{path} is damaged' if path.exists() else f'{bag} has no metadata.yaml'
            if not files:
                raise DatasetError(
                    f'{bag} is not a bag: {problem}, and it has no .mcap or .db3 file'
                ) from error
            self._remarks.append(f'{problem}: the recording was perhaps not finished')
            return files
        if compressed:
            return [bag]
        if missing := sorted(set(listed) - {path.name for path in files}):
            self._remarks.append(f'{bag}: {", ".join(missing)} is missing')
        return files

    def messages(
        self, channels: Collection[Channel], start: float = -math.inf, stop: float = math.inf
    ) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, time of recording (ns) and CDR bytes of the channels' messages recorded in [start, stop).

        They come file by file. What is damaged is left out, see `remarks`.
        """
        for number, chosen in itertools.groupby(
            sorted(channels, key=lambda channel: channel.file), lambda channel: channel.file
        ):
            by_id = {channel.id: channel for channel in chosen}
            for channel, logged, data in self._files[number][1].messages(by_id.keys(), start, stop):
                yield by_id[channel], logged, data

    def deserialize(self, data: bytes, channel: Channel) -> Any:
        """A message.

        Raises:
            Exception: any, if its type is unknown or the bytes do not fit it; `located` makes it a
                `DatasetError`.
        """
        types = _defined_types(channel.message_type, channel.definition) if channel.definition else self.types
        if types is None:
            remark = f'the definition of {channel.message_type} is damaged, the current one is used'
            if f'{channel.bag}: {remark}' not in self._remarks:
                self._remarks.append(f'{channel.bag}: {remark}')
            types = self.types
        return types.deserialize_cdr(data, channel.message_type)


def _channels(bag: Path, number: int, file: McapFile | _Rosbag) -> Iterator[Channel]:
    if isinstance(file, McapFile):
        for id_, channel in file.channels.items():
            schema = file.schemas.get(channel.schema_id)
            if schema is not None and channel.message_encoding == 'cdr':
                text = schema.data.decode(errors='replace') if schema.encoding == 'ros2msg' else ''
                yield Channel(bag, number, id_, channel.topic, schema.name, text)
        return
    for connection in file.connections.values():
        definition = connection.msgdef
        text = definition.data if definition.format is MessageDefinitionFormat.MSG else ''
        # A column of sqlite can hold any type.
        if all(isinstance(value, str) for value in (connection.topic, connection.msgtype, text)):
            yield Channel(bag, number, connection.id, connection.topic, connection.msgtype, text)


def open_bags(paths: Sequence[Path]) -> Recording:
    """Open one or several bags, which are read as one.

    Bags without message definitions, as those of ROS 2 Humble, are read by the current ones.

    Args:
        paths: folders of bags, or their .mcap or .db3 files.

    Raises:
        DatasetError: if one is missing, or no file of it can be read.
    """
    return Recording(paths)


def recorded_stamp(data: bytes) -> int | None:
    """The stamp, nanoseconds, of a serialised message that begins with a header; None if it is too short."""
    if len(data) < 12:
        return None
    # Four bytes of encapsulation, the second of which gives the byte order; then std_msgs/Header.
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(seconds) * NANOSECONDS + int(nanoseconds)
