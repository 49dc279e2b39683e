# SPDX-License-Identifier: Apache-2.0
"""Two real processes, a vehicle and an ego, exchange layered messages over DDS."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from patience import PATIENCE, scaled
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

from diffkd_ros.corruptions import LinkConditions
from diffkd_ros.evaluation.layered import LayeredCooperation
from diffkd_ros.evaluation.model import CleanFrame, Model
from diffkd_ros.launching import graph

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def both(group, partner, scene, linked):
    folder = str(linked.link_path.parent)
    ego, vehicle = graph.vehicle_specs([1, 2], 1, {'model': folder, 'threads': 1})
    vehicle = replace(vehicle, parameters={**vehicle.parameters, 'bandwidth': 100.0})
    processes = [group.start(spec) for spec in (ego, vehicle)]
    group.wait_ready(PATIENCE)
    return processes


@pytest.fixture
def set_bandwidth(both, partner):
    """Sets the bandwidth of the active vehicle."""
    client = partner.node.create_client(SetParameters, '/cav_2/vehicle_node/set_parameters')

    def set_bandwidth(kilobytes):
        partner.until(client.service_is_ready, 'the service')
        parameter = Parameter('bandwidth', value=kilobytes).to_parameter_msg()
        future = client.call_async(SetParameters.Request(parameters=[parameter]))
        partner.until(future.done, 'the answer')
        assert future.result().results[0].successful

    yield set_bandwidth
    set_bandwidth(100.0)


def chunks_at(partner, stamp):
    """The chunks of a sweep, if all that are announced have arrived."""
    wanted = (stamp // SECOND, stamp % SECOND)
    found = [
        m for m in partner.received['/v2x/chunks'] if (m.header.stamp.sec, m.header.stamp.nanosec) == wanted
    ]
    return found if found and len(found) == found[0].chunks else None


def exchanged(partner, scene, start):
    """Send sweeps until the ego has fused all chunks of one; returns its chunks, status and detections."""

    def exchange(stamp):
        partner.sweep('cav_2', stamp, scene.agents[2])
        with contextlib.suppress(AssertionError):
            partner.until(lambda: chunks_at(partner, stamp), 'the chunks', scaled(1.0))
        partner.sweep('cav_1', stamp, scene.agents[1])

    def complete(status):
        return any(
            each.accepted and each.age == 0.0 and each.sweep_chunks == each.sweep_chunks_received > 0
            for each in status.neighbours
        )

    stamp = partner.until_answered('/cav_1/fusion_status', exchange, complete, start)
    status = partner.message_at('/cav_1/fusion_status', stamp)
    return chunks_at(partner, stamp), status, partner.message_at('/cav_1/detections', stamp)


def test_the_ego_detects_what_the_evaluation_does(both, partner, scene, linked, stamp):
    chunks, status, detections = exchanged(partner, scene, stamp)
    cooperation = LayeredCooperation(Model(linked.link_path.parent))
    clean = CleanFrame(replace(scene, agents={agent: scene.agents[agent] for agent in (1, 2)}))
    message = cooperation.message(clean, 2, scene.agents[2], LinkConditions(bandwidth=100.0))
    expected = cooperation.outcome(clean, scene.agents[1], [message]).detection
    assert len(expected.boxes) > 10
    np.testing.assert_allclose(np.reshape(detections.boxes, (-1, 7)), expected.boxes.boxes, atol=1e-4)
    np.testing.assert_allclose(detections.scores, expected.boxes.scores, atol=1e-4)

    (neighbour,) = status.neighbours
    assert neighbour.gate_weight == pytest.approx(float(expected.gate_weights[1]), abs=1e-4)
    assert (neighbour.sweep_chunks, neighbour.restored) == (len(chunks), 0.0)
    assert neighbour.bytes == sum(len(serialize_message(chunk)) for chunk in chunks)
    layers = neighbour.boxes_bytes + neighbour.coarse_bytes + neighbour.fine_bytes
    assert layers == sum(len(chunk.data) for chunk in chunks)
    assert min(neighbour.boxes_bytes, neighbour.coarse_bytes, neighbour.fine_bytes) > 0
    rows, columns = status.height // 4, status.width // 4
    assert (rows, columns) == (linked.grid.height // 4, linked.grid.width // 4)
    np.testing.assert_allclose(status.grid_range, linked.grid.range)
    tiles = np.reshape(neighbour.tiles, (rows, columns))
    assert set(np.unique(tiles)) == {neighbour.TILE_FINE, neighbour.TILE_EMPTY}
    assert list(status.stages[-9:]) == [
        *('neighbours', 'restore', 'examine', 'move', 'fuse', 'decode', 'merge', 'publish', 'total'),
    ]


@pytest.mark.parametrize('kilobytes', [0.5, 1.5, 2.5])
def test_a_sweep_keeps_to_the_bandwidth_on_the_wire(both, partner, scene, stamp, set_bandwidth, kilobytes):
    set_bandwidth(kilobytes)
    chunks, status, _ = exchanged(partner, scene, stamp)
    size = sum(len(serialize_message(chunk)) for chunk in chunks)
    assert 1e3 * kilobytes - 250 <= size <= 1e3 * kilobytes
    assert all(len(serialize_message(chunk)) <= 1400 for chunk in chunks)
    (neighbour,) = status.neighbours
    assert 0 < neighbour.restored <= 1
    item = {v.key: v.value for v in partner.diagnosis('link', 'receivers').values}
    assert int(item['sweep [B]']) == size
    assert int(item['budget [B]']) == 1e3 * kilobytes
    layers = sum(int(item[f'{layer} [B]']) for layer in ('boxes', 'coarse', 'fine'))
    assert layers + int(item['envelopes [B]']) == size
    stages = {v.key for v in partner.diagnosis('cav_2/vehicle_node: inference', '').values}
    assert {'prepare p50 [ms]', 'pack p50 [ms]'} <= stages


def test_a_bandwidth_too_low_for_a_chunk_is_reported(both, group, partner, scene, linked, stamp):
    """Its name takes as many bytes in each message."""
    (spec,) = [spec for spec in graph.vehicle_specs([1, 3], 1, {}) if spec.namespace == '/cav_3']
    parameters = {'model': str(linked.link_path.parent), 'bandwidth': 0.3, 'agent_id': 'cav_3' + 200 * 'x'}
    group.start(replace(spec, parameters=parameters), label='narrow')
    group.wait_ready(PATIENCE)

    def reported():
        partner.sweep('cav_3', stamp, scene.agents[3])
        for array in partner.received['/diagnostics'][-20:]:
            for status in array.status:
                if status.name.endswith('link') and 'no chunk fits' in status.message:
                    return status
        return None

    status = partner.until(reported, 'the warning')
    assert status.message == 'no chunk fits into a bandwidth of 0.3 kB'
    counts = {v.key: v.value for v in partner.diagnosis('cav_3/vehicle_node: input', '').values}
    assert counts['sweeps sent as features'] == '0'
    assert int(counts['sweeps refused (bandwidth)']) > 0
