# SPDX-License-Identifier: Apache-2.0
"""Bags that were not finished, were cut off, or are damaged: what is whole is read, the rest is named."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import struct

import lz4.frame
import numpy as np
import pytest
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from small_bags import STEP, TYPES, frames, messages_of, write, write_sqlite

from diffkd_ros.bags.writer import BagWriter
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.rosbag import RosbagDataset

COUNT = 6


@pytest.fixture
def everything():
    return [item for frame in frames(COUNT) for item in messages_of(frame)]


@pytest.fixture
def unfinished(tmp_path):
    """A bag with a chunk for each frame whose recorder ended without closing it, and the file."""
    path = tmp_path / 'bag'

    def record():
        with BagWriter(path) as bag:
            for frame in frames(COUNT):
                for stamp, message in messages_of(frame):
                    bag.write(*message[:2], stamp, message.data)
                bag.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert not (path / 'metadata.yaml').exists()
    return path, path / 'bag.mcap'


def assert_frames(dataset, numbers):
    """The dataset has exactly these of the written frames, whole."""
    originals = {frame.stamp: frame for frame in frames(COUNT)}
    assert [frame.stamp for frame in dataset] == [(number + 1) * STEP for number in numbers]
    for frame in dataset:
        for agent, sweep in originals[frame.stamp].agents.items():
            np.testing.assert_array_equal(frame.agents[agent].points, sweep.points)


def remarks_of(dataset):
    return '\n'.join(map(str, dataset.strays()))


def test_an_unfinished_recording_is_read(unfinished):
    folder, file = unfinished
    dataset = RosbagDataset(folder)
    assert_frames(dataset, range(COUNT))
    size = file.stat().st_size
    assert f'{folder} has no metadata.yaml: the recording was perhaps not finished' in remarks_of(dataset)
    assert f'it was not finished, or is cut off: read up to byte {size} of {size}' in remarks_of(dataset)
    assert_frames(RosbagDataset(file), range(COUNT))


def opened(path):
    """The dataset, or None if it has no frame and says so with the file's name."""
    try:
        return RosbagDataset(path)
    except DatasetError as error:
        named = str(path) in str(error)
    assert named
    return None


def test_a_file_cut_anywhere_gives_its_whole_frames(unfinished, everything, tmp_path):
    _, file = unfinished
    data = file.read_bytes()
    cut = tmp_path / 'cut.mcap'
    counts = []
    for size in np.linspace(0, len(data), 90).astype(int):
        cut.write_bytes(data[:size])
        dataset = opened(cut)
        if dataset is None:
            counts.append(0)
            continue
        counts.append(len(dataset))
        assert_frames(dataset, range(len(dataset)))
        assert 'cut off' in remarks_of(dataset)
    assert counts == sorted(counts)
    assert set(counts) == set(range(COUNT + 1))


def test_a_damaged_chunk_costs_itself(tmp_path, everything):
    """In a finished file, with an index and checksums."""
    path = tmp_path / 'bag.mcap'
    starts = write_mcap(path, everything, CompressionType.ZSTD)
    data = bytearray(path.read_bytes())
    middle = (starts[2] + starts[3]) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    dataset = RosbagDataset(path)
    assert_frames(dataset, [0, 1, 3, 4, 5])
    assert '1 of 6 chunks are damaged' in remarks_of(dataset)
    # The same without the index.
    path.write_bytes(data[:-40])
    dataset = RosbagDataset(path)
    assert_frames(dataset, [0, 1, 3, 4, 5])
    assert '1 of 6 chunks are damaged' in remarks_of(dataset)


def compressed_record(compression, size):
    """A record of zeros, whose compressed size is less than a hundredth."""
    if compression == 'zstd':
        compressor, begin = zstandard.ZstdCompressor().compressobj(size=size), b''
    else:
        compressor = lz4.frame.LZ4FrameCompressor()
        begin = compressor.begin()
    block, head = bytes(2**24), struct.pack('<BQ', 0x80, size - 9)
    blocks = [head + block[9:], *[block] * (size // len(block) - 1)]
    return b''.join([begin, *map(compressor.compress, blocks), compressor.flush()])


@pytest.mark.parametrize('compression', ['zstd', 'lz4'])
@pytest.mark.parametrize('announced', [2**29, 1000])
def test_a_chunk_that_becomes_huge_costs_no_memory(tmp_path, everything, compression, announced):
    path = tmp_path / 'bag.mcap'
    starts = write_mcap(path, everything, CompressionType.ZSTD)
    record = RecordBuilder()
    Chunk(compression, compressed_record(compression, 2**29), 0, 0, 0, announced).write(record)
    data = path.read_bytes()
    path.write_bytes(data[: starts[2]] + record.end() + data[starts[2] : -40])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dataset = RosbagDataset(path)
    assert_frames(dataset, range(COUNT))
    assert '1 of 7 chunks are damaged or larger than 256 MiB' in remarks_of(dataset)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def write_mcap(path, items, compression=CompressionType.NONE, **options):
    """Write by another library, a chunk for each frame; returns their offsets in the file."""
    starts = []
    with path.open('wb') as stream:
        writer = McapWriter(stream, chunk_size=10**9, compression=compression, **options)
        writer.start('ros2')
        channels, last = {}, None
        for stamp, message in items:
            if stamp != last:
                writer.flush()
                starts.append(stream.tell())
            last = stamp
            if message.topic not in channels:
                text, _ = TYPES.generate_msgdef(message.message_type, ros_version=2)
                schema = writer.register_schema(message.message_type, 'ros2msg', text.encode())
                channels[message.topic] = writer.register_channel(message.topic, 'cdr', schema)
            writer.add_message(channels[message.topic], stamp, bytes(message.data), stamp)
        writer.finish()
    return starts


@pytest.mark.parametrize('compression', list(CompressionType))
@pytest.mark.parametrize('cut', [0, 40])
@pytest.mark.parametrize(
    'options', [{}, {'use_chunking': False}, {'use_chunking': False, 'use_statistics': False}]
)
def test_files_of_other_writers(tmp_path, everything, compression, cut, options):
    path = tmp_path / 'bag.mcap'
    write_mcap(path, everything, compression, **options)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    assert_frames(RosbagDataset(path), range(COUNT))


def test_a_definition_that_cannot_be_parsed_costs_nothing_else(tmp_path, everything):
    def written(name, storage, damaged):
        with Writer(tmp_path / name, version=8, storage_plugin=storage) as bag:
            events = bag.add_connection(
                '/recorder/get_parameters/_service_event', 'rcl_interfaces/srv/GetParameters_Event',
                msgdef='service_msgs/ServiceEventInfo info\nRequest[<=1 request\n', rihs01='RIHS01_0',
            )  # fmt: skip
            bag.write(events, STEP, b'\x00\x01\x00\x00')
            connections = {}
            for stamp, (topic, kind, data) in everything:
                if topic not in connections:
                    text = {'msgdef': 'float32[ x', 'rihs01': 'RIHS01_0'} if kind == damaged else {}
                    connections[topic] = bag.add_connection(topic, kind, typestore=TYPES, **text)
                bag.write(connections[topic], stamp, data)
        return tmp_path / name

    for storage in StoragePlugin:
        assert_frames(RosbagDataset(written(f'{storage.name}', storage, None)), range(COUNT))
        # Known types are read by their current definition.
        dataset = RosbagDataset(written(f'{storage.name}2', storage, 'nav_msgs/msg/Odometry'))
        assert_frames(dataset, range(COUNT))
        assert 'the definition of nav_msgs/msg/Odometry is damaged, the current one is used' in remarks_of(
            dataset
        )


def test_a_bag_without_its_metadata_is_read(tmp_path, everything):
    for name, writer in (('mcap', write), ('sqlite', write_sqlite)):
        path = writer(tmp_path / name, everything)
        (path / 'metadata.yaml').write_text('rosbag2_bagfile_information: [')
        dataset = RosbagDataset(path)
        assert_frames(dataset, range(COUNT))
        assert 'metadata.yaml is damaged' in remarks_of(dataset)
        (path / 'metadata.yaml').unlink()
        assert_frames(RosbagDataset(path), range(COUNT))
        (file,) = path.iterdir()
        assert_frames(RosbagDataset(file), range(COUNT))
        assert remarks_of(RosbagDataset(file)) == ''


@pytest.mark.parametrize('storage', list(StoragePlugin))
@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_bags(tmp_path, everything, storage, mode):
    bag = Writer(tmp_path / 'bag', version=8, storage_plugin=storage)
    bag.set_compression(mode, CompressionFormat.ZSTD)
    with bag:
        connections = {}
        for stamp, (topic, kind, data) in everything:
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=TYPES)
            bag.write(connections[topic], stamp, bytes(data))
    assert_frames(RosbagDataset(tmp_path / 'bag'), range(COUNT))


@pytest.mark.parametrize('line', ['<<: [{}]', 'compression_mode: &a [*a, *a]', 'version: [', '- [' * 3000])
def test_metadata_that_is_no_metadata_takes_no_time(tmp_path, everything, line):
    path = write(tmp_path / 'bag', everything)
    text = (path / 'metadata.yaml').read_text()
    (path / 'metadata.yaml').write_text(f'{text}\n  {line}\n')
    assert_frames(RosbagDataset(path), range(COUNT))


def test_several_files_of_a_bag_of_which_one_is_missing(tmp_path, everything):
    """As `ros2 bag record --max-bag-duration` writes them."""
    parts = [
        write(tmp_path / f'part{k}', [m for m in everything if m[0] // STEP in (2 * k + 1, 2 * k + 2)])
        for k in range(3)
    ]
    bag = tmp_path / 'bag'
    bag.mkdir()
    for part in parts:
        shutil.copy(part / f'{part.name}.mcap', bag)
    text = (parts[0] / 'metadata.yaml').read_text()
    (bag / 'metadata.yaml').write_text(
        text.replace('- part0.mcap', '- part0.mcap\n  - part1.mcap\n  - part2.mcap')
    )
    dataset = RosbagDataset(bag)
    assert_frames(dataset, range(COUNT))
    assert remarks_of(dataset) == ''
    (bag / 'part1.mcap').unlink()
    dataset = RosbagDataset(bag)
    assert_frames(dataset, [0, 1, 4, 5])
    assert f'{bag}: part1.mcap is missing' in remarks_of(dataset)


def test_a_cut_database_is_read_as_far_as_it_goes(tmp_path, everything):
    path = write_sqlite(tmp_path / 'bag', everything * 20)
    (file,) = path.glob('*.db3')
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    dataset = opened(file)
    assert dataset is None or str(file) in remarks_of(dataset)
    file.write_bytes(b'no database')
    with pytest.raises(DatasetError, match=r'is not a bag: .*bag\.db3'):
        RosbagDataset(path)


def test_messages_in_the_log_of_a_killed_recorder_are_named(tmp_path, everything):
    path = write_sqlite(tmp_path / 'bag', everything)
    (file,) = path.glob('*.db3')
    with sqlite3.connect(file) as connection:
        connection.execute('pragma journal_mode=wal')
        connection.execute('create table more (id integer)')
        connection.commit()
        shutil.copy(f'{file}-wal', tmp_path / 'log')
    connection.close()
    shutil.copy(tmp_path / 'log', f'{file}-wal')
    dataset = RosbagDataset(path)
    assert_frames(dataset, range(COUNT))
    assert 'messages in bag.db3-wal are not read' in remarks_of(dataset)


@pytest.mark.parametrize(
    ('name', 'data', 'message'),
    [
        ('drive.mcap', b'', 'cut off'),
        ('drive.mcap', b'\x89PNG', 'cut off'),
        ('drive.mcap', b'not an MCAP file', 'it is not an MCAP file'),
        ('drive.db3', b'', 'drive.db3'),
        ('drive.bag', b'#ROSBAG V2.0', 'bag of ROS 1: `rosbags-convert'),
        ('drive.txt', b'hello', 'is not a bag'),
    ],
)
def test_files_that_are_no_bag(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        RosbagDataset(tmp_path / name)


def test_a_folder_may_be_named_like_a_bag_of_ros_1(unfinished, tmp_path):
    folder = unfinished[0].rename(tmp_path / 'drive.bag')
    assert_frames(RosbagDataset(folder), range(COUNT))
