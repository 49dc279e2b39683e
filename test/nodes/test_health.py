# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of the inference's latency budget and of the link."""

from __future__ import annotations

import pytest
from rclpy.qos import ReliabilityPolicy

from diffkd_ros.nodes.base import diagnostics
from diffkd_ros.nodes.perception.report import InferenceReport
from diffkd_ros.nodes.vehicle_node import link_problem

S = 1_000_000_000
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.fixture
def report(card):
    return InferenceReport(card, 'cpu', 1, max_latency=0.2, max_overrun=1.0)


def state(report):
    item, model = report.items()
    assert (item.name, model.name) == ('inference', 'model')
    return item.level, item.message


def test_one_overrun_is_a_warning_in_one_report(report):
    report.add(0, {'encode': 30.0, 'total': 150.0})
    assert state(report)[0] == diagnostics.OK
    report.add(S // 10, {'encode': 30.0, 'total': 250.0})
    report.add(S // 5, {'encode': 30.0, 'total': 150.0})
    assert state(report) == (diagnostics.WARN, '1 sweeps over the budget of 200 ms since the last report')
    assert state(report)[0] == diagnostics.OK


def test_continuous_overruns_are_an_error_until_a_result_is_in_time(report):
    for k in range(11):
        report.add(k * S // 10, {'total': 250.0})
    assert state(report)[0] == diagnostics.WARN  # for 1.0 s, which is allowed
    report.add(11 * S // 10, {'total': 250.0})
    assert state(report) == (diagnostics.ERROR, 'over the budget of 200 ms for 1.1 s')
    report.add(12 * S // 10, {'total': 100.0})
    assert state(report)[0] == diagnostics.OK
    assert report.items()[0].values['over budget'] == 12


def test_overruns_before_a_pause_or_a_step_back_do_not_count(report):
    for k in (0, 5, 1000, 900):
        report.add(k * S, {'total': 250.0})
        assert (report.overdue != '') == (k == 5)


def test_a_failure_is_an_error_until_the_next_success(report):
    report.fail(ValueError('broken'))
    assert state(report) == (diagnostics.ERROR, 'ValueError: broken')
    report.add(0, {'total': 100.0})
    assert state(report)[0] == diagnostics.OK


def test_every_stage_is_reported(report):
    for milliseconds in range(101):
        report.add(0, {'encode': float(milliseconds), 'total': 100.0 + milliseconds})
    values = report.items()[0].values
    assert (values['encode p50 [ms]'], values['encode p95 [ms]']) == ('50.00', '95.00')
    assert (values['total p50 [ms]'], values['over budget']) == ('150.00', 0)


@pytest.mark.parametrize(
    ('reliability', 'receivers', 'size', 'lossy', 'problem'),
    [
        ('reliable', {'/cav_1/ego_node': RELIABLE}, 900_000, True, ''),
        ('reliable', {'/cav_1/ego_node': BEST_EFFORT}, 90_000, True, ''),
        ('reliable', {'/cav_1/ego_node': BEST_EFFORT}, 900_000, False, ''),
        ('reliable', {'/a': BEST_EFFORT, '/b': RELIABLE}, 900_000, True, 'lose it without notice (/a)'),
        (
            'best_effort',
            {'/a': BEST_EFFORT, '/b': RELIABLE},
            90_000,
            True,
            '/b ask for reliable and get nothing',
        ),
        ('best_effort', {'/a': BEST_EFFORT}, 90_000, True, ''),
    ],
)
def test_features_that_cannot_arrive_are_reported(reliability, receivers, size, lossy, problem):
    found = link_problem(reliability, receivers, size, lossy)
    assert (problem in found) if problem else (found == '')
