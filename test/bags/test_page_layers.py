# SPDX-License-Identifier: Apache-2.0
"""The HTML page shows what arrived of layered messages."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import small_bags

from diffkd_ros.bags import page
from diffkd_ros.bags.answers import read_answers, read_area
from diffkd_ros.frame import Boxes3D
from diffkd_ros.messages.building import boxes_message, header_message

GRID = np.array([-12.8, -6.4, -3, 12.8, 6.4, 1], np.float32)
TILES = np.random.default_rng(0).integers(0, 4, (4, 8)).astype(np.uint8)
SEEN = np.array([[5.0, 0, 0, 4, 2, 1.5, 0]])


def status(stamp, **changes):
    """A fusion status of a layered and a whole map."""
    make = small_bags.MAKE
    common = {
        'accepted': True, 'reason': '', 'age': 0.05, 'gate_weight': 0.3, 'sequence': 1, 'rate': 10.0,
        'kilobytes_per_s': 40.0, 'messages_received': 1, 'messages_lost': 0, 'messages_fused': 1,
        'messages_refused': 0, 'messages_overwritten': 0, 'chunks_lost': 0, 'chunks_refused': 0,
    }  # fmt: skip
    kind = 'diffkd_ros/msg/NeighbourStatus'
    layered = make(
        kind, agent_id='cav_2', bytes=3700, sweep_chunks=4, sweep_chunks_received=3, boxes_bytes=240,
        coarse_bytes=360, fine_bytes=3100, restored=0.25, tiles=TILES.ravel(), chunks_received=3, **common,
    )  # fmt: skip
    whole = make(
        kind, agent_id='rsu_1', bytes=90_000, sweep_chunks=0, sweep_chunks_received=0, boxes_bytes=0,
        coarse_bytes=0, fine_bytes=0, restored=0.0, tiles=np.zeros(0, np.uint8), chunks_received=0, **common,
    )  # fmt: skip
    fields = {
        'header': header_message(stamp, 'cav_5/lidar', make), 'model_id': 'm', 'neighbours': [layered, whole],
        'ego_reliability': 0.5, 'stages': ['fuse', 'total'], 'latency_ms': np.array([5, 9], np.float32),
        'sweeps_received': 1, 'sweeps_fused': 1, 'sweeps_overwritten': 0, 'sweeps_refused': 0,
        'grid_range': GRID, 'height': 16, 'width': 32,
        'seen_by': np.zeros(0, np.uint8), 'sensor_faults': [], 'own_map_used': True,
        'degradation': 1, 'degradation_cause': 'cav_3 <silent>',
    }  # fmt: skip
    return small_bags.made('/cav_5/fusion_status', 'diffkd_ros/msg/FusionStatus', **fields | changes)


def recording(path, **changes):
    items = []
    for frame in small_bags.frames(2):
        boxes = Boxes3D(SEEN, scores=np.array([0.9], np.float32))
        header = header_message(frame.stamp, 'cav_5/lidar', small_bags.MAKE)
        found = boxes_message(header, boxes, ['vehicle'], small_bags.MAKE)
        data = bytes(small_bags.TYPES.serialize_cdr(found, found.__msgtype__))
        answer = small_bags.Message('/cav_5/detections', found.__msgtype__, data)
        items += small_bags.messages_of(frame)
        items += [(frame.stamp, answer), (frame.stamp, status(frame.stamp, **changes))]
    return small_bags.write(path, items)


def test_the_page_has_what_arrived_of_each_neighbour(tmp_path):
    bag = recording(tmp_path / 'bag')
    out = tmp_path / 'page.html'
    assert page.write_page([bag], out) == (2, 2)
    text = out.read_text(encoding='utf-8')
    content = json.loads(
        re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[1]
    )
    assert content['area'] == pytest.approx([GRID[0], GRID[1], GRID[3], GRID[4]])
    first = content['frames'][0]
    assert first['degradation'] == 'fewer peers: cav_3 <silent>'
    layers = first['neighbours']['cav_2']['layers']
    assert layers['kilobytes'] == {'boxes': 0.24, 'coarse': 0.36, 'fine': 3.1}
    assert (layers['chunks'], layers['restored'], layers['columns']) == ([3, 4], 0.25, 8)
    packed = base64.b64decode(layers['tiles'])
    states = [packed[k // 4] >> 2 * (k % 4) & 3 for k in range(TILES.size)]
    np.testing.assert_array_equal(states, TILES.ravel())
    assert 'layers' not in first['neighbours']['rsu_1']
    frame = next(small_bags.frames(1))
    turn = frame.agents[5].pose[:3, :3].T @ frame.agents[2].pose[:3, :3]
    assert first['headings']['cav_2'] == pytest.approx(np.arctan2(turn[1, 0], turn[0, 0]), abs=1e-3)


@pytest.mark.parametrize('changes', [{'height': 20}, {'width': 0}, {'height': 65535}])
def test_tiles_that_do_not_fit_the_grid_cost_the_status(tmp_path, changes, caplog):
    bag = recording(tmp_path / 'bag', **changes)
    answers = read_answers([bag], 5)
    assert [answer.status for answer in answers.values()] == [None, None]
    assert '32 tiles up to state 3' in caplog.messages[0]


def test_the_area_is_that_of_the_status(tmp_path):
    assert read_area([recording(tmp_path / 'bag')]) == pytest.approx((GRID[0], GRID[1], GRID[3], GRID[4]))
    zeros = recording(tmp_path / 'zeros', grid_range=np.zeros(6, np.float32))
    assert read_area([zeros]) is None
