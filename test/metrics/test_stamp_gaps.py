# SPDX-License-Identifier: Apache-2.0
"""Messages missing between stamps, against a sensor whose missing messages are known."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffkd_ros.metrics.stamp_gaps import StampGaps

PERIOD = 100_000_000
SECOND = 1_000_000_000


@given(
    st.lists(st.integers(0, 8), max_size=60),
    st.integers(0, 2**32 - 1),
    st.sampled_from([PERIOD, PERIOD // 2, PERIOD * 3 // 7]),
)
def test_every_missing_message_is_counted(missing, seed, period):
    """Up to 8 consecutive messages are missing; stamps are off by up to 1 % of the period."""
    steps = [1]
    for gap in missing:
        steps += [1 + gap, 1]
    steps += [1] * 4
    jitter = np.random.default_rng(seed).uniform(-0.01, 0.01, len(steps))
    gaps = StampGaps()
    for number, off in zip(np.cumsum(steps), jitter, strict=True):
        gaps.follow(int((number + off) * period))
    assert gaps.missing == sum(missing)


def follow(stamps):
    gaps = StampGaps()
    for stamp in stamps:
        gaps.follow(stamp)
    return gaps


def test_a_long_pause_and_a_time_that_jumps_back_are_not_gaps():
    drive = [k * PERIOD for k in range(20)]
    later = [4 * SECOND + stamp for stamp in drive]
    gaps = follow([*drive, *later, *drive])
    assert (gaps.missing, gaps.pauses) == (0, 1)
    assert follow([*drive, *later, later[-1] + 2 * PERIOD]).missing == 1


def test_messages_are_not_missed_while_none_are_received():
    gaps = follow(k * PERIOD for k in range(20))
    gaps.reset()
    gaps.follow(25 * PERIOD)
    gaps.follow(27 * PERIOD)
    assert gaps.missing == 1


def test_a_single_short_interval_does_not_change_the_period():
    assert follow([0, PERIOD, 2 * PERIOD, 3 * PERIOD, 3 * PERIOD + 1000, 4 * PERIOD, 5 * PERIOD]).missing == 0
