# SPDX-License-Identifier: Apache-2.0
"""An ego node in its own process: which parts of layered messages it uses and which it refuses."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
from diffkd_ros.msg import FusionStatus
from patience import scaled
from rclpy.serialization import serialize_message
from ros_partner import start_ego

from diffkd_ros.messages.poses import pose_of_chunk
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.detector import CooperativeDetector
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.motion import Motion, Tracks
from diffkd_ros.runtime.link.packing import MOST_CHUNKS
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.link.unpacking import Unpacker

SECOND = 1_000_000_000
_ARRIVES = 0.3


@pytest.fixture(scope='module')
def ego(group, partner, scene, chunks_of, linked):
    def share(stamp):
        send(partner, chunks_of(2, 'first', stamp))

    return start_ego(group, partner, scene.agents[1], linked.link_path.parent, share, max_latency=10.0)


def send(partner, messages):
    for message in messages:
        partner.publish('/v2x/chunks', message)
    # No message confirms the reception.
    time.sleep(scaled(_ARRIVES))


def answer(partner, scene, stamp):
    """Send the ego a sweep; returns its detections and status."""
    partner.sweep('cav_1', stamp, scene.agents[1])
    status = partner.message_at('/cav_1/fusion_status', stamp)
    return partner.message_at('/cav_1/detections', stamp), status


def neighbour_in(status, name):
    (found,) = [neighbour for neighbour in status.neighbours if neighbour.agent_id == name]
    return found


def expected(linked, scene, shared, poses, motion=None):
    """The detection with what these neighbours shared."""
    own = FeatureEncoder(linked).encode(scene.agents[1].points)
    detector, receiver = CooperativeDetector(linked), MapReceiver(linked)
    poses = [scene.agents[1].pose, *poses]
    return detect_layered(linked, receiver, detector.detect, own, shared, poses, motion=motion)


def unpacked(linked, chunks):
    return Unpacker(MapReceiver(linked).tables).unpack([chunk.data.tobytes() for chunk in chunks])


def assert_same(detections, detection):
    np.testing.assert_allclose(np.reshape(detections.boxes, (-1, 7)), detection.boxes.boxes, atol=1e-4)
    np.testing.assert_allclose(detections.scores, detection.boxes.scores, atol=1e-4)


def test_what_did_not_arrive_is_restored(ego, partner, scene, chunks_of, linked, stamp):
    chunks = chunks_of(2, 'cav_7', stamp)
    assert len(chunks) == 3
    arrived = [chunks[0], chunks[2]]
    send(partner, arrived)
    detections, status = answer(partner, scene, stamp)
    neighbour = neighbour_in(status, 'cav_7')
    assert (neighbour.accepted, neighbour.sweep_chunks, neighbour.sweep_chunks_received) == (True, 3, 2)
    assert 0.1 < neighbour.restored < 1
    detection = expected(linked, scene, [unpacked(linked, arrived)], [pose_of_chunk(chunks[0]).pose])
    assert_same(detections, detection)
    assert len(detection.boxes) > 10
    # The one that did not arrive is lost once a newer sweep is used.
    send(partner, chunks_of(2, 'cav_7', stamp + SECOND // 10, 1))
    _, status = answer(partner, scene, stamp + SECOND // 10)
    neighbour = neighbour_in(status, 'cav_7')
    assert (neighbour.chunks_received, neighbour.chunks_lost, neighbour.messages_lost) == (5, 1, 0)


def test_the_largest_sweep_is_complete_in_the_next_fusion(ego, partner, scene, chunks_of, linked, stamp):
    """As in lock-step: the cloud follows the last chunk without a pause."""
    chunks = chunks_of(2, 'cav_6', stamp)
    # Chunks decode without the others: as many as a sweep can have repeat what these three say.
    most = [copy.deepcopy(chunks[number % len(chunks)]) for number in range(MOST_CHUNKS)]
    for number, chunk in enumerate(most):
        chunk.chunk, chunk.chunks = number, MOST_CHUNKS
    for chunk in most:
        partner.publish('/v2x/chunks', chunk)
    detections, status = answer(partner, scene, stamp)
    neighbour = neighbour_in(status, 'cav_6')
    assert (neighbour.accepted, neighbour.sweep_chunks, neighbour.sweep_chunks_received) == (
        True,
        MOST_CHUNKS,
        MOST_CHUNKS,
    )
    assert neighbour.bytes == sum(len(serialize_message(chunk)) for chunk in most)
    assert_same(
        detections, expected(linked, scene, [unpacked(linked, chunks)], [pose_of_chunk(chunks[0]).pose])
    )


def test_vehicles_of_a_late_sweep_are_moved(ego, partner, scene, chunks_of, linked, stamp):
    """Between the sweeps all that the neighbour sees moves by a metre to the east, the last is 0.2 s late."""
    tracks = Tracks()
    for number, late in enumerate((0, 0, 0, SECOND // 5)):
        at = stamp + number * SECOND // 10
        chunks = chunks_of(2, 'cav_12', at, number)
        for chunk in chunks:
            chunk.position[0] += number
        send(partner, chunks)
        detections, _ = answer(partner, scene, at + late)
        shared, poses = [unpacked(linked, chunks)], [pose_of_chunk(chunks[0]).pose]
        motion = Motion(tracks, ['cav_12'], [at + late, at])
        detection = expected(linked, scene, shared, poses, motion)
        assert_same(detections, detection)
    (offsets,) = motion.note(shared, [scene.agents[1].pose, *poses])
    assert (np.hypot(*offsets.T) > 1).sum() >= 3
    assert not np.array_equal(detection.boxes.boxes, expected(linked, scene, shared, poses).boxes.boxes)


def test_a_damaged_chunk_costs_itself(ego, partner, scene, chunks_of, linked, stamp):
    chunks = chunks_of(2, 'cav_8', stamp)
    del chunks[1].data[100:]
    send(partner, chunks)
    detections, status = answer(partner, scene, stamp)
    neighbour = neighbour_in(status, 'cav_8')
    assert (neighbour.accepted, neighbour.chunks_received, neighbour.chunks_refused) == (True, 3, 1)
    detection = expected(
        linked, scene, [unpacked(linked, [chunks[0], chunks[2]])], [pose_of_chunk(chunks[0]).pose]
    )
    assert_same(detections, detection)
    item = partner.diagnosis('neighbour/cav_8', 'fused')
    values = {value.key: value.value for value in item.values}
    assert values['chunks refused, payload cannot be decoded'] == '1'
    assert values['last chunk refused'].startswith('payload cannot be decoded: chunk 1: ')


def test_a_sender_of_whole_maps_is_fused_alongside(ego, partner, scene, chunks_of, feature_by, linked, stamp):
    message = feature_by(linked, 4, 'cav_4', stamp)
    chunks = chunks_of(2, 'cav_2', stamp)
    partner.publish('/v2x/features', message)
    send(partner, chunks[:2])
    detections, status = answer(partner, scene, stamp)
    assert [(n.agent_id, n.accepted) for n in status.neighbours] == [('cav_2', True), ('cav_4', True)]
    assert (status.neighbours[1].sweep_chunks, status.neighbours[1].restored) == (0, 0.0)
    assert status.neighbours[1].bytes == len(serialize_message(message))
    encoded = codec.encode(FeatureEncoder(linked).encode(scene.agents[4].points))
    whole = codec.decode(encoded, linked.channels, linked.grid.height, linked.grid.width)
    poses = [scene.agents[2].pose, scene.agents[4].pose]
    assert_same(detections, expected(linked, scene, [unpacked(linked, chunks[:2]), whole], poses))


def older(chunk):
    chunk.header.stamp.sec -= 2


def other_model(chunk):
    chunk.model_id = 'other@000000000000'


def other_map(chunk):
    chunk.map_frame = 'elsewhere'


def nan_pose(chunk):
    chunk.position[0] = float('nan')


def no_rotation(chunk):
    chunk.orientation[:] = 0.0


def garbage(chunk):
    size = len(chunk.data)
    del chunk.data[:]
    chunk.data.frombytes(np.random.default_rng(chunk.chunk).bytes(size))


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (older, 'older than max_age'),
        (other_model, 'of another model'),
        (other_map, 'pose given in another map frame'),
        (nan_pose, 'pose is no finite rigid transform'),
        (no_rotation, 'pose is no finite rigid transform'),
        (garbage, 'payload cannot be decoded'),
    ],
)
def test_an_invalid_sweep_is_refused_and_the_ego_detects_alone(
    ego, partner, scene, chunks_of, stamp, spoil, reason
):
    alone, _ = answer(partner, scene, stamp - SECOND)
    chunks = chunks_of(2, 'cav_2', stamp)
    for chunk in chunks:
        spoil(chunk)
    send(partner, chunks)
    detections, status = answer(partner, scene, stamp)
    neighbour = neighbour_in(status, 'cav_2')
    assert not neighbour.accepted
    assert neighbour.reason.startswith(reason)
    assert (neighbour.boxes_bytes, len(neighbour.tiles)) == (0, 0)
    assert detections.boxes == alone.boxes


def test_a_flood_of_contradictions_changes_nothing(ego, partner, scene, chunks_of, stamp):
    good = chunks_of(2, 'cav_9', stamp)
    send(partner, good)
    detections, _ = answer(partner, scene, stamp)
    lies = chunks_of(3, 'cav_9', stamp)
    for k in range(300):
        partner.publish('/v2x/chunks', lies[k % len(lies)])
    send(partner, [])
    again, status = answer(partner, scene, stamp + 1)
    np.testing.assert_allclose(again.boxes, detections.boxes, atol=1e-4)
    neighbour = neighbour_in(status, 'cav_9')
    assert (neighbour.messages_received, neighbour.chunks_received) == (1, 3)
    assert neighbour.chunks_refused > 100
    values = {v.key: v.value for v in partner.diagnosis('neighbour/cav_9', 'fused').values}
    assert values['last chunk refused'].startswith('contradicts other chunks of its sweep: position, ')


def test_where_nothing_but_boxes_arrives_the_status_says_so(ego, partner, scene, chunks_of, linked, stamp):
    unpacker = Unpacker(LinkTables.load(linked))

    def layers(chunks):
        return unpacker.unpack([chunk.data.tobytes() for chunk in chunks]).bytes_of

    sizes = np.arange(0.25, 2.0, 0.01)
    sent = (chunks_of(2, 'cav_2', stamp, kilobytes=size) for size in sizes)
    few = next(chunks for chunks in sent if chunks and layers(chunks)['boxes'])
    assert (layers(few)['coarse'], layers(few)['fine']) == (0, 0)
    send(partner, few)
    _, status = answer(partner, scene, stamp)
    assert status.degradation == FusionStatus.BOXES_ONLY
    assert status.degradation_cause == 'only boxes of cav_2 arrived'
    send(partner, chunks_of(2, 'cav_2', stamp + SECOND, 1))
    _, status = answer(partner, scene, stamp + SECOND)
    assert (status.degradation, status.degradation_cause) == (FusionStatus.FULL, '')
