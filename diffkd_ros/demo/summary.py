# SPDX-License-Identifier: Apache-2.0
"""Figures of the demo: `summary.json` and the tables in the terminal."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table

import diffkd_ros
from diffkd_ros.demo.review import Review
from diffkd_ros.runtime.link.maps import LAYERS

# A rate is held if at least this share of the ego's sweeps is answered.
HELD = 0.95
THRESHOLDS = (0.3, 0.5, 0.7)


def summarise(
    lockstep: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    realtime: list[Mapping[str, Any]],
    review: Review,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Combine the results of all phases.

    Args:
        lockstep: the player's result of the lock-step phase.
        evaluation: the evaluator's result of the same phase.
        realtime: the player's runs in real time, by rate.
        review: offline evaluation of the recording.
        facts: about the run (model, seed, ...).
    """
    run = lockstep['runs'][0]
    cooperative = {float(k): v for k, v in evaluation['average_precision'].items()}
    link, latency = evaluation['link'], evaluation['latency_ms']
    nodes = evaluation['node_latency_ms']
    precision = {}
    for threshold in THRESHOLDS:
        name = f'ap{round(threshold * 100)}'
        precision[f'{name}_cooperative'] = cooperative[threshold]
        precision[f'{name}_ego_only'] = review.ego_only[threshold]
    features = {
        agent: {
            'received': link[agent]['messages'],
            'fused': evaluation['features_fused'].get(agent, 0),
            'lost': link[agent]['lost'],
            'refused': evaluation['features_refused'].get(agent, {}),
        }
        for agent in sorted(link)
    }
    kilobytes = {agent: evaluation['kilobytes_fused'].get(agent) for agent in sorted(link)}
    known = [size for size in kilobytes.values() if size is not None]
    held = [r['rate'] for r in realtime if r['sent'] and r['answered'] / r['sent'] >= HELD]
    return {
        **precision,
        'frames_sent': run['sent'],
        'frames_answered': run['answered'],
        'frames_fused': evaluation['frames_fused'],
        'frames_lost': run['sent'] - run['answered'],
        'degradation': evaluation['degradation'],
        'features_missing': lockstep['features_missing'],
        'features': features,
        'latency_p50_ms': latency['total']['p50'] if latency else None,
        'latency_p95_ms': latency['total']['p95'] if latency else None,
        'latency_ms': latency,
        'vehicle_latency_p50_ms': {a: nodes[a]['total p50 [ms]'] for a in sorted(link) if a in nodes},
        'vehicle_latency_ms': {a: nodes[a] for a in sorted(link) if a in nodes},
        'mbit_per_s': {agent: link[agent]['mbit_per_s'] for agent in sorted(link)},
        'kilobytes_per_frame': sum(known) / len(known) if known else None,
        'vehicle_kilobytes_per_frame': kilobytes,
        'layers': evaluation['layers'],
        'realtime': [
            {**r, 'answered_share': r['answered'] / r['sent'] if r['sent'] else None} for r in realtime
        ],
        'realtime_answered_share': realtime[0]['answered'] / realtime[0]['sent'] if realtime else None,
        'highest_rate_hz': max(held, default=None),
        'frames_recorded': review.frames,
        'frames_recorded_incomplete': review.incomplete,
        'truths_counted': evaluation['truths_counted'],
        **facts,
        'versions': versions(),
        'machine': {'cpus': os.cpu_count(), 'system': platform.platform()},
    }


def versions() -> dict[str, str]:
    """Versions of Python and the main packages."""
    found = {'python': platform.python_version(), 'diffkd_ros': diffkd_ros.__version__}
    for name in ('numpy', 'numba', 'onnxruntime', 'ros-rclpy', 'ros-rmw-fastrtps-cpp', 'rosbags'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _number(value: float | None, form: str = '.1f') -> str:
    return '-' if value is None else format(value, form)


def _percentiles(latency: Mapping[str, float] | None, *keys: str) -> list[str]:
    return [_number((latency or {}).get(key)) for key in keys or ('p50', 'p95')]


def _table(
    console: Console, title: str, first: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    console.print(f'\n{title}', style='bold', highlight=False, soft_wrap=True)
    table = Table()
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify='right')
    for row in rows:
        table.add_row(*row, end_section=row[0] == 'publish')
    console.print(table)


def print_tables(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the tables, lock-step first."""
    _table(
        console,
        f'Average precision on the same {summary["frames_recorded"]} frames',
        '',
        [f'AP@{threshold}' for threshold in THRESHOLDS],
        [
            [label, *(_number(summary[f'ap{round(t * 100)}_{key}'], '.3f') for t in THRESHOLDS)]
            for label, key in (('cooperative', 'cooperative'), ('ego alone', 'ego_only'))
        ],
    )
    _table(
        console,
        'Latency of the ego in lock-step, ms',
        'stage',
        ['p50', 'p95'],
        [[stage, *_percentiles(row)] for stage, row in summary['latency_ms'].items()],
    )
    _table(
        console,
        'Features in lock-step: Mbit/s, kB a frame as received; latency from cloud to feature, ms',
        'vehicle',
        ['Mbit/s', 'kB', 'received', 'fused', 'lost', 'refused', 'p50', 'p95'],
        [
            [
                agent,
                _number(summary['mbit_per_s'][agent], '.2f'),
                _number(summary['vehicle_kilobytes_per_frame'][agent], '.2f'),
                *(str(row[name]) for name in ('received', 'fused', 'lost')),
                str(sum(row['refused'].values())),
                *_percentiles(summary['vehicle_latency_ms'].get(agent), 'total p50 [ms]', 'total p95 [ms]'),
            ]
            for agent, row in summary['features'].items()
        ],
    )
    if summary['layers']:
        _table(
            console,
            'Layered messages as fused: data in kB a frame, cells restored; all chunks',
            'vehicle',
            [*LAYERS, 'restored', 'received', 'lost', 'refused'],
            [
                [
                    agent,
                    *(_number(row['data_kilobytes'][layer], '.2f') for layer in LAYERS),
                    _number(row['restored'], '.0%'),
                    *(str(row['chunks'][name]) for name in ('received', 'lost', 'refused')),
                ]
                for agent, row in sorted(summary['layers'].items())
            ],
        )
    if summary['realtime']:
        _table(
            console,
            'Real time, all processes sharing this machine; latency of the ego, ms',
            'rate',
            ['sweeps', 'answered', 'share', 'p50', 'p95'],
            [
                [
                    f'{row["rate"]:g} Hz',
                    str(row['sent']),
                    str(row['answered']),
                    _number(row['answered_share'], '.1%'),
                    *_percentiles(row['latency_ms']),
                ]
                for row in summary['realtime']
            ],
        )
    console.print(
        f'\nthe ego received {_number(summary["kilobytes_per_frame"], ".2f")} kB a frame from each vehicle '
        '(mean)',
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f'frames in lock-step: {summary["frames_sent"]} sent, {summary["frames_fused"]} fused, '
        f'{summary["frames_lost"]} lost; '
        + ', '.join(f'{count} {name}' for name, count in summary['degradation'].items()),
        highlight=False,
        soft_wrap=True,
    )
    if summary['realtime']:
        highest = summary['highest_rate_hz']
        console.print(
            f'highest rate held: {f"{highest:g} Hz" if highest else "none of those tried"} '
            f'(at least {HELD:.0%} of the sweeps answered)',
            highlight=False,
            soft_wrap=True,
        )
