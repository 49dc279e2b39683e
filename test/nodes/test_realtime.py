# SPDX-License-Identifier: Apache-2.0
"""A player in real time: stamps of the wall clock, its log, and its end on Ctrl-C."""

from __future__ import annotations

import itertools
import signal
import threading
import time

import pytest
from nav_msgs.msg import Odometry
from patience import PATIENCE
from rosgraph_msgs.msg import Clock

from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.nodes.base import qos
from diffkd_ros.nodes.evaluator_node import _DriveTime
from diffkd_ros.nodes.playing.feeder import FrameFeeder

DRIVE = 3


@pytest.fixture(scope='module')
def player(group, partner):
    """A player of short scenarios, and (stamp, arrival) of its clock and poses."""
    arrived = {'clock': [], 'odometry': []}

    def note(name, time_of):
        def store(message):
            stamp = time_of(message)
            arrived[name].append((stamp.sec * NANOSECONDS + stamp.nanosec, time.time_ns()))

        return store

    partner.node.create_subscription(Clock, '/clock', note('clock', lambda m: m.clock), qos.RESULTS)
    partner.node.create_subscription(
        Odometry, '/cav_1/odometry', note('odometry', lambda m: m.header.stamp), qos.ODOMETRY
    )
    spec = NodeSpec(
        'player_node',
        '/',
        (),
        {
            'mode': 'realtime',
            'rates': [10.0],
            'vehicles': 1,
            'frames_per_scenario': DRIVE,
            'subscribers': 0,
        },
    )
    return group.start(spec), arrived


def test_stamps_are_of_the_wall_clock_also_after_a_change_of_scenario(player, partner):
    _, arrived = player
    partner.until(lambda: all(len(items) > 3 * DRIVE for items in arrived.values()), 'four scenarios')
    for items in arrived.values():
        for stamp, arrival in items:
            assert arrival - PATIENCE * NANOSECONDS < stamp <= arrival
        # A pause in which the features of the previous scenario grow too old to be fused.
        steps = [after - before for (before, _), (after, _) in itertools.pairwise(items)]
        assert sum(step > 1.2 * NANOSECONDS for step in steps) >= 3


def test_progress_is_no_info_line_a_second_and_nothing_is_logged_after_the_end(player, partner):
    process, arrived = player
    partner.until(lambda: len(arrived['clock']) > 5 * DRIVE, 'frames of six scenarios')
    process.signal(signal.SIGINT)
    assert process.wait(PATIENCE)
    lines = process.tail().splitlines()
    progress = [line for line in lines if 'features missing' in line]
    assert sum('[DEBUG]' in line for line in progress) > 2
    # At the beginning and at the end.
    assert sum('[INFO]' in line for line in progress) <= 2
    assert process.returncode == 0
    assert lines[-1] == progress[-1]
    assert '[diffkd_ros]: player_node: frame' in lines[-1]


def test_a_feeder_stops_at_once_although_its_thread_is_busy():
    """The thread may compile the simulator for seconds."""
    busy, reached = threading.Event(), threading.Event()

    def frames():
        yield from ('first', 'second')
        reached.set()
        busy.wait(PATIENCE)
        yield 'third'

    feeder = FrameFeeder(frames, 0)
    assert reached.wait(PATIENCE)
    got = iter(feeder)
    assert next(got) == 'first'
    feeder.stop()
    assert list(got) == []
    busy.set()


def test_a_feeder_gives_all_frames_and_then_the_error():
    def frames():
        yield from range(20)
        raise OSError('unreadable')

    fed = iter(FrameFeeder(frames, 0))
    assert [next(fed) for _ in range(20)] == list(range(20))
    with pytest.raises(OSError, match='unreadable'):
        next(fed)
    assert list(FrameFeeder(frames, 7)) == list(range(7))


def test_pauses_between_scenarios_do_not_count_as_time_of_a_drive():
    clock = _DriveTime()
    stamps = [100.0, 100.2, 100.4, 101.8, 102.0, 112.0, 112.2]
    shown = [clock.without_gaps(round(stamp * NANOSECONDS)) / NANOSECONDS for stamp in stamps]
    assert shown == pytest.approx([100.0, 100.2, 100.4, 100.6, 100.8, 101.0, 101.2])
