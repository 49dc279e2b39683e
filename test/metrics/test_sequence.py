# SPDX-License-Identifier: Apache-2.0
"""Losses counted from sequence numbers, against a link whose losses are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diffkd_ros.metrics.sequence import SequenceStatistics

PERIOD = 100_000_000


@st.composite
def deliveries(draw):
    """Messages in the order received, and the statistics expected of them.

    A sender counts up from any number and starts again at 0 with each restart. Up to eight messages in
    succession are lost, two in succession may be exchanged on the way, and any may arrive twice.
    """
    received, expected = [], SequenceStatistics()
    stamp = 0
    restarts = draw(st.integers(0, 2))
    # A restart at 0 from the upper half of the range looks like messages lost until the sequence wraps.
    before_first = draw(st.integers(0, 2**30) if restarts else st.integers(0, 2**32 - 1))
    for restart in range(restarts + 1):
        first = 0 if restart else before_first
        # The first message of each run and the last before the next one arrive, so nothing lost is unknown.
        gaps = [0, *draw(st.lists(st.integers(0, 8), max_size=40))]
        run, number = [], first
        for gap in gaps:
            number += gap
            run.append((number % 2**32, stamp + (number - first) * PERIOD))
            number += 1
        stamp = run[-1][1] + PERIOD
        for at in draw(st.sets(st.integers(0, len(run) // 2))):
            if 1 < 2 * at < len(run) - 1:
                run[2 * at], run[2 * at + 1] = run[2 * at + 1], run[2 * at]
        expected.lost += sum(gaps)
        expected.received += len(gaps)
        expected.restarts += restart > 0
        if not restart:
            expected.unheard = first
        for message in run:
            copies = draw(st.sampled_from([1, 1, 1, 2, 3]))
            # Only a copy of the newest message is recognised as repeated.
            copies = copies if message == max(run[: run.index(message) + 1], key=lambda m: m[1]) else 1
            received += [message] * copies
            expected.repeated += copies - 1
    return received, expected


@given(deliveries())
def test_statistics_are_those_of_the_link(drawn):
    received, expected = drawn
    statistics = SequenceStatistics()
    last = None
    for sequence, stamp in received:
        new = statistics.follow(sequence, stamp)
        assert new == ((sequence, stamp) != last)
        last = (sequence, stamp)
    for name in ('received', 'repeated', 'lost', 'unheard', 'restarts'):
        assert getattr(statistics, name) == getattr(expected, name), name
    assert statistics.loss == expected.lost / (expected.lost + expected.received)


def test_a_message_from_a_long_burst_may_still_arrive_late():
    statistics = SequenceStatistics()
    for sequence in (0, 100, 99):
        statistics.follow(sequence, sequence * PERIOD)
    assert (statistics.received, statistics.lost, statistics.restarts) == (3, 98, 0)
