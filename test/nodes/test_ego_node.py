# SPDX-License-Identifier: Apache-2.0
"""An ego node in its own process: which features it fuses and which it refuses."""

from __future__ import annotations

import time

import numpy as np
import pytest
from patience import scaled
from rclpy.serialization import serialize_message
from ros_partner import start_ego

SECOND = 1_000_000_000
_ARRIVES = 0.3


@pytest.fixture(scope='module')
def ego(group, partner, scene, feature_of, model):
    def share(stamp):
        send(partner, feature_of(2, 'first', stamp))

    return start_ego(group, partner, scene.agents[1], model, share)


def answer(partner, scene, stamp):
    """Send the ego a sweep; returns its detections and status."""
    partner.sweep('cav_1', stamp, scene.agents[1])
    status = partner.message_at('/cav_1/fusion_status', stamp)
    return partner.message_at('/cav_1/detections', stamp), status


def columns(detections):
    return [getattr(detections, name).tobytes() for name in ('boxes', 'scores', 'labels')]


def send(partner, message):
    partner.publish('/v2x/features', message)
    # No message confirms the reception.
    time.sleep(scaled(_ARRIVES))


def older(message, stamp, feature_of):
    message.header.stamp.sec -= 2


def newer(message, stamp, feature_of):
    message.header.stamp.sec += 2


def other_model(message, stamp, feature_of):
    message.model_id = 'other@000000000000'


def other_range(message, stamp, feature_of):
    message.grid_range[3] += 10.0


def nan_range(message, stamp, feature_of):
    message.grid_range[0] = np.nan


def other_shape(message, stamp, feature_of):
    message.height += 1


def other_encoding(message, stamp, feature_of):
    message.encoding = 99


def other_map(message, stamp, feature_of):
    message.map_frame = 'elsewhere'


def nan_pose(message, stamp, feature_of):
    message.pose.pose.position.x = float('nan')


def no_rotation(message, stamp, feature_of):
    message.pose.pose.orientation.w = 0.0
    message.pose.pose.orientation.x = message.pose.pose.orientation.y = message.pose.pose.orientation.z = 0.0


def truncated(message, stamp, feature_of):
    del message.data[len(message.data) // 2 :]


def empty(message, stamp, feature_of):
    del message.data[:]


def garbage(message, stamp, feature_of):
    size = len(message.data)
    del message.data[:]
    message.data.frombytes(np.random.default_rng(0).bytes(size))


def nan_scale(message, stamp, feature_of):
    message.scales[0] = float('nan')


def few_scales(message, stamp, feature_of):
    message.scales.pop()


def other_epoch(message, stamp, feature_of):
    message.header.stamp.sec += 1_000_000


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (older, 'older than max_age'),
        (newer, 'from the future'),
        (other_model, 'of another model'),
        (other_range, 'of another grid'),
        (nan_range, 'of another grid'),
        (other_shape, 'of another grid'),
        (other_encoding, 'of an unknown encoding'),
        (other_map, 'pose given in another map frame'),
        (nan_pose, 'pose is no finite rigid transform'),
        (no_rotation, 'pose is no finite rigid transform'),
        (truncated, 'payload cannot be decoded'),
        (empty, 'payload cannot be decoded'),
        (garbage, 'payload cannot be decoded'),
        (nan_scale, 'payload cannot be decoded'),
        (few_scales, 'payload cannot be decoded'),
        (other_epoch, 'stamped in another epoch'),
    ],
)
def test_an_invalid_feature_is_refused_and_reported_and_the_ego_detects_alone(
    ego, partner, scene, feature_of, stamp, spoil, reason
):
    alone, status = answer(partner, scene, stamp)
    assert len(status.neighbours) == 0
    name = f'cav_{stamp // SECOND}'
    message = feature_of(2, name, stamp + SECOND, 7)
    spoil(message, stamp, feature_of)
    send(partner, message)
    detections, status = answer(partner, scene, stamp + SECOND)

    assert columns(detections) == columns(alone)
    (neighbour,) = status.neighbours
    assert not neighbour.accepted
    assert neighbour.reason.startswith(reason)
    assert (neighbour.agent_id, neighbour.gate_weight) == (message.agent_id, 0.0)
    assert (neighbour.sequence, neighbour.bytes) == (7, len(serialize_message(message)))
    item = partner.diagnosis(f'neighbour/{message.agent_id}', reason)
    assert item.level != b'\x00'
    assert {v.key: v.value for v in item.values}[f'refused, {reason_value(reason)}'] == '1'


def reason_value(start):
    from diffkd_ros.nodes.link.refusal import Refusal

    (value,) = (refusal.value for refusal in Refusal if refusal.value.startswith(start))
    return value


def test_own_messages_received_from_the_link_are_ignored(ego, partner, scene, feature_of, stamp):
    alone, _ = answer(partner, scene, stamp)
    before = values(partner.diagnosis('neighbours', 'alone'))
    send(partner, feature_of(1, 'cav_1', stamp + SECOND))
    detections, status = answer(partner, scene, stamp + SECOND)
    assert columns(detections) == columns(alone)
    assert len(status.neighbours) == 0
    item = partner.diagnosis('neighbours', 'alone')
    assert item.level == b'\x00'
    assert int(values(item)['own ignored']) == int(before['own ignored']) + 1


def values(item):
    return {v.key: v.value for v in item.values}


def test_a_valid_feature_is_fused_and_changes_the_result(ego, partner, scene, feature_of, stamp):
    alone, _ = answer(partner, scene, stamp)
    message = feature_of(2, 'cav_2', stamp + SECOND, 3)
    send(partner, message)
    detections, status = answer(partner, scene, stamp + SECOND + SECOND // 5)
    (neighbour,) = status.neighbours
    assert (neighbour.agent_id, neighbour.accepted, neighbour.reason) == ('cav_2', True, '')
    assert (neighbour.sequence, neighbour.bytes) == (3, len(serialize_message(message)))
    assert neighbour.age == pytest.approx(0.2)
    assert 0.0 < neighbour.gate_weight < 1.0
    assert columns(detections) != columns(alone)
    assert detections.header.frame_id == 'cav_1/lidar'
    assert status.stages[-1] == 'total'
    assert len(status.stages) == len(status.latency_ms)
    assert max(status.latency_ms) == status.latency_ms[-1]


def test_an_invalid_feature_does_not_affect_valid_ones(ego, partner, scene, feature_of, stamp):
    send(partner, feature_of(2, 'cav_2', stamp))
    good, _ = answer(partner, scene, stamp)
    bad = feature_of(3, 'cav_3', stamp + SECOND)
    bad.pose.pose.position.y = float('inf')
    send(partner, feature_of(2, 'cav_2', stamp + SECOND, 1))
    send(partner, bad)
    both, status = answer(partner, scene, stamp + SECOND)
    assert [(n.agent_id, n.accepted) for n in status.neighbours] == [('cav_2', True), ('cav_3', False)]
    assert columns(both) == columns(good)


def test_a_silent_neighbour_is_reported_as_absent_and_forgotten_later(ego, partner, scene, feature_of, stamp):
    alone, _ = answer(partner, scene, stamp)
    send(partner, feature_of(2, 'cav_2', stamp + SECOND))
    _, status = answer(partner, scene, stamp + SECOND)
    assert [n.accepted for n in status.neighbours] == [True]
    detections, status = answer(partner, scene, stamp + 3 * SECOND)
    (neighbour,) = status.neighbours
    assert (neighbour.accepted, neighbour.age) == (False, pytest.approx(2.0))
    assert neighbour.reason.startswith('nothing new arrived')
    assert columns(detections) == columns(alone)
    partner.diagnosis('neighbour/cav_2', 'nothing new arrived')
    _, status = answer(partner, scene, stamp + 30 * SECOND)
    assert len(status.neighbours) == 0
    partner.diagnosis('neighbours', 'alone')


def test_the_nearest_neighbours_are_fused_when_there_are_too_many(
    ego, partner, scene, feature_of, stamp, card
):
    names = {f'cav_{k}': 2 + k % 4 for k in range(2, 2 + card.max_agents)}
    distance = {
        name: np.linalg.norm(scene.agents[vehicle].pose[:3, 3] - scene.agents[1].pose[:3, 3])
        for name, vehicle in names.items()
    }
    for name, vehicle in names.items():
        send(partner, feature_of(vehicle, name, stamp))
    _, status = answer(partner, scene, stamp)
    accepted = [n.agent_id for n in status.neighbours if n.accepted]
    (refused,) = (n for n in status.neighbours if not n.accepted)
    assert len(accepted) == card.max_agents - 1
    assert refused.reason.startswith('beyond the number of agents')
    assert distance[refused.agent_id] == max(distance.values())


def test_invalid_own_sweeps_are_counted_and_the_next_valid_one_is_used(ego, partner, scene, stamp):
    from diffkd_ros.messages.building import cloud_message, header_message

    _, before = answer(partner, scene, stamp)
    # A cloud without odometry at its stamp.
    points = scene.agents[1].points
    partner.publish('/cav_1/points', cloud_message(header_message(stamp + SECOND, 'cav_1/lidar'), points))
    partner.diagnosis('input', 'odometry is 1.000 s from the sweep')
    partner.publish(
        '/cav_1/points',
        cloud_message(header_message(stamp + 2 * SECOND, 'cav_1/lidar'), points * np.float32('nan')),
    )
    partner.diagnosis('input', 'NaN')
    _, after = answer(partner, scene, stamp + 3 * SECOND)
    assert after.sweeps_refused - before.sweeps_refused == 2
    assert after.sweeps_fused - before.sweeps_fused == 1
    assert after.sweeps_received - before.sweeps_received == 3


@pytest.fixture(scope='module')
def drawn(ego, partner, scene):
    """Sends the ego a sweep; returns its detections and markers."""
    from visualization_msgs.msg import MarkerArray

    partner.listen(MarkerArray, '/cav_1/markers')
    partner.until(lambda: partner.node.count_publishers('/cav_1/markers'), 'the marker publisher')
    time.sleep(scaled(_ARRIVES))

    def drawn(stamp):
        detections, status = answer(partner, scene, stamp)
        stamped = status.header.stamp
        found = partner.until(
            lambda: [a for a in partner.received['/cav_1/markers'] if a.markers[0].header.stamp == stamped],
            'markers',
        )
        return detections, found[0]

    return drawn


def test_markers_show_boxes_and_neighbours(drawn, partner, feature_of, stamp):
    from visualization_msgs.msg import Marker

    send(partner, feature_of(2, 'cav_2', stamp))
    detections, array = drawn(stamp)
    assert array.markers[0].action == Marker.DELETEALL
    boxes = [m for m in array.markers if m.ns == 'detections']
    assert len(boxes) == len(detections.labels)
    x = [m.pose.position.x for m in boxes]
    np.testing.assert_allclose(x, np.reshape(detections.boxes, (-1, 7))[:, 0], atol=1e-4)
    (name,) = (m for m in array.markers if m.ns == 'neighbour_names')
    assert name.text.startswith('cav_2')


@pytest.mark.parametrize(
    ('spoil', 'known'),
    [(older, True), (other_model, True), (truncated, True), (nan_pose, False), (other_map, False)],
)
def test_markers_show_a_refused_neighbour_at_the_pose_it_sent(
    drawn, partner, scene, feature_of, stamp, spoil, known
):
    message = feature_of(2, 'refused', stamp)
    spoil(message, stamp, feature_of)
    send(partner, message)
    _, array = drawn(stamp)
    found = {m.ns: m for m in array.markers if m.ns.startswith('neighbour')}
    assert bool(found) == known
    if known:
        # In the ego's LiDAR frame.
        place = np.linalg.inv(scene.agents[1].pose) @ scene.agents[2].pose[:, 3]
        position = found['neighbours'].pose.position
        np.testing.assert_allclose((position.x, position.y, position.z), place[:3], atol=1e-6)
        color = found['neighbours'].color
        assert color.r == color.g == color.b
        assert found['neighbour_names'].text.startswith('refused: ')
        assert 'weight' not in found['neighbour_names'].text


def test_a_wrong_clock_is_reported(ego, partner, scene, feature_of, stamp):
    """Two neighbours send at 10 Hz; the stamps of one are a second ahead."""
    partner.until_answered(
        '/cav_1/fusion_status', lambda at: partner.sweep('cav_1', at, scene.agents[1]), start=stamp
    )
    for k in range(1, 30):
        at = stamp + 10 * SECOND + k * SECOND // 10
        partner.sweep('cav_1', at, scene.agents[1])
        partner.publish('/v2x/features', feature_of(2, 'cav_2', at, k))
        partner.publish('/v2x/features', feature_of(3, 'cav_3', at + SECOND, k))
        time.sleep(0.1)
    item = partner.diagnosis('clock', 'cav_3 is ahead by')
    assert item.level == b'\x01'
    assert 'cav_2 is' not in item.message


def test_link_statistics_are_in_the_status(ego, partner, scene, feature_of, stamp):
    answer(partner, scene, stamp)
    for k in (0, 1, 4):  # 2 and 3 are lost
        send(partner, feature_of(2, 'counted', stamp + SECOND + k * SECOND // 10, k))
    _, status = answer(partner, scene, stamp + SECOND + SECOND // 2)
    (neighbour,) = status.neighbours
    assert (neighbour.messages_received, neighbour.messages_lost) == (3, 2)
    assert (neighbour.messages_fused, neighbour.messages_overwritten) == (1, 2)
    assert neighbour.rate == pytest.approx(5.0)  # three messages in 0.4 s
    item = partner.diagnosis('neighbour/counted', 'fused')
    assert float(values(item)['gate weight']) == pytest.approx(neighbour.gate_weight, abs=1e-3)
    assert values(item)['lost [%]'] == '40.0'


def test_the_observed_area_is_drawn(ego, partner, scene, feature_of, stamp, card):
    from visualization_msgs.msg import Marker, MarkerArray

    drawn = []
    partner.node.create_subscription(MarkerArray, '/cav_1/markers', drawn.append, 10)

    def exchange(at):
        send(partner, feature_of(2, 'cav_2', at))
        partner.sweep('cav_1', at, scene.agents[1])

    partner.until_answered('/cav_1/fusion_status', exchange, lambda _: bool(drawn), start=stamp)
    array = drawn[-1]
    (area,) = (m for m in array.markers if m.ns == 'observed')
    assert area.type == Marker.CUBE_LIST
    assert len(area.points) == len(area.colors) > 0
    x, y = np.array([(p.x, p.y) for p in area.points]).T
    grid = card.grid
    # Every return of the ego in the grid lies in one of the squares.
    points = scene.agents[1].points
    inside = (points[:, 0] > grid.x_min) & (points[:, 0] < grid.x_max)
    inside &= (points[:, 1] > grid.y_min) & (points[:, 1] < grid.y_max)
    inside &= (points[:, 2] > grid.z_min) & (points[:, 2] < grid.z_max)
    some = points[inside][::200, :2]
    edge = area.scale.x / 0.95
    reach = np.abs(some[:, None] - np.stack([x, y], 1)).max(axis=2).min(axis=1)
    assert (reach <= edge / 2 + 1e-3).all()
