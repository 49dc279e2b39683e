# SPDX-License-Identifier: Apache-2.0
import pytest

from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.latency import LatencyTable


def test_percentiles_by_stage_in_the_order_first_seen() -> None:
    table = LatencyTable()
    for k in range(101):
        table.add({'encode': float(100 - k), 'total': 200.0})
    table.add({'fuse': 7.0})
    summary = table.summary()
    assert list(summary) == ['encode', 'total', 'fuse']
    assert summary['encode'] == {'p50': 50.0, 'p95': 95.0, 'mean': 50.0, 'n': 101}
    assert summary['total'] == {'p50': 200.0, 'p95': 200.0, 'mean': 200.0, 'n': 101}
    assert summary['fuse'] == {'p50': 7.0, 'p95': 7.0, 'mean': 7.0, 'n': 1}


def test_nothing_added_nothing_said() -> None:
    assert LatencyTable().summary() == {}


@pytest.mark.parametrize('milliseconds', [-0.1, float('nan'), float('inf')])
def test_an_impossible_duration_is_named_and_nothing_of_its_sweep_kept(milliseconds: float) -> None:
    table = LatencyTable()
    with pytest.raises(EvaluationError, match="stage 'fuse' took"):
        table.add({'encode': 3.0, 'fuse': milliseconds})
    assert table.summary() == {}
