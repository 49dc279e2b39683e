# SPDX-License-Identifier: Apache-2.0
"""Reads an MCAP file by its index or, if it was cut off or never finished, by scanning it.

Damage costs the part it is in: a chunk, or everything after the last whole record. It is counted, not raised.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from io import SEEK_END, BytesIO
from pathlib import Path

import lz4.frame
import zstandard
from mcap.exceptions import EndOfFile, InvalidMagic
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, DataEnd, McapRecord, Message, Schema
from mcap.stream_reader import MAGIC_SIZE, StreamReader, breakup_chunk
from mcap.summary import Summary

# A record begins with its type and its length.
_HEAD, _LENGTH = struct.Struct('<BQ'), struct.Struct('<Q')
# Messages outside of chunks are indexed in parts of about this many bytes.
_PART = 2**20
# Largest content of a compressed chunk, MiB. Recorders write chunks of a few.
_LARGEST_CHUNK = 256


@dataclass(slots=True)
class _Part:
    """Consecutive records of a file: their bytes, and log times (ns) and channels of their messages.

    The channels are None if they are unknown.
    """

    start: int
    stop: int
    first: float = math.inf
    last: float = -math.inf
    channels: set[int] | None = field(default_factory=set)


class McapFile:
    """The channels and messages of one MCAP file.

    Attributes:
        schemas: by id.
        channels: by id.
        damage: what of the file cannot be read; empty if nothing was found so far. Parts of a file with an
            index are only read, and checked, by `messages`.

    Args:
        path: the file.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open('rb')
        self._size = self._stream.seek(0, SEEK_END)
        self._parts: list[_Part] = []
        self._damaged: set[int] = set()
        self._end = ''
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        try:
            summary = self._summary()
            if summary is None:
                self._scan()
            else:
                self.schemas, self.channels = summary.schemas, summary.channels
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    @property
    def damage(self) -> str:
        """See the class."""
        chunks = (
            f'{len(self._damaged)} of {len(self._parts)} chunks are damaged or larger than '
            f'{_LARGEST_CHUNK} MiB'
        )
        return ', '.join(filter(None, [chunks if self._damaged else '', self._end]))

    def _summary(self) -> Summary | None:
        """The file's index; None if it has none, or one that is damaged or does not list all messages."""
        try:
            summary = SeekingReader(self._stream, record_size_limit=self._size).get_summary()
            if summary is None or summary.statistics is None or not summary.channels:
                return None
            if summary.statistics.chunk_count != len(summary.chunk_indexes) or not summary.chunk_indexes:
                return None
            if any(channel.schema_id not in summary.schemas for channel in summary.channels.values()):
                return None
        except Exception:  # whatever the bytes lead to
            return None
        for index in summary.chunk_indexes:
            stop = index.chunk_start_offset + index.chunk_length
            times = index.message_start_time, index.message_end_time
            # A chunk may have no index of its messages.
            channels = set(index.message_index_offsets) or None
            self._parts.append(_Part(index.chunk_start_offset, stop, *times, channels))
        return summary

    def _scan(self) -> None:
        """Find the parts, schemas and channels by reading everything up to the first broken record."""
        stream, whole = self._stream, MAGIC_SIZE
        stream.seek(0)
        try:
            # The limit keeps a damaged length from allocating more memory than the file has bytes.
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=self._size).records:
                if isinstance(record, DataEnd):
                    return
                start, stop = whole, stream.tell()
                stream.seek(start + 1)
                if start + _HEAD.size + _LENGTH.unpack(stream.read(_LENGTH.size))[0] > self._size:
                    break  # StreamReader does not notice that the file ends within a record
                stream.seek(stop)
                self._note(record, start, stop)
                whole = stop
        except InvalidMagic:
            self._end = 'it is not an MCAP file'
            return
        except Exception:  # whatever the bytes lead to
            pass
        self._end = f'it was not finished, or is cut off: read up to byte {whole} of {self._size}'

    def _note(self, record: McapRecord, start: int, stop: int) -> None:
        records = [record]
        if isinstance(record, Chunk):
            part = _Part(start, stop)
            self._parts.append(part)
            try:
                records = _unpacked(record)
            except Exception:  # whatever the bytes lead to
                self._damaged.add(len(self._parts) - 1)
                return
        elif isinstance(record, Message):
            part = self._loose(start, stop)
        for inner in records:
            if isinstance(inner, Schema):
                self.schemas[inner.id] = inner
            elif isinstance(inner, Channel):
                self.channels[inner.id] = inner
            elif isinstance(inner, Message) and part.channels is not None:
                part.first, part.last = min(part.first, inner.log_time), max(part.last, inner.log_time)
                part.channels.add(inner.channel_id)

    def _loose(self, start: int, stop: int) -> _Part:
        """The part for a message outside of chunks."""
        if not self._parts or self._parts[-1].stop != start or stop - self._parts[-1].start > _PART:
            self._parts.append(_Part(start, stop))
        self._parts[-1].stop = stop
        return self._parts[-1]

    def messages(
        self, channels: Collection[int], start: float, stop: float
    ) -> Iterator[tuple[int, int, bytes]]:
        """Channel id, log time and data of the channels' messages with log times in [start, stop), in ns.

        They come in the order of the file.
        """
        for number, part in enumerate(self._parts):
            if part.last < start or part.first >= stop:
                continue
            if part.channels is not None and part.channels.isdisjoint(channels):
                continue
            for record in self._records(number):
                if (
                    isinstance(record, Message)
                    and record.channel_id in channels
                    and start <= record.log_time < stop
                ):
                    yield record.channel_id, record.log_time, record.data

    def _records(self, number: int) -> list[McapRecord]:
        part, records = self._parts[number], []
        try:
            self._stream.seek(part.start)
            data = self._stream.read(max(0, min(part.stop, self._size) - part.start))
            stream = BytesIO(data)
            reader = StreamReader(stream, skip_magic=True, emit_chunks=True, record_size_limit=len(data))
            for record in reader.records:
                records += _unpacked(record) if isinstance(record, Chunk) else [record]
        except EndOfFile:
            if records:
                return records
            self._damaged.add(number)
        except Exception:  # whatever the bytes lead to
            self._damaged.add(number)
        return []


def _unpacked(chunk: Chunk) -> list[McapRecord]:
    """The records in a chunk.

    Raises:
        Exception: any, if the chunk is damaged, not of the size it announces, or compressed and too large.
    """
    size = chunk.uncompressed_size
    if chunk.compression and size > _LARGEST_CHUNK * 2**20:
        raise EndOfFile
    # `breakup_chunk` decompresses without a limit.
    match chunk.compression:
        case 'zstd':
            data = zstandard.ZstdDecompressor().stream_reader(chunk.data).read(size + 1)
        case 'lz4':
            data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, size + 1)
        case _:
            data = chunk.data
    if len(data) != size:
        raise EndOfFile
    return breakup_chunk(replace(chunk, compression='', data=data), validate_crc=True)
