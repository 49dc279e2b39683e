# SPDX-License-Identifier: Apache-2.0
"""Which neighbours are fused: possible poses, values and places."""

from __future__ import annotations

import numpy as np
import pytest
from diffkd_ros.msg import BevFeature
from link_selection import sent_by, verdicts
from rclpy.serialization import serialize_message

from diffkd_ros.nodes.link.feature_message import encoded_of
from diffkd_ros.nodes.link.neighbours import NeighbourSelector
from diffkd_ros.nodes.link.refusal import Refusal
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.features import BevFeature as Map

S = 1_000_000_000


def receive(selector, message, participant=0):
    """With participant 0 it is not known."""
    selector.receive(BevFeature, serialize_message(message), sent_by(participant) if participant else {})


def far(message):
    message.pose.pose.position.x += 1000.0


def above(message):
    message.pose.pose.position.z += 40.0


def on_its_side(message):
    quaternion = message.pose.pose.orientation
    quaternion.x, quaternion.y, quaternion.z, quaternion.w = 0.6, 0.0, 0.0, 0.8


def uncertain_position(message):
    message.pose.covariance[7] = 36.0


def uncertain_heading(message):
    message.pose.covariance[35] = 0.2


def speeding(message):
    message.twist.twist.linear.x = 100.0


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (far, Refusal.FAR),
        (above, Refusal.FAR),
        (on_its_side, Refusal.POSE),
        (uncertain_position, Refusal.UNCERTAIN),
        (uncertain_heading, Refusal.UNCERTAIN),
        (speeding, Refusal.MOTION),
    ],
)
def test_a_pose_of_no_use_is_refused_before_the_map_is_decoded(selector, feature_of, ego_pose, spoil, reason):
    message = feature_of(2, 'cav_2', S)
    spoil(message)
    # It does not matter that the payload is damaged, too.
    del message.data[100:]
    receive(selector, message)
    verdict = verdicts(selector, S, ego_pose)['cav_2']
    assert verdict.reason.startswith(reason.value)
    assert selector.buffer.snapshot()['cav_2'].refused == {reason: 1}


def test_a_jump_costs_the_message_that_jumps(selector, feature_of, ego_pose):
    """In 0.1 s 9 m are possible, 11 m are not; after a second without messages the sender may be anywhere."""
    reasons = []
    for tenths, x in ((0, 0.0), (1, 9.0), (2, 20.0), (3, 21.0), (4, 0.0), (5, 0.5), (25, 40.0)):
        message = feature_of(2, 'cav_2', S + tenths * S // 10, tenths)
        message.pose.pose.position.x = ego_pose[0, 3] + x
        receive(selector, message)
        # In each sweep that it is picked for.
        sweeps = (verdicts(selector, S + tenths * S // 10 + k, ego_pose) for k in range(2))
        reasons += [found['cav_2'].reason for found in sweeps]
    wrong = [reason.startswith(Refusal.MOTION.value) for reason in reasons]
    assert wrong[::2] == wrong[1::2] == [False, False, True, False, True, False, False]


def test_the_usual_default_of_an_uncertain_heading_is_accepted(selector, feature_of, ego_pose):
    """RViz and AMCL state 15 degrees."""
    message = feature_of(2, 'cav_2', S)
    message.pose.covariance[35] = 0.0685
    receive(selector, message)
    assert verdicts(selector, S, ego_pose)['cav_2'].accepted


def test_values_are_not_limited_for_a_model_without_a_range(card, feature_of, ego_pose):
    unlimited = card.model_copy(update={'feature_range': None})
    selector = NeighbourSelector(unlimited, 'cav_1', 0.5, 0.05, link_rate=2000.0)
    message = feature_of(2, 'cav_2', S)
    message.scales[:] = type(message.scales)('f', [100 * scale for scale in message.scales])
    receive(selector, message)
    assert verdicts(selector, S, ego_pose)['cav_2'].accepted


@pytest.mark.parametrize('factor', [10, 1000])
def test_values_beyond_those_of_the_model_are_refused(selector, feature_of, card, ego_pose, factor):
    message = feature_of(2, 'cav_2', S)
    honest = codec.decode(encoded_of(message), card.channels, card.grid.height, card.grid.width)
    # The limit leaves honest values a margin.
    assert 1.5 * np.abs(honest.feature).max() < card.feature_range
    message.scales[:] = type(message.scales)('f', [factor * scale for scale in message.scales])
    receive(selector, message)
    verdict = verdicts(selector, S, ego_pose)['cav_2']
    assert not verdict.accepted
    assert verdict.reason.startswith('payload cannot be decoded: values up to')


def drive(selector, feature_of, ego_pose, honest, liars, sweeps, start=0, participants=None):
    """Let neighbours send for some sweeps; returns the names fused in the last one.

    Each of the liars claims to stand next to the ego. Participants are given by name.
    """
    participants = participants or {}
    for k in range(start, start + sweeps):
        stamp = S + k * S // 10
        # Limits of rates go by the ego's sweeps, so that they do not depend on how fast this machine is.
        selector.own_sweep(stamp)
        for vehicle in honest:
            name = f'cav_{vehicle}'
            receive(selector, feature_of(vehicle, name, stamp, k), participants.get(name, 0))
        for name in liars:
            message = feature_of(2, name, stamp, k)
            position = message.pose.pose.position
            position.x, position.y, position.z = ego_pose[:3, 3] + [2.0, 0.0, 0.0]
            if liars[name] == 'empty':
                empty = Map.empty(message.channels, message.height, message.width)
                del message.data[:]
                message.data.frombytes(codec.encode(empty).data)
            elif liars[name] == 'damaged':
                del message.data[100:]
            receive(selector, message, participants.get(name, 0))
        found = verdicts(selector, stamp, ego_pose)
    return [agent for agent, verdict in found.items() if verdict.accepted]


def test_empty_maps_take_no_place_from_others(selector, feature_of, ego_pose):
    sybils = {f'sybil_{k}': 'empty' for k in range(4)}
    fused = drive(selector, feature_of, ego_pose, (2, 3, 4, 5), sybils, 1)
    assert sorted(fused) == ['cav_2', 'cav_3', 'cav_4', 'cav_5']


def test_half_of_the_places_are_kept_for_those_fused_for_longest(selector, feature_of, ego_pose):
    assert len(drive(selector, feature_of, ego_pose, (2, 3, 4, 5), {}, 25)) == 4
    sybils = {f'sybil_{k}': 'full' for k in range(4)}
    for turn in range(3):
        fused = drive(selector, feature_of, ego_pose, (2, 3, 4, 5), sybils, 10, start=25 + 10 * turn)
        assert sum(name.startswith('cav_') for name in fused) == 2, turn


def test_a_participant_that_comes_first_leaves_half_of_the_places(selector, feature_of, ego_pose):
    sybils = {f'sybil_{k}': 'full' for k in range(4)}
    participants = dict.fromkeys(sybils, 9)
    drive(selector, feature_of, ego_pose, (), sybils, 25, participants=participants)
    participants |= {f'cav_{vehicle}': vehicle for vehicle in (2, 3, 4)}
    for turn in range(3):
        start = 25 + 10 * turn
        fused = drive(selector, feature_of, ego_pose, (2, 3, 4), sybils, 10, start, participants)
        assert sum(name.startswith('cav_') for name in fused) == 2, turn


def test_a_relay_gets_the_places_that_others_leave(selector, feature_of, ego_pose):
    relayed = {f'cav_{vehicle}': 9 for vehicle in (2, 3, 4, 5)}
    fused = drive(selector, feature_of, ego_pose, (2, 3, 4, 5), {}, 3, participants=relayed)
    assert len(fused) == 4
    fused = drive(
        selector, feature_of, ego_pose, (2, 3, 4, 5), {'other': 'full'}, 3, 3, {**relayed, 'other': 1}
    )
    assert (len(fused), fused[0]) == (4, 'other')


def test_damaged_payloads_of_many_do_not_keep_a_newcomer_out(selector, feature_of, ego_pose):
    """Of four participants with fresh names for every sweep; before the first one nothing is known."""
    for k in range(2):
        liars = {f'v{k}_{name}': 'damaged' for name in range(40)}
        participants = {'cav_2': 1, **{name: 2 + number % 4 for number, name in enumerate(liars)}}
        fused = drive(selector, feature_of, ego_pose, (2,), liars, 1, k, participants)
    assert fused == ['cav_2']


def test_neighbours_that_come_first_are_the_nearest(selector, feature_of, ego_pose):
    """Nobody has been fused for long: nearness decides, as in the offline evaluation."""
    fused = drive(selector, feature_of, ego_pose, (2, 3, 4, 5), {'near': 'full'}, 1)
    assert len(fused) == 4
    assert fused[0] == 'near'


def test_damaged_payloads_are_decoded_for_a_few_only(selector, feature_of, ego_pose):
    for k in range(40):
        message = feature_of(2, f'v{k}', S)
        del message.data[100:]
        receive(selector, message)
    found = verdicts(selector, S, ego_pose)
    tried = [v for v in found.values() if v.reason.startswith(Refusal.PAYLOAD.value)]
    assert (len(found), len(tried)) == (40, 8)
