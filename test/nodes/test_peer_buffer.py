# SPDX-License-Identifier: Apache-2.0
"""Which of a neighbour's messages belongs to a sweep, and what is counted."""

from __future__ import annotations

import pytest

from diffkd_ros.nodes.peer_buffer import PeerBuffer, Refusal

S = 1_000_000_000


@pytest.fixture
def buffer():
    return PeerBuffer('cav_1', max_age=S // 2, future_tolerance=S // 20)


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


def test_own_messages_are_never_picked(buffer):
    buffer.add('cav_1', 5 * S, 0, 'mine')
    assert picked(buffer, 5 * S)['cav_1'][2] is Refusal.OWN


def test_a_sender_whose_time_falls_back_starts_anew(buffer):
    buffer.add('a', 100 * S, 50, 'before')
    buffer.add('a', 3 * S, 0, 'after')
    assert picked(buffer, 3 * S)['a'] == ('after', 0, None)


def test_gaps_in_the_sequence_are_losses_and_a_restart_is_not(buffer):
    for sequence in (2**32 - 2, 2**32 - 1, 0, 3, 4, 0, 1):
        buffer.add('a', sequence, sequence, None)
    counts = buffer.snapshot()['a']
    assert (counts.received, counts.lost) == (7, 2)


def test_invented_names_do_not_pile_up(buffer):
    for k in range(1000):
        buffer.add(f'v{k}', k, 0, None)
    assert len(buffer.pick(1000)) == 64
    assert len(buffer.snapshot()) == 64


def test_counts_of_what_became_of_a_sender(buffer):
    buffer.add('a', 0, 0, None)
    buffer.count_refused('a', Refusal.GRID, 'of another grid: 3')
    buffer.count_refused('a', Refusal.GRID, 'of another grid: 4')
    counts = buffer.snapshot()['a']
    assert (counts.refused[Refusal.GRID], counts.last_refusal) == (2, 'of another grid: 4')
    buffer.count_fused('a')
    counts = buffer.snapshot()['a']
    assert (counts.fused, counts.last_refusal) == (1, '')
