# SPDX-License-Identifier: Apache-2.0
"""A recorder in its own process, with publishers of different quality of service."""

from __future__ import annotations

import resource
import signal
from contextlib import closing

import pytest
from diffkd_ros.msg import BevChunk
from patience import PATIENCE
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from std_msgs.msg import Header

from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.output.bag_thread import BagThread
from diffkd_ros.sources.bag_files import message_types, open_bags
from diffkd_ros.sources.dataset import DatasetError

OFFERED = {
    '/best_effort': qos.link('best_effort', 10, 0.0),
    '/reliable': qos.FEATURES,
    '/latched': qos.LATCHED,
}


def recorded(file):
    """The messages that can be read; none before the file has a beginning."""
    try:
        bag = open_bags([file])
    except DatasetError:
        return []
    with closing(bag):
        return [bag.deserialize(data, channel).frame_id for channel, _, data in bag.messages(bag.channels)]


def test_every_quality_of_service_is_recorded_and_silent_topics_are_reported(group, partner, tmp_path):
    publishers = {
        topic: partner.node.create_publisher(Header, topic, offered) for topic, offered in OFFERED.items()
    }
    # One topic without its type, for publishers that start later.
    topics = ['/best_effort:std_msgs/msg/Header', '/reliable:std_msgs/msg/Header', '/latched']
    topics += ['/silent:std_msgs/msg/Header', '/nobody']
    recorder = group.start(
        NodeSpec('recorder_node', '/', (), {'out': str(tmp_path / 'bag'), 'topics': topics})
    )
    for topic, publisher in publishers.items():
        partner.until(publisher.get_subscription_count, f'a compatible subscriber of {topic}')

    def all_received():
        for topic, publisher in publishers.items():
            publisher.publish(Header(frame_id=topic))
        return recorder.latest.endswith(' messages, no message on /silent, no publisher of /nobody')

    partner.until(all_received, 'a report that all published topics were received', timeout=PATIENCE)
    group.stop([recorder], patience=PATIENCE)
    assert recorder.returncode == 0, recorder.tail()
    with AnyReader([tmp_path / 'bag'], default_typestore=message_types()) as reader:
        recorded = {
            (connection.topic, reader.deserialize(data, connection.msgtype).frame_id)
            for connection, _, data in reader.messages()
        }
    assert recorded == {(topic, topic) for topic in OFFERED}


def test_what_was_published_before_the_end_is_recorded_though_the_recorder_lags(group, partner, tmp_path):
    """On a busy machine it gets the signal before it has handled the last messages."""
    publisher = partner.node.create_publisher(Header, '/late', qos.FEATURES)
    recorder = group.start(
        NodeSpec(
            'recorder_node', '/', (), {'out': str(tmp_path / 'bag'), 'topics': ['/late:std_msgs/msg/Header']}
        ),
        label='lagging',
    )

    def recording():
        publisher.publish(Header(frame_id='first'))
        return recorder.latest.endswith(' messages')

    partner.until(recording, 'a report', timeout=PATIENCE)
    recorder.signal(signal.SIGSTOP)
    wanted = [str(number) for number in range(8)]
    for number in wanted:
        publisher.publish(Header(frame_id=number))
    recorder.signal(signal.SIGINT)
    recorder.signal(signal.SIGCONT)
    assert recorder.wait(PATIENCE)
    group.stop([recorder])
    assert recorder.returncode == 0, recorder.tail()
    with AnyReader([tmp_path / 'bag'], default_typestore=message_types()) as reader:
        found = [reader.deserialize(data, connection.msgtype) for connection, _, data in reader.messages()]
    assert [header.frame_id for header in found if header.frame_id != 'first'] == wanted


def test_a_killed_recorder_has_written_everything_but_the_last_seconds(group, partner, tmp_path):
    """Few small messages, which do not fill a chunk."""
    publisher = partner.node.create_publisher(Header, '/killed', qos.FEATURES)
    topics = ['/killed:std_msgs/msg/Header']
    recorder = group.start(
        NodeSpec('recorder_node', '/', (), {'out': str(tmp_path / 'bag'), 'topics': topics}), label='killed'
    )
    partner.until(publisher.get_subscription_count, 'a subscriber')
    for number in range(10):
        publisher.publish(Header(frame_id=str(number)))
    file = tmp_path / 'bag' / 'bag.mcap'
    wanted = [str(number) for number in range(10)]
    partner.until(lambda: recorded(file) == wanted, 'all messages in the file', timeout=PATIENCE)
    recorder.signal(signal.SIGKILL)
    assert recorder.wait(PATIENCE)
    group.stop([recorder])
    assert recorded(file) == wanted
    assert not (tmp_path / 'bag' / 'metadata.yaml').exists()


def test_many_small_messages_fit_into_the_queue_of_a_bag(tmp_path):
    """As many as the chunks of a few sweeps; the thread writes slower than they come."""
    bag = BagThread(tmp_path / 'bag')
    for stamp in range(20_000):
        bag.write('/v2x/chunks', 'diffkd_ros/msg/BevChunk', stamp, serialize_message(BevChunk()))
    bag.close()
    assert (bag.dropped, bag.counts['/v2x/chunks']) == (0, 20_000)


@pytest.mark.parametrize('interrupted', [False, True])
def test_a_full_disk_ends_the_recorder_with_one_sentence(group, partner, tmp_path, interrupted):
    """It fills up while messages arrive, or when the recorder is interrupted and writes the index."""
    publisher = partner.node.create_publisher(Header, f'/full_{interrupted}', qos.FEATURES)
    file = tmp_path / 'bag' / 'bag.mcap'
    topics = [f'/full_{interrupted}:std_msgs/msg/Header']
    spec = NodeSpec('recorder_node', '/', (), {'out': str(tmp_path / 'bag'), 'topics': topics})
    recorder = group.start(spec, label=f'full_{interrupted}')
    partner.until(publisher.get_subscription_count, 'a subscriber')
    publisher.publish(Header(frame_id='before'))
    partner.until(lambda: recorded(file) == ['before'], 'the message in the file', timeout=PATIENCE)
    size = file.stat().st_size
    resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (size, size))
    if interrupted:
        recorder.signal(signal.SIGINT)

    def ended():
        if not interrupted:
            publisher.publish(Header(frame_id='after'))
        return recorder.returncode is not None

    partner.until(ended, 'the end of the recorder', timeout=PATIENCE)
    group.stop([recorder])
    said = [line for line in recorder.tail().splitlines() if 'File too large' in line]
    assert recorder.returncode == 1, recorder.tail()
    assert len(said) == 1
    assert '[FATAL]' in said[0]
    assert 'Traceback' not in recorder.tail()
    assert recorded(file) == ['before']
