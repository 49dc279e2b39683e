# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from diffkd_ros.metrics.link_cost import LinkCost

MS = 1_000_000


def test_a_steady_sender_costs_size_times_rate_however_few_messages() -> None:
    for messages in (2, 3, 50):
        link = LinkCost()
        for k in range(messages):
            link.add('cav_2', 50_000, 7 * MS + k * 100 * MS, k)
        # 50 kB at 10 Hz.
        assert link.summary()['cav_2']['mbit_per_s'] == pytest.approx(4.0)


def test_a_lost_message_counts_and_lowers_the_rate() -> None:
    link = LinkCost()
    for k in (0, 1, 2, 5, 6, 7, 8, 9):
        link.add('cav_2', 50_000, k * 100 * MS, k)
    assert link.summary()['cav_2'] == {
        'messages': 8,
        'lost': 2,
        'bytes': 400_000,
        'mbit_per_s': pytest.approx(4.0 * 8 / 10),
    }


def test_senders_are_kept_apart() -> None:
    link = LinkCost()
    for k in range(4):
        link.add('cav_2', 1000, k * 100 * MS, 10 + k)
        link.add('cav_3', 2000, k * 200 * MS, 20 + k)
    assert list(link.summary()) == ['cav_2', 'cav_3']
    assert [cost['mbit_per_s'] for cost in link.summary().values()] == pytest.approx([0.08, 0.08])
    assert [cost['lost'] for cost in link.summary().values()] == [0, 0]


def test_one_message_has_no_rate() -> None:
    link = LinkCost()
    link.add('cav_2', 1000, 0, 0)
    link.add('cav_3', 1000, 5, 0)
    link.add('cav_3', 1000, 5, 0)
    assert all(math.isnan(cost['mbit_per_s']) for cost in link.summary().values())
    assert LinkCost().summary() == {}


def test_the_counter_wraps() -> None:
    link = LinkCost()
    for k, sequence in enumerate((2**32 - 2, 2**32 - 1, 0, 2)):
        link.add('cav_2', 10, k * MS, sequence)
    assert link.summary()['cav_2']['lost'] == 1


def test_a_late_message_is_not_lost() -> None:
    link = LinkCost()
    for sequence in (0, 1, 3, 2, 4):
        link.add('cav_2', 10, sequence * 100 * MS, sequence)
    assert link.summary()['cav_2']['lost'] == 0
    # The order of arrival does not change the time span.
    assert link.summary()['cav_2']['mbit_per_s'] == pytest.approx(8 * 10 * 10 / 1e6)


def test_a_repeated_message_costs_bytes_but_is_no_loss() -> None:
    link = LinkCost()
    for sequence in (0, 1, 1, 2):
        link.add('cav_2', 10, sequence * 100 * MS, sequence)
    assert link.summary()['cav_2']['lost'] == 0
    assert link.summary()['cav_2']['bytes'] == 40


def test_a_restart_is_no_loss() -> None:
    link = LinkCost()
    for k, sequence in enumerate((500, 501, 0, 1, 3)):
        link.add('cav_2', 10, k * 100 * MS, sequence)
    assert link.summary()['cav_2']['lost'] == 1


def test_parts_of_a_message_count_once_in_any_order() -> None:
    link = LinkCost()
    for sequence in (0, 0, 1, 0, 1, 3, 3):
        link.add('cav_2', 500, sequence * 100 * MS, sequence, part=True)
    cost = link.summary()['cav_2']
    assert (cost['messages'], cost['lost'], cost['bytes']) == (3, 1, 3500)
