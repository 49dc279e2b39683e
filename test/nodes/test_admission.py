# SPDX-License-Identifier: Apache-2.0
"""What anybody may send on the V2X link: sizes, names, rates, and names of others."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
from diffkd_ros.msg import BevChunk, BevFeature
from link_selection import sent_by, verdicts
from rclpy.serialization import serialize_message
from rclpy.utilities import get_rmw_implementation_identifier
from ros_partner import Partner

from diffkd_ros.nodes.link.admission import Admission, publisher_of
from diffkd_ros.nodes.link.allowance import Allowance
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.nodes.link.sweep_clock import SweepClock

S = 1_000_000_000


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sweeps(clock):
    return SweepClock(clock)


@pytest.fixture
def buffer(sweeps):
    return PeerBuffer('cav_1', S // 2, S // 20, sweeps.seconds)


def receive(selector, message, participant=1):
    selector.receive(type(message), serialize_message(message), sent_by(participant))


def accounted(record):
    return record.fused + record.refused.total() + record.overwritten + record.waiting


def fuse_all(buffer, stamp):
    for pick in buffer.pick(stamp):
        if pick.refusal is None:
            buffer.count_fused(pick.entry)


def long_name(message):
    message.agent_id = 'x' * 256


def megabyte_name(message):
    message.agent_id = 'x' * 1_000_000


def long_frame(message):
    message.header.frame_id = 'x' * 256


def no_name(message):
    message.agent_id = ''


def control_characters(message):
    message.agent_id = 'cav_2\x1b[2J'


def eight_megabytes(message):
    message.data.frombytes(bytes(8_000_000))


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (long_name, Refusal.NAME),
        (long_frame, Refusal.NAME),
        (no_name, Refusal.NAME),
        (control_characters, Refusal.NAME),
        (megabyte_name, Refusal.SIZE),
        (eight_megabytes, Refusal.SIZE),
    ],
)
def test_a_message_that_no_vehicle_sends_is_counted_and_not_stored(
    selector, feature_of, ego_pose, spoil, reason
):
    good = feature_of(2, 'cav_2', S)
    receive(selector, good)
    bad = feature_of(2, 'cav_2', S, 1)
    spoil(bad)
    receive(selector, bad)
    chunk = BevChunk(agent_id='cav_3', chunks=1)
    spoil(chunk)
    receive(selector, chunk)
    found = verdicts(selector, S, ego_pose)
    assert list(found) == ['cav_2']
    assert found['cav_2'].accepted
    total = selector.buffer.totals()
    assert (total.refused, total.chunks_refused) == ({reason: 1}, {reason: 1})
    assert total.received == accounted(total) == 2
    (item,) = (item for item in selector.items() if item.name == 'admission')
    assert item.level == b'\x01'
    assert item.message.startswith('2 messages turned away')
    # Once.
    (item,) = (item for item in selector.items() if item.name == 'admission')
    assert item.level == b'\x00'


@pytest.mark.parametrize('kind', [BevFeature, BevChunk])
def test_bytes_that_are_no_message_are_counted(selector, feature_of, ego_pose, kind):
    draw = np.random.default_rng(0)
    whole = serialize_message(feature_of(2, 'cav_2', S))
    for size in (0, 1, 4, 12, 60, 400):
        selector.receive(kind, whole[:size], {})
        selector.receive(kind, whole[:4] + draw.bytes(size), {})
    total = selector.buffer.totals()
    assert total.refused.total() + total.chunks_refused.total() > 0
    assert total.received == accounted(total)
    assert not any(verdict.accepted for verdict in verdicts(selector, S, ego_pose).values())


def test_a_flood_leaves_half_of_the_messages_to_others(card, feature_of, ego_pose):
    selector = NeighbourSelector(card, 'cav_1', 0.5, 0.05, link_rate=100.0)
    small = BevFeature(agent_id='cav_9')
    small.header.stamp.sec = 1
    for _ in range(1000):
        receive(selector, small, participant=2)
    assert selector.buffer.totals().refused[Refusal.FLOOD] > 900
    for vehicle in (2, 3):
        receive(selector, feature_of(vehicle, f'cav_{vehicle}', S), participant=3)
    found = verdicts(selector, S, ego_pose)
    assert sorted(agent for agent, verdict in found.items() if verdict.accepted) == ['cav_2', 'cav_3']
    flooded = selector.buffer.totals().refused[Refusal.FLOOD]
    # A large message counts as several.
    large = feature_of(2, 'cav_2', S)
    large.data.frombytes(bytes(95_000))
    for k in range(20):
        large.sequence = k
        receive(selector, large, participant=4)
    assert 10 < selector.buffer.totals().refused[Refusal.FLOOD] - flooded < 20
    # Where participants are not known, the limit is that of all.
    selector = NeighbourSelector(card, 'cav_1', 0.5, 0.05, link_rate=100.0)
    for _ in range(100):
        selector.receive(BevFeature, serialize_message(small), {})
    assert selector.buffer.totals().refused[Refusal.FLOOD] == 0


def test_a_sender_is_limited_in_sweeps_per_second(buffer, clock):
    for k in range(300):
        buffer.add('a', k * S // 1000, k, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.lost, record.refused) == (300, 0, {Refusal.RATE: 200})
    assert accounted(record) == 300
    clock.now += 1.0
    for k in range(300, 400):
        buffer.add('a', k * S // 1000, k, None)
    assert buffer.snapshot()['a'].refused == {Refusal.RATE: 270}


def test_a_recording_may_be_replayed_faster_than_in_real_time(buffer, clock, sweeps):
    """At 200 Hz: the limit follows the ego's sweeps."""
    for k in range(1000):
        clock.now += 0.005
        sweeps.arrived(k * S // 10)
        buffer.add('a', k * S // 10, k, None)
        fuse_all(buffer, k * S // 10)
    record = buffer.snapshot()['a']
    assert (record.fused, record.refused.total()) == (1000, 0)


def test_sweeps_in_real_time_add_nothing_to_a_rate(clock, sweeps):
    """1,000 messages and ten sweeps per second; every other sweep is late."""
    allowance, taken = Allowance(100, 100), 0
    for k in range(10_000):
        clock.now += 0.001
        number, late = divmod(k, 100)
        if late == 40 * (number % 2):
            sweeps.arrived(S + number * S // 10)
        taken += allowance.take(sweeps.seconds())
    # The first ones at once.
    assert 1090 <= taken <= 1110


def test_messages_that_are_too_large_are_limited_too(card, feature_of, ego_pose):
    selector = NeighbourSelector(card, 'cav_1', 0.5, 0.05, link_rate=200.0)
    large = BevFeature(agent_id='cav_9')
    eight_megabytes(large)
    data = serialize_message(large)
    more = [selector.receive(BevFeature, data, sent_by(2)) for _ in range(20)]
    refused = selector.buffer.totals().refused
    assert refused[Refusal.SIZE] + refused[Refusal.FLOOD] == 20
    assert refused[Refusal.SIZE] <= 5
    # From then on the ego pauses.
    assert not any(more[5:])
    receive(selector, feature_of(2, 'cav_2', S), participant=3)
    assert verdicts(selector, S, ego_pose)['cav_2'].accepted


def test_maps_of_a_larger_model_are_not_too_many_by_their_size(card, clock):
    """Four vehicles behind one relay that send 1.5 MB at 10 Hz."""
    grid = dataclasses.replace(card.grid, height=256, width=256)
    large = card.model_copy(update={'channels': 64, 'grid': grid})
    admission = Admission(large, 2000.0, SweepClock(clock))
    message = BevFeature(agent_id='cav_2')
    message.data.frombytes(bytes(1_500_000))
    data = serialize_message(message)
    for _ in range(100):
        clock.now += 0.1
        taken = [admission.admit(BevFeature, data, b'relay') for _ in range(4)]
        assert all(isinstance(each, BevFeature) for each in taken)


def test_a_participant_is_known_over_dds(partner):
    """The publishers of a node are one participant, those of another process another."""
    received = []
    partner.node.create_subscription(
        BevFeature, 'who', lambda message, info: received.append((message.agent_id, info)), 10
    )
    nodes = partner, Partner(partner.domain)
    publishers = [each.node.create_publisher(BevFeature, 'who', 10) for each in (nodes[0], *nodes)]
    try:
        for k, publisher in enumerate(publishers):
            partner.until(lambda each=publisher: each.get_subscription_count() > 0, 'the subscription')
            publisher.publish(BevFeature(agent_id=str(k)))
        partner.until(lambda: len(received) == 3, 'three messages')
    finally:
        nodes[1].close()
    known = {name: publisher_of(info) for name, info in received}
    if not any('publisher_gid' in info for _, info in received):
        pytest.skip('rclpy before Kilted does not report participants')
    if 'fastrtps' in get_rmw_implementation_identifier():
        assert known['0'] == known['1']
    assert known['0']
    assert known['2'] not in (b'', known['0'])


def test_a_name_belongs_to_the_participant_that_uses_it(selector, feature_of, ego_pose):
    receive(selector, feature_of(2, 'cav_2', S, 5), participant=1)
    # Later, earlier, from the future, and of another place.
    for vehicle, stamp in ((3, S + S // 100), (3, S // 2), (2, 9 * S), (2, 10 * S), (2, 11 * S), (2, 12 * S)):
        receive(selector, feature_of(vehicle, 'cav_2', stamp, 6), participant=2)
    verdict = verdicts(selector, S + S // 50, ego_pose)['cav_2']
    assert (verdict.accepted, verdict.sequence, verdict.age) == (True, 5, 0.02)
    record = selector.buffer.snapshot()['cav_2']
    assert (record.received, record.lost, record.restarts, record.contested) == (1, 0, 0, 6)
    total = selector.buffer.totals()
    assert (total.refused, accounted(total)) == ({Refusal.PUBLISHER: 6}, total.received)
    items = {item.name: item for item in selector.items()}
    assert items['neighbour/cav_2'].level == b'\x01'
    assert 'another participant' in items['neighbour/cav_2'].message


def test_publishers_of_one_participant_share_a_name(selector, feature_of, ego_pose):
    """A vehicle that is configured again has another publisher."""
    first, second = sent_by(1), sent_by(1)
    second['publisher_gid']['data'] = second['publisher_gid']['data'][:12] + bytes([0, 0, 2, 3])
    for k, info in enumerate((first, second)):
        stamp = S + k * S // 10
        selector.receive(BevFeature, serialize_message(feature_of(2, 'cav_2', stamp, k)), info)
    assert verdicts(selector, S + S // 10, ego_pose)['cav_2'].sequence == 1


def test_the_name_of_a_silent_sender_may_be_taken_over(buffer, clock):
    """A vehicle that restarts is another participant."""
    buffer.add('a', S, 50, 'before', publisher=b'1')
    clock.now += 0.9
    buffer.add('a', 2 * S, 0, 'another', publisher=b'2')
    clock.now += 0.2
    buffer.add('a', 3 * S, 0, 'after', publisher=b'2')
    (pick,) = buffer.pick(3 * S)
    assert pick.entry.message == 'after'
    assert buffer.snapshot()['a'].contested == 1


def test_the_clock_of_a_sender_is_not_blamed_for_another_one(selector, feature_of, ego_pose):
    for k in range(10):
        stamp = S + k * S // 10
        selector.own_sweep(stamp)
        receive(selector, feature_of(2, 'cav_2', stamp, k), participant=1)
        receive(selector, feature_of(2, 'cav_2', stamp + 5 * S, k), participant=2)
    (item,) = (item for item in selector.items() if item.name == 'clock')
    assert item.level == b'\x00'


@pytest.mark.parametrize('seconds', [-30, -2, 2, 30])
def test_wrong_stamps_do_not_replace_right_ones(buffer, clock, seconds):
    """Also without knowing the participants: ten late or early messages for each one in time."""
    sequence = 0
    for k in range(20):
        now = 100 * S + k * S // 10
        buffer.add('a', now, sequence, 'right', newest_sweep=now - S // 20)
        for wrong in range(10):
            sequence += 1
            buffer.add('a', now + seconds * S + wrong, sequence, 'wrong', newest_sweep=now - S // 20)
        (pick,) = buffer.pick(now)
        assert (pick.entry.message, pick.refusal) == ('right', None)
        clock.now += 0.5


def test_invented_names_do_not_replace_a_neighbour_in_use(buffer, clock):
    buffer.add('cav_2', 0, 0, None, publisher=b'2')
    fuse_all(buffer, 0)
    for k in range(5000):
        clock.now += 0.001
        buffer.add(f'v{k}', 0, 0, None, publisher=b'3')
        if k == 2500:
            # One that has just come keeps its place, too: the others replace those of their participant.
            buffer.add('cav_4', 0, 0, None, publisher=b'4')
    known = buffer.snapshot(forgotten=True)
    assert len(known) == 64
    assert known.keys() >= {'cav_2', 'cav_4', 'v4999'}
    total = buffer.totals()
    assert total.received == accounted(total) == 5002


def test_names_that_were_fused_in_turn_do_not_keep_others_out(buffer, clock):
    """One participant uses all names, and each is fused now and then."""
    for k in range(200):
        clock.now += 0.1
        buffer.add(f'v{k % 64}', k * S // 10, k, None, publisher=b'3')
        fuse_all(buffer, k * S // 10)
    buffer.add('cav_2', 20 * S, 0, None, publisher=b'2')
    known = buffer.snapshot(forgotten=True)
    assert len(known) == 64
    assert 'cav_2' in known
    # It replaced the one that has been silent for longest.
    assert 'v8' not in known


def test_the_memory_for_messages_is_limited(buffer):
    """64 names with four of the largest messages each; those of others stay."""
    kept = []

    def message():
        data = np.zeros(500_000, np.uint8)
        kept.append(weakref.ref(data))
        return data

    buffer.add('cav_2', 0, 0, message(), 500_000, publisher=b'2')
    for sequence in range(4):
        for name in range(63):
            buffer.add(f'v{name}', sequence, sequence, message(), 500_000, publisher=b'3')
    assert sum(data() is not None for data in kept) == 64
    assert any(pick.entry.sender == 'cav_2' for pick in buffer.pick(10))
    total = buffer.totals()
    assert total.received == accounted(total) == 4 * 63 + 1


def test_names_in_use_leave_none_to_invented_ones(buffer, clock):
    for k in range(64):
        buffer.add(f'rsu_{k}', 0, 0, None)
    fuse_all(buffer, 0)
    buffer.add('more', 0, 0, None)
    assert buffer.totals().refused == {Refusal.SENDERS: 1}
    clock.now += 11
    buffer.add('more', 0, 0, None)
    assert 'more' in buffer.snapshot(forgotten=True)
    total = buffer.totals()
    assert total.received == accounted(total) == 66
