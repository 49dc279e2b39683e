# SPDX-License-Identifier: Apache-2.0
"""The demo's summary and tables from the results of its nodes."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from diffkd_ros.demo.review import Review
from diffkd_ros.demo.summary import print_tables, summarise


def evaluation(layers):
    agents = ('cav_2', 'cav_3')
    return {
        'average_precision': {'0.3': 0.9, '0.5': 0.8, '0.7': 0.7},
        'link': {
            agent: {'messages': 10, 'lost': 1, 'bytes': size, 'mbit_per_s': 8e-6 * size}
            for agent, size in zip(agents, (39_000, 31_000), strict=True)
        },
        'latency_ms': {'total': {'p50': 50.0, 'p95': 60.0}},
        'node_latency_ms': {},
        'features_fused': dict.fromkeys(agents, 9),
        'features_refused': {},
        'frames_fused': 10,
        'degradation': {'full': 9, 'fewer peers': 1},
        'truths_counted': 40,
        'kilobytes_fused': {'cav_2': 3.9, 'cav_3': 3.1},
        'layers': layers,
    }


def printed(layers):
    """The summary, and what is printed of it on a terminal of 80 characters."""
    run = {'sent': 10, 'answered': 10}
    review = Review(10, 0, {0.3: 0.6, 0.5: 0.5, 0.7: 0.4}, [], 0)
    summary = summarise({'runs': [run], 'features_missing': 0}, evaluation(layers), [], review, {})
    console = Console(width=80, file=StringIO())
    print_tables(console, summary)
    return summary, console.file.getvalue()


def test_kilobytes_a_frame_are_a_mean_over_vehicles():
    summary, text = printed({})
    assert summary['vehicle_kilobytes_per_frame'] == {'cav_2': 3.9, 'cav_3': 3.1}
    assert summary['kilobytes_per_frame'] == pytest.approx(3.5)
    assert 'the ego received 3.50 kB a frame from each vehicle (mean)' in text
    assert 'Layered messages' not in text
    assert '0 lost; 9 full, 1 fewer peers' in text


def test_layers_are_printed_by_vehicle():
    layers = {
        'cav_3': {
            'data_kilobytes': {'boxes': 0.24, 'coarse': 0.36, 'fine': 2.87},
            'restored': 0.125,
            'chunks': {'received': 27, 'lost': 2, 'refused': 1},
        }
    }
    _, text = printed(layers)
    rows = [line.split('│') for line in text.splitlines() if 'cav_3' in line]
    cells = [cell.strip() for cell in rows[-1] if cell.strip()]
    assert cells == ['cav_3', '0.24', '0.36', '2.87', '12%', '27', '2', '1']
