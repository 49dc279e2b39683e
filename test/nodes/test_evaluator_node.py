# SPDX-License-Identifier: Apache-2.0
"""The evaluator in a process of its own: what it scores, and that no message ends it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from diffkd_ros.msg import FusionStatus
from patience import PATIENCE, attempts
from visualization_msgs.msg import MarkerArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.launching.graph import NodeSpec
from diffkd_ros.messages.building import boxes_message as message_of
from diffkd_ros.messages.building import header_message, time_message
from diffkd_ros.messages.names import CLASS_NAMES

SECOND = 1_000_000_000
BOX = np.array([[10.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.0]])
TRUTH = Boxes3D(BOX, num_points=np.array([50]))
FOUND = Boxes3D(BOX, scores=np.array([0.9], np.float32))


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
        publish(partner, 'detections', at, FOUND)
        wait_scored(partner, at)


def test_invalid_messages_are_counted_and_the_others_evaluated(evaluator, group, partner, stamp, out):
    times = [KeyValue(key='total p50 [ms]', value='n/a'), KeyValue(key='total p95 [ms]', value='12.5')]
    foreign = DiagnosticStatus(name='arm/planner: inference', hardware_id='arm', values=times)
    partner.publish('/diagnostics', DiagnosticArray(status=[foreign]))
    torn = message_of(header_message(stamp, 'cav_1/lidar'), FOUND, CLASS_NAMES)
    torn.boxes.pop()
    partner.publish('/cav_1/detections', torn)
    for stages, times in ((['encode', 'total'], [9.0]), (['total'], [-9.0]), (['total'], [77.0])):
        partner.publish('/cav_1/fusion_status', FusionStatus(stages=stages, latency_ms=times))
    score(partner, stamp + SECOND)
    partner.until(lambda: 'latency p50 77' in evaluator.latest, 'the latency in the log')
    group.stop([evaluator], patience=PATIENCE)
    result = json.loads(out.read_text())
    assert result['messages_refused'] == {'detections': 1, 'fusion_status': 2}
    assert result['frames_answered'] == 1
    assert result['node_latency_ms'] == {'arm': {'total p95 [ms]': 12.5}}
    assert result['average_precision']['0.5'] == 1.0
