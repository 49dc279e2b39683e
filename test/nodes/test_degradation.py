# SPDX-License-Identifier: Apache-2.0
"""The level of degradation of a fusion: each step, its cause, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from diffkd_ros.msg import FusionStatus

from diffkd_ros.frame import Boxes3D
from diffkd_ros.messages.names import DEGRADATIONS
from diffkd_ros.nodes.base.diagnostics import ERROR, OK, WARN
from diffkd_ros.nodes.link.arrived import Extent
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.nodes.perception.degradation import Degradation, DegradationReport, Ladder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.sensor.faults import MISLEADING, MISPLACED, Fault

SECOND = 1_000_000_000


def fused(name, feature=None):
    return Verdict(name, '', 0.1, Extent(100), 0, feature=feature or BevFeature.empty(1, 8, 8))


def refused(name, refusal=Refusal.ABSENT):
    return Verdict(name, f'{refusal.value}: 0.61 s old', 0.6, Extent(0), 0)


def layered(coarse=0, fine=0):
    bytes_of = {'boxes': 24, 'coarse': coarse, 'fine': fine}
    return ReceivedMap(Boxes3D.empty(), np.zeros((2, 2), np.int16), np.zeros((1, 8, 8), np.int16), bytes_of)


class Drive:
    """Decides sweeps 0.1 s apart."""

    def __init__(self):
        self.ladder, self.stamp = Ladder(), 0

    def __call__(self, *verdicts, faults=None, overdue='', after=0.1, own_map_used=True):
        self.stamp += round(after * SECOND)
        found = self.ladder.decide(self.stamp, verdicts, faults or {}, overdue, own_map_used)
        return found.level, found.cause


@pytest.fixture
def drive():
    return Drive()


def test_the_names_are_those_of_the_message():
    assert [name.lower().replace('_', ' ') for name in names_of(FusionStatus)] == list(DEGRADATIONS)


def names_of(message):
    levels = ('FULL', 'FEWER_PEERS', 'BOXES_ONLY', 'EGO_ALONE', 'PEERS_ALONE', 'STALE')
    return sorted(levels, key=lambda name: getattr(message, name))


def test_all_neighbours_fused_is_full(drive):
    assert drive(fused('cav_2'), fused('cav_3', layered(coarse=10))) == (FusionStatus.FULL, '')


def test_a_neighbour_that_is_missed_is_named_until_it_returns_or_is_forgotten(drive):
    drive(fused('cav_2'), fused('cav_3'))
    missed = FusionStatus.FEWER_PEERS, 'cav_3 nothing new arrived: 0.61 s old'
    assert drive(fused('cav_2'), refused('cav_3')) == missed
    assert drive(fused('cav_2'), fused('cav_3')) == (FusionStatus.FULL, '')
    assert drive(fused('cav_2'), refused('cav_3'), after=9.0) == missed
    assert drive(fused('cav_2'), refused('cav_3'), after=2.0) == (FusionStatus.FULL, '')


def test_a_neighbour_whose_statistics_were_dropped_is_missed(drive):
    drive(fused('cav_2'), fused('cav_3'))
    assert drive(fused('cav_2')) == (FusionStatus.FEWER_PEERS, 'cav_3 unknown')


@pytest.mark.parametrize('refusal', [Refusal.NOT_ALLOWED, Refusal.FAR, Refusal.BEYOND_LIMIT])
def test_a_neighbour_that_is_not_wanted_is_not_missed(drive, refusal):
    drive(fused('cav_2'), fused('cav_3'))
    assert drive(fused('cav_2'), refused('cav_3', refusal)) == (FusionStatus.FULL, '')


def test_strangers_that_were_never_fused_degrade_nothing(drive):
    assert drive(fused('cav_2'), refused('liar', Refusal.PAYLOAD)) == (FusionStatus.FULL, '')


def test_boxes_alone_are_a_step_of_their_own(drive):
    cause = 'only boxes of cav_2 arrived'
    assert drive(fused('cav_2', layered())) == (FusionStatus.BOXES_ONLY, cause)
    assert drive(fused('cav_2', layered()), fused('cav_3', layered(fine=9))) == (FusionStatus.FULL, '')


def test_nobody_there_and_everybody_missed_are_different_causes(drive):
    assert drive() == (FusionStatus.EGO_ALONE, 'no neighbour in reach')
    drive(fused('cav_2'))
    assert drive(refused('cav_2')) == (FusionStatus.EGO_ALONE, 'cav_2 nothing new arrived: 0.61 s old')
    assert drive(fused('cav_2')) == (FusionStatus.FULL, '')


def test_a_late_result_is_stale_even_with_neighbours(drive):
    late = 'over the budget of 200 ms for 1.1 s'
    assert drive(fused('cav_2'), overdue=late) == (FusionStatus.STALE, late)
    assert drive(fused('cav_2')) == (FusionStatus.FULL, '')


@pytest.mark.parametrize('fault', Fault)
def test_a_fault_of_the_own_sensors_is_a_cause(drive, fault):
    faults = {fault: 'details'}
    cause = f'own sensors: {fault.value}: details'
    used = fault not in MISLEADING
    level, said = drive(fused('cav_2'), faults=faults, own_map_used=used)
    assert said.startswith(cause)
    if fault in MISPLACED:
        assert level == FusionStatus.STALE
    else:
        assert level == (FusionStatus.FEWER_PEERS if used else FusionStatus.PEERS_ALONE)
    # With nobody else, a sweep that shows things where they are not is worse than one that shows few.
    level, said = drive(faults=faults, after=20.0)
    assert said.startswith(cause)
    assert level == (FusionStatus.STALE if fault in MISLEADING | MISPLACED else FusionStatus.EGO_ALONE)
    assert drive(fused('cav_2')) == (FusionStatus.FULL, '')


def test_without_the_own_map_it_does_not_matter_how_much_neighbours_sent(drive):
    faults = {Fault.FROZEN: 'details'}
    for neighbours in ([fused('cav_2'), fused('cav_3')], [fused('cav_2', layered())]):
        level, cause = drive(*neighbours, faults=faults, own_map_used=False)
        assert level == FusionStatus.PEERS_ALONE
        assert 'the own map is left out' in cause


def test_after_a_step_back_in_time_nobody_is_missed(drive):
    drive(fused('cav_2'), fused('cav_3'), after=100.0)
    assert drive(fused('cav_2'), after=-50.0) == (FusionStatus.FULL, '')


class Log:
    """Collects the lines of a logger."""

    def __init__(self):
        self.lines = []

    def info(self, line, **_):
        self.lines.append(line)

    warning = info


class Watched:
    """A report with a clock that is set by hand."""

    def __init__(self):
        self.now, self.log = 100.0, Log()
        self.report = DegradationReport(lambda: self.now, self.log)

    def current(self, reason='', after=0.0):
        self.now += after
        item = self.report.current(reason).item()
        return item.level, item.message


FUSED = Degradation(FusionStatus.FULL)
RAISED = 'inference failed: ValueError: broken'


@pytest.fixture
def watched():
    return Watched()


def test_before_the_first_sweep_it_is_stale_but_no_error(watched):
    assert watched.current(after=60.0) == (WARN, 'stale: no sweep yet')
    assert watched.current('no cloud received yet on points') == (
        WARN,
        'stale: no cloud received yet on points',
    )
    # A result may take a moment.
    watched.report.received()
    assert watched.current(after=1.9)[0] == WARN
    assert watched.current(RAISED, after=0.2) == (ERROR, f'stale: {RAISED}')


def test_without_a_result_for_two_seconds_it_is_stale_until_there_is_one(watched):
    watched.report.received()
    watched.report.fused(FUSED)
    # A sweep may be refused, and the next one used.
    assert watched.current('sweep refused: no pose', after=1.9) == (OK, 'full')
    assert watched.current('sweep refused: no pose', after=0.2) == (ERROR, 'stale: sweep refused: no pose')
    assert watched.current(after=0.5) == (ERROR, 'stale: no result for 2.6 s')
    watched.report.received()
    assert watched.current()[0] == ERROR
    watched.report.fused(FUSED)
    assert watched.current() == (OK, 'full')
    assert watched.log.lines == ['stale -> full', 'full -> stale: sweep refused: no pose', 'stale -> full']


def test_a_neighbour_that_was_never_there_is_no_warning(watched, drive):
    for verdicts, level in (((), OK), ((fused('cav_2'),), OK), ((refused('cav_2'),), WARN)):
        drive.stamp += SECOND
        watched.report.fused(drive.ladder.decide(drive.stamp, verdicts, {}, '', True))
        assert watched.current()[0] == level
