# SPDX-License-Identifier: Apache-2.0
"""An ego in this process, whose input, inference or checks fail: what it says of its degradation."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest
import rclpy
from diffkd_ros.msg import FusionStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from patience import PATIENCE, attempts
from rclpy.executors import SingleThreadedExecutor

from diffkd_ros.nodes.ego_node import EgoNode
from diffkd_ros.runtime.sensor.faults import Fault

SECOND = 1_000_000_000
OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


@pytest.fixture(scope='module')
def node(model, domain):
    parameters = {'model': model, 'threads': 1, 'max_latency': 10.0}
    arguments = [part for name, value in parameters.items() for part in ('-p', f'{name}:={value}')]
    rclpy.init(args=['--ros-args', '-r', '__ns:=/cav_1', *arguments], domain_id=domain)
    node, executor = EgoNode(), SingleThreadedExecutor()
    executor.add_node(node)
    node.start()
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()


class Ego:
    """Sends the node sweeps and reads its diagnostics."""

    def __init__(self, node, partner, sweep, stamp):
        self.node, self._partner, self._sweep, self._stamp = node, partner, sweep, stamp

    @property
    def pipeline(self):
        return self.node._pipeline

    def send(self):
        self._stamp += SECOND // 10
        self._partner.sweep('cav_1', self._stamp, self._sweep)
        return self._stamp

    def answer(self):
        """The status of a sweep."""
        for wait in attempts():
            with suppress(AssertionError):
                return self._partner.message_at('/cav_1/fusion_status', self.send(), timeout=wait)
        raise AssertionError('no answer')

    def diagnosed(self, name, text, sending=True):
        """The first item from now on that says this, while sweeps arrive or not."""
        seen, give_up = len(self._partner.received['/diagnostics']), time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            if sending:
                self.send()
            for array in self._partner.received['/diagnostics'][seen:]:
                for item in array.status:
                    if item.name == f'cav_1/ego_node: {name}' and text in item.message:
                        return item
            time.sleep(0.1)
        raise AssertionError(f'waited for diagnostics {name} saying {text!r}')

    def change(self, transition):
        client = self._partner.node.create_client(ChangeState, '/cav_1/ego_node/change_state')
        self._partner.until(client.service_is_ready, 'the lifecycle services')
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self._partner.until(future.done, f'transition {transition}')
        assert future.result().success


@pytest.fixture
def ego(node, partner, scene, stamp):
    return Ego(node, partner, scene.agents[1], stamp)


def test_without_a_sweep_from_the_start_it_is_stale(ego):
    """Before any other test."""
    item = ego.diagnosed('degradation', 'stale: no cloud received yet', sending=False)
    assert item.level == WARN


def test_inference_that_fails_is_stale_with_its_error_until_it_works_again(ego, monkeypatch):
    assert ego.answer().degradation == FusionStatus.EGO_ALONE
    assert ego.diagnosed('degradation', 'ego alone').level == OK

    def fail(points):
        raise ValueError('broken')

    monkeypatch.setattr(ego.pipeline._encoder, 'encode', fail)
    text = 'stale: inference failed: ValueError: broken'
    assert ego.diagnosed('degradation', text).level == ERROR
    monkeypatch.undo()
    assert ego.diagnosed('degradation', 'ego alone').level == OK


def test_checks_that_fail_cost_no_sweep(ego, monkeypatch):
    ego.answer()
    ego.pipeline.monitor.faults = {Fault.FROZEN: 'details'}
    broken = ego.pipeline.monitor

    def fail(*arguments):
        raise IndexError('broken')

    monkeypatch.setattr(broken, 'examine', fail)
    status = ego.answer()
    assert (list(status.sensor_faults), status.degradation) == ([], FusionStatus.EGO_ALONE)
    assert ego.pipeline.monitor is not broken


def test_after_a_deactivation_nothing_of_before_is_said(ego):
    ego.answer()
    # A repeated sweep of a LiDAR that has noise.
    ego.pipeline.monitor._repetition._noisy = 10
    frozen = 'frozen: the same returns again'
    assert ego.diagnosed('input', frozen).level == ERROR
    assert ego.diagnosed('degradation', f'stale: own sensors: {frozen}').level == ERROR
    ego.change(Transition.TRANSITION_DEACTIVATE)
    assert ego.diagnosed('input', 'not subscribed', sending=False).level == OK
    assert ego.diagnosed('degradation', 'no fusion', sending=False).level == OK
    ego.change(Transition.TRANSITION_ACTIVATE)
    assert ego.diagnosed('input', 'no cloud received yet', sending=False).level == WARN
    assert ego.diagnosed('degradation', 'stale: no cloud received yet', sending=False).level == WARN
    assert ego.answer().degradation == FusionStatus.EGO_ALONE
