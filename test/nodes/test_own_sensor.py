# SPDX-License-Identifier: Apache-2.0
"""An ego and a vehicle in their own processes whose LiDAR fails, and the degradation that the ego reports."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from diffkd_ros.msg import FusionStatus
from patience import PATIENCE
from ros_partner import start_ego

from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import pose_from_euler, transform_points
from diffkd_ros.launching import graph
from diffkd_ros.messages.building import header_message
from diffkd_ros.messages.names import MAP_FRAME, lidar_frame
from diffkd_ros.nodes.link.feature_message import feature_message
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.sensor.faults import MISLEADING, Fault
from diffkd_ros.runtime.sensor.monitor import SensorMonitor
from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

SECOND = 1_000_000_000
PERIOD = SECOND // 10
LEARNT = 12
BROKEN = 12


@pytest.fixture(scope='module')
def frames():
    """A drive at about 9 m/s, with two neighbours."""
    scenario = Simulator(SimulatorConfig(agents=3, frames_per_scenario=60), seed=77).scenario(3)
    frames = [scenario.frame(k) for k in range(45)]
    way = frames[-1].agents[1].pose[:2, 3] - frames[0].agents[1].pose[:2, 3]
    assert np.linalg.norm(way) > 10
    return frames


@pytest.fixture(scope='module')
def shared(card, encoder, frames):
    """Makes the message of a neighbour, which sees the same in every frame."""
    encoded = {}

    def make(vehicle, index, stamp):
        if vehicle not in encoded:
            encoded[vehicle] = codec.encode(encoder.encode(frames[0].agents[vehicle].points))
        name, lidar = f'cav_{vehicle}', LidarPose(frames[index].agents[vehicle].pose, MAP_FRAME)
        header = header_message(stamp, lidar_frame(name))
        return feature_message(header, name, index, card, encoded[vehicle], lidar)

    return make


@pytest.fixture(scope='module')
def ego(group, partner, frames, model, shared):
    def share(stamp):
        partner.publish('/v2x/features', shared(2, 0, stamp))

    # On a busy machine results would be late, which is a level of its own.
    return start_ego(group, partner, frames[0].agents[1], model, share, max_latency=10.0)


def turned(sweep):
    return transform_points(pose_from_euler([0, 0, 0], yaw=np.radians(5)), sweep.points)


def scattered(sweep):
    noise = np.random.default_rng(len(sweep.points)).normal(0, 0.15, sweep.points.shape)
    return (sweep.points + noise * [1, 1, 1, 0]).astype(np.float32)


FAULTS = {
    Fault.TURNED: turned,
    Fault.MISSING: lambda sweep: sweep.points[sweep.points[:, 1] > 0],
    Fault.SPARSE: lambda sweep: sweep.points[::12],
    Fault.SCATTERED: scattered,
}


def broken_by(fault, frames):
    """Replaces the points of a sweep."""
    if fault is Fault.FROZEN:
        return lambda sweep: frames[LEARNT].agents[1].points
    return FAULTS[fault]


class Drive:
    """Exchanges sweeps 0.1 s apart with the ego."""

    def __init__(self, partner, shared, frames, stamp):
        self._partner, self._shared, self._frames, self._stamp = partner, shared, frames, stamp

    def __call__(self, index, neighbours=(), points=None):
        """Send the sweep of a frame, with other points if given; returns the status."""
        sweep = self._frames[index].agents[1]
        self._sweep = sweep if points is None else replace(sweep, points=points, ring=None, time=None)
        self._stamp += PERIOD
        for vehicle in neighbours:
            self._partner.publish('/v2x/features', self._shared(vehicle, index, self._stamp))
        return self._answer()

    def _answer(self):
        self._partner.sweep('cav_1', self._stamp, self._sweep)
        return self._partner.message_at('/cav_1/fusion_status', self._stamp)

    def diagnosed(self, name, text):
        """Repeat the last sweep until an item says this; returns it."""
        seen = len(self._partner.received['/diagnostics'])
        give_up = time.monotonic() + PATIENCE
        while True:
            self._stamp += PERIOD // 100
            self._answer()
            for array in self._partner.received['/diagnostics'][seen:]:
                for item in array.status:
                    if item.name == f'cav_1/ego_node: {name}' and text in item.message:
                        return item
            assert time.monotonic() < give_up, f'waited for diagnostics {name} saying {text!r}'


@pytest.fixture
def drive(ego, partner, shared, frames, stamp):
    return Drive(partner, shared, frames, stamp)


def broken_drive(drive, frames, fault):
    """Drive until a fault is reported; returns the status then."""
    change = broken_by(fault, frames)
    before = [drive(index, [2]) for index in range(LEARNT)]
    assert not any(status.sensor_faults for status in before)
    assert before[-1].ego_reliability > 0.0
    for index in range(LEARNT, LEARNT + BROKEN):
        status = drive(index, [2], change(frames[index].agents[1]))
    (text,) = status.sensor_faults
    assert text.startswith(f'{fault.value}: ')
    return status


@pytest.mark.parametrize('fault', [Fault.FROZEN, *FAULTS])
def test_a_fault_is_reported_and_used(drive, frames, fault):
    status, misleading = broken_drive(drive, frames, fault), fault in MISLEADING
    (text,) = status.sensor_faults
    assert status.degradation == (FusionStatus.PEERS_ALONE if misleading else FusionStatus.FEWER_PEERS)
    left_out = '; the own map is left out' if misleading else ''
    assert status.degradation_cause == f'own sensors: {text}{left_out}'
    assert status.own_map_used != misleading
    assert [n.accepted for n in status.neighbours] == [True]
    # Of a sweep that is left out the ego has no share.
    assert (status.ego_reliability == 0.0) == misleading
    assert drive.diagnosed('input', fault.value).level == (b'\x02' if misleading else b'\x01')
    assert drive.diagnosed('degradation', f'own sensors: {fault.value}').level == b'\x01'


@pytest.mark.parametrize('fault', [Fault.FROZEN, *FAULTS])
def test_a_fault_ends_by_itself(drive, frames, fault):
    """Without a stop to wait for diagnostics: a start from a stop to 9 m/s is a step of the pose."""
    broken_drive(drive, frames, fault)
    last = [drive(index, [2]) for index in range(LEARNT + BROKEN, len(frames))][-1]
    assert (list(last.sensor_faults), last.degradation) == ([], FusionStatus.FULL)
    assert last.ego_reliability > 0.0
    assert drive.diagnosed('input', 'points in the last sweep').level == b'\x00'


def test_a_frozen_cloud_alone_is_stale(drive, frames):
    for index in range(LEARNT):
        drive(index)
    for index in range(LEARNT, LEARNT + BROKEN):
        status = drive(index, points=frames[LEARNT].agents[1].points)
    assert status.degradation == FusionStatus.STALE
    assert status.degradation_cause == 'own sensors: frozen: the same returns again; nothing else is fused'
    # The own map is used all the same: there is no other.
    assert status.own_map_used
    assert status.ego_reliability > 0.0
    assert drive.diagnosed('degradation', 'stale: own sensors: frozen').level == b'\x02'


def test_the_steps_from_full_to_alone_and_back(drive):
    found = {}
    for end, neighbours in ((10, [2, 3]), (20, [2]), (30, []), (40, [2, 3])):
        for index in range(end - 10, end):
            status = drive(index, neighbours)
        found[end] = status.degradation, status.degradation_cause
    assert found[10] == (FusionStatus.FULL, '')
    assert found[20][0] == FusionStatus.FEWER_PEERS
    assert found[20][1].startswith('cav_3 nothing new arrived')
    assert found[30][0] == FusionStatus.EGO_ALONE
    assert 'cav_2 nothing new arrived' in found[30][1]
    assert found[40] == (FusionStatus.FULL, '')


def test_without_sweeps_the_diagnostics_are_stale_until_one_comes(drive, partner):
    drive(0)
    assert partner.diagnosis('degradation', 'stale: no cloud on').level == b'\x02'
    assert drive(1, [2]).degradation == FusionStatus.FULL
    assert drive.diagnosed('degradation', 'full').level == b'\x00'


def test_a_vehicle_does_not_share_what_is_not_where_it_seems(group, partner, frames, model, stamp):
    """Until its LiDAR is in order again."""
    _, spec = graph.vehicle_specs([1, 4], 1, {'model': str(model), 'threads': 1})
    group.start(spec)
    group.wait_ready(PATIENCE)
    sweep = frames[0].agents[1]
    start = partner.until_answered(
        '/v2x/features', lambda at: partner.sweep('cav_4', at, sweep), lambda m: m.agent_id == 'cav_4', stamp
    )
    begins, monitor = start + 100 * SECOND, SensorMonitor()
    for index, frame in enumerate(frames):
        own, at = frame.agents[1], begins + index * PERIOD
        if index >= LEARNT:
            own = replace(own, points=frames[LEARNT].agents[1].points, ring=None, time=None)
        partner.sweep('cav_4', at, own)
        monitor.examine(own.points, own.pose, MAP_FRAME, at)
        if monitor.misleading:
            break
        partner.message_at('/v2x/features', at)
    assert LEARNT < index < LEARNT + 20
    item = partner.diagnosis('cav_4/vehicle_node: input', 'refused: own sensors: frozen')
    assert int({v.key: v.value for v in item.values}['sweeps refused (sensor)']) == 1
    rest = itertools.count(index + 1)

    def drive_on(at):
        partner.sweep('cav_4', at, frames[next(rest)].agents[1])

    partner.until_answered('/v2x/features', drive_on, start=at)
    item = partner.diagnosis('cav_4/vehicle_node: input', 'points in the last sweep')
    assert int({v.key: v.value for v in item.values}['sweeps refused (sensor)']) == 10
