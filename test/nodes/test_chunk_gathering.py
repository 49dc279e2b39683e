# SPDX-License-Identifier: Apache-2.0
"""Chunks of one neighbour's sweeps are gathered, chosen and counted."""

from __future__ import annotations

import time
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
from diffkd_ros.msg import BevChunk
from layered_map import link_tables, random_codes, without_boxes
from link_selection import verdicts
from rclpy.serialization import serialize_message

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.messages.building import header_message
from diffkd_ros.nodes.link.arrived import ArrivedChunks
from diffkd_ros.nodes.link.chunk_message import chunk_messages
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.unpacking import Unpacker

S = 1_000_000_000
# Five metres behind the neighbours.
EGO = np.eye(4)
EGO[0, 3] = -5.0
TABLES = link_tables()


@pytest.fixture(scope='module')
def link_card(card):
    return card.model_copy(update={'link': True, 'files': {**card.files, 'link.npz': 'ab' * 32}})


@pytest.fixture(scope='module')
def packed():
    return Packer(TABLES).pack(random_codes(TABLES).outgoing(TABLES), 4000)


@pytest.fixture
def messages_of(link_card):
    """Makes the messages of the chunks of a sweep."""

    def make(chunks, sequence, stamp=None, agent='cav_2'):
        stamp = sequence * S // 10 if stamp is None else stamp
        header = header_message(stamp, f'{agent}/lidar')
        return chunk_messages(header, agent, sequence, link_card, chunks, LidarPose(np.eye(4), 'map'))

    return make


@pytest.fixture
def sweep_of(packed, messages_of):
    """Makes the messages of a sweep of a sender that does not repeat its boxes."""
    chunks = [packed[0], *(without_boxes(chunk, TABLES) for chunk in packed[1:])]
    return partial(messages_of, chunks)


@pytest.fixture
def selector(link_card):
    return NeighbourSelector(
        link_card, 'cav_1', max_age=0.25, future_tolerance=0.01, link_rate=2000.0, tables=TABLES
    )


def arrive(selector, *messages):
    for message in messages:
        selector.receive(BevChunk, serialize_message(message), {})


def verdict_at(selector, stamp):
    (verdict,) = verdicts(selector, stamp, EGO).values()
    return verdict


def test_any_chunk_of_a_sweep_that_repeats_its_boxes_is_enough(selector, packed, messages_of):
    arrive(selector, *messages_of(packed, 0))
    for sequence, number in enumerate((2, 1), start=1):
        arrive(selector, messages_of(packed, sequence)[number])
        verdict = verdict_at(selector, sequence * S // 10)
        assert (verdict.sequence, verdict.extent.chunks, verdict.age) == (sequence, 1, 0)
        assert len(verdict.feature.boxes) > 0
    assert not selector.buffer.snapshot()['cav_2'].refused


def test_the_newest_sweep_of_which_boxes_arrived_is_used(selector, sweep_of):
    sweeps = [sweep_of(k) for k in range(5)]
    arrive(selector, *sweeps[0], *sweeps[1][1:])
    # Of the newer one the boxes are missing.
    assert (verdict_at(selector, S // 10).sequence, verdict_at(selector, S // 10).age) == (0, 0.1)
    arrive(selector, sweeps[1][0])
    assert verdict_at(selector, S // 10).sequence == 1
    # One chunk is enough if it has the boxes.
    arrive(selector, sweeps[2][0])
    verdict = verdict_at(selector, 2 * S // 10)
    assert (verdict.sequence, verdict.extent.announced, verdict.extent.chunks) == (2, 4, 1)
    # An older sweep that is too old does not keep a newer one from being used.
    arrive(selector, sweeps[4][1])
    assert verdict_at(selector, 4 * S // 10).sequence == 2
    assert verdict_at(selector, 5 * S // 10).sequence == 4


def test_chunks_that_arrive_after_a_fusion_are_used_in_the_next(selector, sweep_of):
    first, *rest = sweep_of(0)
    arrive(selector, first)
    before = verdict_at(selector, 0)
    arrive(selector, *reversed(rest))
    after = verdict_at(selector, 1)
    assert (before.extent.chunks, after.extent.chunks) == (1, 4)
    assert sum(after.feature.bytes_of.values()) == sum(len(m.data) for m in (first, *rest))
    assert after.extent.size == sum(len(serialize_message(m)) for m in (first, *rest))
    record = selector.buffer.snapshot()['cav_2']
    assert (record.received, record.fused, record.chunks_received, record.chunks_lost) == (1, 1, 4, 0)


def test_lost_sweeps_and_lost_chunks_are_counted_apart(selector, sweep_of):
    arrive(selector, *sweep_of(0), *sweep_of(1)[:3], *sweep_of(4)[:1], *sweep_of(5))
    verdict_at(selector, 5 * S // 10)
    record = selector.buffer.snapshot()['cav_2']
    assert (record.received, record.lost, record.restarts) == (4, 2, 0)
    assert (record.chunks_received, record.chunks_lost) == (12, 4)
    # Too late to be used: neither a restart nor received.
    arrive(selector, sweep_of(4)[1], sweep_of(1)[3])
    record = selector.buffer.snapshot()['cav_2']
    assert (record.received, record.lost, record.restarts, record.chunks_received) == (4, 2, 0, 12)
    total = selector.buffer.totals()
    assert (total.chunks_received, total.chunks_lost) == (12, 4)


def test_the_order_of_arrival_does_not_matter(selector, sweep_of):
    first, second = sweep_of(0), sweep_of(1)
    arrive(selector, *first[:2], *second[:1], *first[2:], *second[1:])
    verdict = verdict_at(selector, S // 10)
    assert (verdict.sequence, verdict.extent.chunks) == (1, 4)
    record = selector.buffer.snapshot()['cav_2']
    assert (record.received, record.lost, record.restarts, record.chunks_received) == (2, 0, 0, 8)


def test_a_repeated_chunk_counts_once(selector, sweep_of):
    first, *rest = sweep_of(0)
    arrive(selector, first, deepcopy(first), *rest, deepcopy(first))
    record = selector.buffer.snapshot()['cav_2']
    assert (record.chunks_received, record.chunks_repeated, record.chunks_refused.total()) == (4, 2, 0)
    # Of the messages, which are sweeps, none is repeated.
    assert (record.received, record.repeated) == (1, 0)
    items = {item.name: item.values for item in selector.items()}
    assert items['neighbour/cav_2']['chunks repeated'] == items['neighbours']['chunks repeated'] == 2


def test_a_sweep_passed_over_for_its_missing_boxes_is_counted_as_such(selector, sweep_of):
    arrive(selector, *sweep_of(0), *sweep_of(1)[1:])
    assert verdict_at(selector, S // 10).sequence == 0
    arrive(selector, *sweep_of(2))
    assert verdict_at(selector, 2 * S // 10).sequence == 2
    record = selector.buffer.snapshot()['cav_2']
    assert (record.received, record.fused, record.overwritten, record.lost) == (3, 2, 0, 0)
    assert record.refused == {Refusal.NO_BASE: 1}
    # It does not make the neighbour one that is refused.
    assert record.last_refusal == ''
    # Its boxes may arrive for a later sweep.
    arrive(selector, *sweep_of(3)[1:])
    verdict_at(selector, 3 * S // 10)
    arrive(selector, sweep_of(3)[0])
    assert verdict_at(selector, 3 * S // 10).sequence == 3
    assert selector.buffer.snapshot()['cav_2'].refused == {Refusal.NO_BASE: 1}


def test_every_damaged_chunk_is_reported_once_by_its_number(selector, sweep_of):
    chunks = sweep_of(0)
    for number in (1, 2, 3):
        del chunks[number].data[40:]
    details = []
    for number in (0, 2, 1, 3):
        arrive(selector, chunks[number])
        assert verdict_at(selector, 0).accepted
        details.append(selector.buffer.snapshot()['cav_2'].last_chunk_refusal)
    assert details[0] == ''
    assert [detail.split(':')[1] for detail in details[1:]] == [' chunk 2', ' chunk 1', ' chunk 3']
    assert selector.buffer.snapshot()['cav_2'].chunks_refused == {Refusal.PAYLOAD: 3}


def test_a_chunk_that_arrives_after_its_sweep_was_decoded_is_not_in_the_verdict(link_card, sweep_of):
    """The executor stores chunks while the inference thread decodes those of other neighbours."""
    near, far = sweep_of(0), sweep_of(0, agent='cav_3')
    for chunk in far:
        chunk.position[0] = 20.0

    class Slow(Unpacker):
        calls = 0

        def unpack(self, chunks):
            self.calls += 1
            if self.calls == 2:
                arrive(selector, near[3])
            return super().unpack(chunks)

    selector = NeighbourSelector(
        link_card, 'cav_1', max_age=0.25, future_tolerance=0.01, link_rate=2000.0, tables=TABLES
    )
    selector._unpacker = Slow(TABLES)
    arrive(selector, *near[:3], *far)
    found = list(verdicts(selector, 0, EGO).values())
    assert [(v.agent, v.extent.chunks) for v in found] == [('cav_2', 3), ('cav_3', 4)]
    assert found[0].extent.size == sum(len(serialize_message(chunk)) for chunk in near[:3])
    assert selector.buffer.snapshot()['cav_2'].chunks_received == 4


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('chunks', 5),
        ('chunk', 200),
        ('model_id', 'other@000000000000'),
        ('map_frame', 'elsewhere'),
        ('twist_known', True),
    ],
)
def test_a_contradicting_chunk_is_refused(selector, sweep_of, field, value):
    first, *rest = sweep_of(0)
    wrong = deepcopy(rest[0])
    setattr(wrong, field, value)
    moved = deepcopy(rest[1])
    moved.position[1] += 1.0
    other_data = deepcopy(first)
    other_data.data[3] ^= 1
    arrive(selector, first, wrong, moved, other_data, *rest)
    verdict = verdict_at(selector, 0)
    assert verdict.accepted
    assert verdict.extent.chunks == 4
    record = selector.buffer.snapshot()['cav_2']
    assert record.chunks_refused == {Refusal.CONTRADICTION: 3}
    assert record.chunks_received == 4
    # The refused ones are the neighbour's in the diagnostics.
    items = {item.name: item.values for item in selector.items()}
    assert items['neighbour/cav_2']['chunks refused, contradicts other chunks of its sweep'] == 3


def test_a_chunk_larger_than_any_is_not_stored(selector, sweep_of):
    (large, *_) = sweep_of(0)
    large.data.frombytes(bytes(1000))
    arrive(selector, large)
    assert verdicts(selector, 0, EGO) == {}
    assert selector.buffer.totals().chunks_refused == {Refusal.CONTRADICTION: 1}


def test_a_name_of_any_length_is_not_kept_and_drives_no_neighbour_out(selector, sweep_of):
    arrive(selector, *sweep_of(0))
    for k in range(100):
        arrive(selector, *sweep_of(0, agent=f'{k}' + 'x' * 2000)[:1])
    assert list(selector.buffer.snapshot()) == ['cav_2']
    assert selector.buffer.totals().chunks_refused == {Refusal.NAME: 100}
    assert verdict_at(selector, 0).accepted


def test_sweeps_that_are_played_again_are_taken_again(selector, sweep_of):
    """Of a short recording in a loop."""
    for turn in range(3):
        for k in range(30, 45):
            arrive(selector, *sweep_of(k))
            verdict = verdict_at(selector, k * S // 10)
            assert verdict.accepted, turn
            assert verdict.extent.chunks == 4


def test_after_a_jump_back_sweeps_are_taken_again(selector, sweep_of):
    for k in range(5):
        arrive(selector, *sweep_of(k))
        verdict_at(selector, k * S // 10)
    selector.buffer.forget_after(2 * S // 10)
    for k in range(2, 5):
        arrive(selector, *sweep_of(k))
        assert verdict_at(selector, k * S // 10).extent.chunks == 4


def test_a_model_without_layers_refuses_them_with_the_reason(card, sweep_of):
    selector = NeighbourSelector(card, 'cav_1', 0.25, 0.01, 2000.0)
    arrive(selector, *sweep_of(0))
    verdict = verdict_at(selector, 0)
    assert not verdict.accepted
    assert verdict.reason.startswith('of another model: sim_edge@abababababab, the ego runs sim_edge@')
    assert verdict.reason.endswith(', which takes whole maps')


def test_a_flood_takes_limited_memory():
    """Of invented senders, sweeps and chunks."""
    buffer = PeerBuffer('cav_1', S // 2, 0, time.monotonic)
    draw = np.random.default_rng(0)
    for k in range(20_000):
        message = BevChunk(chunk=int(draw.integers(256)), chunks=255)
        message.data.frombytes(draw.bytes(100))
        sweep = 0 if k % 2 else int(draw.integers(2**32))
        buffer.add_chunk(f'cav_{draw.integers(150)}', sweep, sweep, ArrivedChunks(message, 300))
    stored = [entry.message for queue in buffer._queues.values() for entry in queue]
    assert 64 < len(stored) <= 64 * 4
    for _ in range(1000):
        message = BevChunk(chunk=int(draw.integers(256)), chunks=10)
        message.data.frombytes(draw.bytes(100))
        buffer.add_chunk('cav_2', S, 7, ArrivedChunks(message, 300))
    (pick,) = [pick for pick in buffer.pick(S) if pick.entry.sender == 'cav_2']
    assert pick.entry.message.arrived == 10
    assert buffer.snapshot()['cav_2'].chunks_refused[Refusal.CONTRADICTION] > 900


def test_every_chunk_of_too_many_sweeps_is_counted(selector, sweep_of):
    sweeps = [sweep_of(k, stamp=k) for k in range(150)]
    arrive(selector, *(message for sweep in sweeps for message in sweep))
    record = selector.buffer.snapshot()['cav_2']
    over = record.refused[Refusal.RATE]
    assert over > 40
    assert record.chunks_refused == {Refusal.RATE: 4 * over}
    assert record.chunks_received + record.chunks_refused.total() == 4 * 150


def test_an_own_chunk_that_the_link_returns_is_ignored(selector, sweep_of):
    arrive(selector, *sweep_of(0, agent='cav_1'))
    assert selector.buffer.own == 4
    assert verdicts(selector, 0, EGO) == {}
