# SPDX-License-Identifier: Apache-2.0
"""The evaluator in a process of its own: what it scores, and that no message ends it."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from diffkd_ros.msg import BevChunk, FusionStatus, NeighbourStatus
from patience import PATIENCE, attempts
from rclpy.serialization import serialize_message
from visualization_msgs.msg import MarkerArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.messages.building import boxes_message as message_of
from diffkd_ros.messages.building import header_message, time_message
from diffkd_ros.messages.names import CLASS_NAMES

SECOND = 1_000_000_000
BOX = np.array([[10.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.0]])
TRUTH = Boxes3D(BOX, num_points=np.array([50]))
LAYERED = NeighbourStatus(
    agent_id='cav_2', accepted=True, sweep_chunks=3, sweep_chunks_received=2, bytes=2400, boxes_bytes=240,
    coarse_bytes=360, fine_bytes=1400, restored=0.25, chunks_received=9, chunks_lost=2, chunks_refused=1,
)  # fmt: skip
CHUNKS = [
    BevChunk(
        header=header_message(sequence * SECOND // 5, 'cav_2/lidar'),
        agent_id='cav_2',
        sequence=sequence,
        chunk=number,
        chunks=2,
        data=number * bytes(100),
    )
    for sequence, number in ((5, 0), (5, 1), (7, 1), (7, 0))
]
FOUND = Boxes3D(BOX, scores=np.array([0.9], np.float32))
# With a box that a neighbour sent from beyond the ego's grid.
FAR = np.concatenate((BOX, BOX + np.array([200.0, 0, 0, 0, 0, 0, 0])))
FOUND_FAR = Boxes3D(FAR, scores=np.array([0.9, 0.95], np.float32))


def publish(partner, topic, stamp, boxes):
    header = header_message(stamp, 'cav_1/lidar')
    partner.publish(f'/cav_1/{topic}', message_of(header, boxes, CLASS_NAMES))


def wait_scored(partner, stamp, timeout=PATIENCE):
    """Wait for the outlines, published once a frame is scored."""
    wanted = time_message(stamp)
    partner.until(
        lambda: any(
            array.markers[0].header.stamp == wanted for array in partner.received['/cav_1/truth_markers']
        ),
        f'the score at {stamp}',
        timeout,
    )


def score(partner, stamp, timeout=PATIENCE):
    publish(partner, 'ground_truth', stamp, TRUTH)
    publish(partner, 'detections', stamp, FOUND)
    wait_scored(partner, stamp, timeout)


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    return tmp_path_factory.mktemp('evaluated') / 'result.json'


@pytest.fixture(scope='module')
def evaluator(group, partner, model, out):
    process = group.start(NodeSpec('evaluator_node', '/cav_1', (), {'model': str(model), 'out': str(out)}))
    group.wait_ready(PATIENCE)
    partner.listen(MarkerArray, '/cav_1/truth_markers')
    for k, wait in enumerate(attempts(), 1):
        try:
            score(partner, k * SECOND // 10, timeout=wait)
        except AssertionError:
            continue
        return process
    raise AssertionError('nothing was ever scored')


def test_a_restarted_run_is_scored(evaluator, partner, stamp):
    """Although the previous run left more unanswered truths than are kept."""
    late = stamp + 500 * SECOND
    for _ in range(30):
        # No more at once than the subscriber's queue holds.
        late += SECOND // 10
        score(partner, late)
        for _ in range(8):
            late += SECOND // 10
            publish(partner, 'ground_truth', late, TRUTH)
    score(partner, stamp)
    score(partner, stamp + SECOND // 10)


def test_detections_may_come_long_after_their_truths(evaluator, partner, stamp):
    stamps = [stamp + k * SECOND for k in range(8)]
    for at in stamps:
        publish(partner, 'ground_truth', at, TRUTH)
    for at in stamps:
        publish(partner, 'detections', at, FOUND_FAR)
        wait_scored(partner, at)


def test_invalid_messages_are_counted_and_the_others_evaluated(evaluator, group, partner, stamp, out):
    times = [KeyValue(key='total p50 [ms]', value='n/a'), KeyValue(key='total p95 [ms]', value='12.5')]
    foreign = DiagnosticStatus(name='arm/planner: inference', hardware_id='arm', values=times)
    partner.publish('/diagnostics', DiagnosticArray(status=[foreign]))
    torn = message_of(header_message(stamp, 'cav_1/lidar'), FOUND, CLASS_NAMES)
    torn.boxes.pop()
    partner.publish('/cav_1/detections', torn)
    # Best effort: what is sent before both ends know each other is lost.
    first = copy.deepcopy(CHUNKS[0])
    first.agent_id = 'cav_9'
    partner.until(lambda: partner.publish('/cav_1/v2x/chunks', first) or 'cav_9 ' in evaluator.latest, 'one')
    for chunk in CHUNKS:
        partner.publish('/cav_1/v2x/chunks', chunk)
    for stages, times in ((['encode', 'total'], [9.0]), (['total'], [-9.0]), (['total'], [77.0])):
        message = FusionStatus(stages=stages, latency_ms=times, neighbours=[LAYERED], degradation=2)
        partner.publish('/cav_1/fusion_status', message)
    score(partner, stamp + SECOND)
    partner.until(lambda: 'latency p50 77' in evaluator.latest, 'the latency in the log')
    group.stop([evaluator], patience=PATIENCE)
    result = json.loads(out.read_text())
    assert result['messages_refused'] == {'detections': 1, 'fusion_status': 2}
    assert result['frames_answered'] == 1
    assert result['degradation'] == {'boxes only': 1}
    assert result['node_latency_ms'] == {'arm': {'total p95 [ms]': 12.5}}
    assert result['average_precision']['0.5'] == 1.0
    # Two sweeps of two chunks, in all their bytes; one sweep between them was lost.
    size = sum(len(serialize_message(chunk)) for chunk in CHUNKS)
    link = result['link']['cav_2']
    assert (link['messages'], link['lost'], link['bytes']) == (2, 1, size)
    assert link['mbit_per_s'] == pytest.approx(8e-6 * size / 0.8)
    assert result['kilobytes_fused'] == {'cav_2': 2.4}
    assert result['layers'] == {
        'cav_2': {
            'data_kilobytes': {'boxes': 0.24, 'coarse': 0.36, 'fine': 1.4},
            'restored': 0.25,
            'chunks': {'received': 9, 'lost': 2, 'refused': 1},
        }
    }
