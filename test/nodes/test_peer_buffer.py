# SPDX-License-Identifier: Apache-2.0
"""Which of a neighbour's messages is picked for a sweep, and the statistics of its messages."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from diffkd_ros.msg import NeighbourStatus
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from diffkd_ros.nodes.ego_node import neighbour_status
from diffkd_ros.nodes.link.arrived import Extent
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.link.peer_buffer import PeerBuffer
from diffkd_ros.nodes.link.peer_record import PeerRecord
from diffkd_ros.nodes.link.refusal import Refusal

S = 1_000_000_000


@pytest.fixture
def buffer():
    return PeerBuffer('cav_1', max_age=S // 2, future_tolerance=S // 20, clock=time.monotonic)


def picked(buffer, stamp):
    return {p.entry.sender: (p.entry.message, p.age, p.refusal) for p in buffer.pick(stamp)}


def test_the_newest_message_of_each_sender_is_picked(buffer):
    buffer.add('b', 10 * S, 0, 'old')
    buffer.add('b', 10 * S + 100, 1, 'new')
    buffer.add('a', 10 * S - 300, 0, 'other')
    assert list(picked(buffer, 10 * S + 200).items()) == [
        ('a', ('other', 500, None)),
        ('b', ('new', 100, None)),
    ]


def test_a_message_newer_than_the_sweep_does_not_hide_the_one_that_belongs_to_it(buffer):
    for k in range(3):
        buffer.add('a', k * S, k, k)
    assert picked(buffer, S)['a'] == (1, 0, None)
    # Within the tolerance of a clock that is a little ahead.
    assert picked(buffer, 2 * S - S // 20)['a'] == (2, -(S // 20), None)


def test_too_old_too_new_and_silent(buffer):
    buffer.add('a', 10 * S, 0, 'a')
    assert picked(buffer, 9 * S)['a'][2] is Refusal.FUTURE
    buffer.add('a', 10 * S, 1, 'a')
    assert picked(buffer, 10 * S + S // 2)['a'][2] is None
    assert picked(buffer, 10 * S + S // 2 + 1)['a'][2] is Refusal.ABSENT
    buffer.add('a', 10 * S, 2, 'a')
    assert picked(buffer, 12 * S)['a'][2] is Refusal.STALE
    assert 'a' in picked(buffer, 20 * S)
    assert picked(buffer, 20 * S + 1) == {}
    assert buffer.snapshot() == {}


def test_own_messages_are_ignored_and_counted(buffer):
    buffer.add('cav_1', 5 * S, 0, 'mine')
    assert picked(buffer, 5 * S) == {}
    assert buffer.own == 1
    assert buffer.snapshot(forgotten=True) == {}


def test_a_sender_whose_time_falls_back_has_restarted(buffer):
    buffer.add('a', 100 * S, 50, 'before')
    buffer.add('a', 3 * S, 0, 'after')
    assert picked(buffer, 3 * S)['a'] == ('after', 0, None)


def test_of_two_messages_with_the_same_stamp_the_last_received_is_picked(buffer):
    """A simulation that is started again repeats its stamps, and its time may fall back by little."""
    for world in ('before', 'after'):
        for k in range(3):
            buffer.add('a', 10 * S + k * S // 10, 3 * (world == 'after') + k, f'{world} {k}')
    assert picked(buffer, 10 * S + 2 * S // 10)['a'] == ('after 2', 0, None)


def test_a_stamp_of_another_epoch_is_not_called_late(buffer):
    buffer.add('a', 1_700_000_000 * S, 0, 'a')
    assert picked(buffer, 9 * S)['a'][2] is Refusal.CLOCK
    buffer.add('b', 3 * S, 0, 'b')
    assert picked(buffer, 1_700_000_000 * S)['b'][2] is Refusal.CLOCK


def test_gaps_in_the_sequence_are_losses_and_a_restart_is_not(buffer):
    for stamp, sequence in enumerate((2**32 - 2, 2**32 - 1, 0, 3, 4, 0, 1)):
        buffer.add('a', stamp, sequence, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.lost, record.restarts) == (7, 2, 1)


def test_a_sequence_that_jumps_ahead_is_a_restart(buffer):
    """A neighbour can send any number; a jump farther than links lose is not counted as lost."""
    step = 2**31 - 1
    for stamp in range(4):
        buffer.add('a', stamp, stamp * step % 2**32, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.lost, record.restarts) == (4, 0, 3)
    assert record.received + record.unheard == 3 * step + 1
    buffer.add('a', 4, (3 * step + 65_537) % 2**32, None)  # away for nearly two hours
    assert buffer.snapshot()['a'].lost == 65_536


def test_counts_too_large_for_the_status_are_capped():
    verdict = Verdict('a', 'older than max_age', 2.0, Extent(90_000), 7)
    record = PeerRecord(received=2**32, lost=3 * 2**31, fused=5, overwritten=2**40)
    record.refused[Refusal.STALE] = 2**33
    status = neighbour_status(verdict, 0.0, record)
    status = deserialize_message(serialize_message(status), NeighbourStatus)
    most = 2**32 - 1
    assert (status.messages_received, status.messages_lost, status.messages_fused) == (most, most, 5)
    assert (status.messages_refused, status.messages_overwritten) == (most, most)


def test_a_late_message_is_not_lost(buffer):
    for sequence in (0, 1, 3, 2, 4):
        buffer.add('a', 100 * sequence, sequence, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.lost, record.restarts) == (5, 0, 0)


def test_a_repeated_message_counts_once(buffer):
    for sequence in (5, 6, 6, 7):
        buffer.add('a', 100 * sequence, sequence, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.repeated, record.lost, record.unheard) == (3, 1, 0, 5)


def test_invented_names_take_limited_memory(buffer):
    for k in range(1000):
        buffer.add(f'v{k}', k, 0, None)
    assert len(buffer.pick(1000)) == 64
    assert len(buffer.snapshot(forgotten=True)) == 64
    # The totals include those whose record was dropped.
    total = buffer.totals()
    assert (total.received, accounted(total)) == (1000, 1000)


def test_messages_sent_while_none_are_received_are_not_lost(buffer):
    for sequence in range(6):
        buffer.add('a', sequence * S // 10, sequence, None)
    buffer.pause()
    for sequence in (10, 12):
        buffer.add('a', sequence * S // 10, sequence, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.lost, record.unheard, record.gaps.missing) == (8, 1, 4, 1)


def test_gaps_in_the_stamps_of_a_sender_that_skips_sweeps_and_restarts(buffer):
    # Two sweeps skipped, half a second for a restart, a message lost, one late.
    for tenths, sequence in [*enumerate(range(6)), (8, 6), (13, 0), (14, 1), (17, 4), (16, 3), (18, 5)]:
        buffer.add('a', tenths * S // 10, sequence, None)
    record = buffer.snapshot()['a']
    assert (record.restarts, record.lost, record.gaps.missing) == (1, 1, 4)


def use(buffer, stamp, refusal=None):
    """Use the messages picked for a sweep: fuse each one that may be fused, refuse the others."""
    for pick in buffer.pick(stamp):
        why = pick.refusal or refusal
        if why is None:
            buffer.count_fused(pick.entry)
        else:
            buffer.count_refused(pick.entry, why, why.value)


def accounted(record):
    return record.fused + record.refused.total() + record.overwritten + record.waiting


def test_every_message_is_counted_once(buffer):
    buffer.add('a', 0, 0, None)
    use(buffer, 0)
    use(buffer, S // 10)  # once more: fused twice, but one message
    for k in (1, 2, 3):  # 1 and 2 are outdated before a sweep comes
        buffer.add('a', k * S // 10, k, None)
    use(buffer, 3 * S // 10, Refusal.GRID)
    use(buffer, 3 * S // 10, Refusal.GRID)
    buffer.add('a', 6 * S // 10, 6, None)  # 4 and 5 were lost; this one waits
    record = buffer.snapshot()['a']
    assert (record.fused, dict(record.refused), record.overwritten) == (1, {Refusal.GRID: 1}, 2)
    assert (record.waiting, record.lost, record.received) == (1, 2, 5)
    assert accounted(record) == record.received


def test_a_message_refused_first_and_fused_later_is_fused(buffer):
    buffer.add('a', 2 * S // 10, 0, None)
    use(buffer, 0)
    assert dict(buffer.snapshot()['a'].refused) == {Refusal.FUTURE: 1}
    use(buffer, 2 * S // 10)
    record = buffer.snapshot()['a']
    assert (record.fused, dict(record.refused), record.last_refusal) == (1, {}, '')


def test_a_message_in_use_may_leave_the_buffer(buffer):
    """Newer messages push one out while a sweep decodes it: it counts as fused nevertheless."""
    buffer.add('a', 0, 0, None)
    (pick,) = buffer.pick(0)
    for k in range(1, 9):
        buffer.add('a', k, k, None)
    buffer.count_fused(pick.entry)
    record = buffer.snapshot()['a']
    assert (record.fused, record.overwritten, record.waiting, record.received) == (1, 4, 4, 9)
    # Invented names do not push out a sender that was fused, but one that was not.
    buffer.add('b', 10, 0, None)
    _, pick = buffer.pick(10)
    for k in range(100):
        buffer.add(f'v{k}', 10, 0, None)
    buffer.count_fused(pick.entry)
    buffer.count_weight('b', 0.5)
    assert buffer.snapshot(forgotten=True).keys() >= {'a'}
    assert 'b' not in buffer.snapshot(forgotten=True)


def test_messages_of_the_future_are_dropped_when_time_jumps_back(buffer):
    buffer.add('a', 10 * S, 0, 'early')
    buffer.add('a', 10 * S + S // 20, 1, 'within the tolerance')
    buffer.add('a', 12 * S, 2, 'late')
    buffer.add('b', 60 * S, 0, 'late')
    buffer.forget_after(10 * S)
    # They are neither fused when that time is reached again, nor refused as from the future until then.
    assert picked(buffer, 10 * S) == {'a': ('within the tolerance', -S // 20, None)}
    assert picked(buffer, 12 * S)['a'][2] is Refusal.ABSENT
    records = buffer.snapshot(forgotten=True)
    assert [records[sender].overwritten for sender in 'ab'] == [2, 1]


def test_totals_survive_silence(buffer):
    buffer.add('a', 0, 0, None)
    use(buffer, 0)
    use(buffer, 20 * S)
    assert buffer.snapshot() == {}
    buffer.add('a', 20 * S, 1, None)
    record = buffer.snapshot()['a']
    assert (record.received, record.fused, record.waiting, record.lost) == (2, 1, 1, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from('ab'), st.sampled_from(['send', 'lose', 'late', 'sweep', 'refuse', 'restart'])
        ),
        max_size=80,
    )
)
def test_the_statistics_add_up(events):
    """sent = unheard + lost + received, and received = fused + refused + overwritten + waiting."""
    buffer = PeerBuffer('me', max_age=S // 2, future_tolerance=S // 20, clock=time.monotonic)
    now, sequence, sent, heard = 0, Counter(), Counter(), {}
    for sender, event in events:
        now += S // 20
        if event == 'restart':
            # Messages lost at the end of a sequence are unknown to the receiver.
            sent[sender] -= sequence[sender] - heard.get(sender, 0)
            sequence[sender] = heard[sender] = 0
        elif event in ('send', 'lose', 'late'):
            if event != 'lose':
                # After a restart the stamps continue to rise.
                late = event == 'late' and heard.get(sender)
                buffer.add(sender, now - (S if late else 0), sequence[sender], None)
                heard[sender] = sequence[sender] + 1
            sequence[sender] += 1
            sent[sender] += 1
        else:
            use(buffer, now, Refusal.POSE if event == 'refuse' else None)
    for sender, record in buffer.snapshot(forgotten=True).items():
        assert accounted(record) == record.received
        known = record.unheard + record.lost + record.received
        missable = sent[sender] - (sequence[sender] - heard[sender])
        # A restart whose first messages are lost can look like a gap, but adds no messages.
        assert known == missable or ((sender, 'restart') in events and known < missable)


def test_rate_and_lead_are_measured_by_the_stamps():
    record = PeerRecord()
    for k in range(11):
        record.arrived(k * S // 5, k, 2000, newest_sweep=k * S // 5 - S // 10)
    assert record.rate == pytest.approx(5.0)
    assert record.kilobytes_per_s == pytest.approx(10.0)
    assert record.lead == pytest.approx(0.1)
    assert record.loss == 0.0
