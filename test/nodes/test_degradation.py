# SPDX-License-Identifier: Apache-2.0
"""The level of degradation of a fusion: each step, its cause, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from diffkd_ros.msg import FusionStatus

from diffkd_ros.frame import Boxes3D
from diffkd_ros.messages.names import DEGRADATIONS
from diffkd_ros.nodes.link.arrived import Extent
from diffkd_ros.nodes.link.neighbours import Verdict
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.nodes.perception.degradation import Ladder
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.sensor.monitor import Fault

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

    def __call__(self, *verdicts, faults=None, overdue='', after=0.1):
        self.stamp += round(after * SECOND)
        found = self.ladder.decide(self.stamp, verdicts, faults or {}, overdue)
        return found.level, found.cause


@pytest.fixture
def drive():
    return Drive()


def test_the_names_are_those_of_the_message():
    assert [name.lower().replace('_', ' ') for name in names_of(FusionStatus)] == list(DEGRADATIONS)


def names_of(message):
    levels = ('FULL', 'FEWER_PEERS', 'BOXES_ONLY', 'EGO_ALONE', 'STALE')
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
def test_a_fault_of_the_own_lidar_is_a_cause(drive, fault):
    faults = {fault: 'details'}
    cause = f'own LiDAR {fault.value}: details'
    assert drive(fused('cav_2'), faults=faults) == (FusionStatus.FEWER_PEERS, cause)
    level, said = drive(faults=faults, after=20.0)
    assert said.startswith(cause)
    # With nobody else, a sweep that shows things where they are not is worse than one that shows few.
    misleading = fault in (Fault.FROZEN, Fault.TURNED)
    assert level == (FusionStatus.STALE if misleading else FusionStatus.EGO_ALONE)
    assert drive(fused('cav_2')) == (FusionStatus.FULL, '')


def test_after_a_step_back_in_time_nobody_is_missed(drive):
    drive(fused('cav_2'), fused('cav_3'), after=100.0)
    assert drive(fused('cav_2'), after=-50.0) == (FusionStatus.FULL, '')
