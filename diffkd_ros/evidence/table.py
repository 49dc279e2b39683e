# SPDX-License-Identifier: Apache-2.0
"""What an experiment found: one structure, and the same as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffkd_ros.evidence.compare import Differences
from diffkd_ros.evidence.measure import Summary
from diffkd_ros.evidence.plan import Experiment

_AP = ('ap50', 'ap70')


def gather(
    experiment: Experiment,
    rows: Mapping[str, Summary],
    differences: Mapping[str, Differences],
    reliability: Summary | None,
    steps: Mapping[tuple[str, int], Summary],
) -> dict[str, Any]:
    """Everything that is told of an experiment.

    Args:
        experiment: what was run.
        rows: summaries by row.
        differences: from the subject, by row.
        reliability: of the row whose ego was hit.
        steps: summaries by start and number of steps.
    """
    plan = experiment.plan
    any_row = next(iter(rows.values()))
    told = {name: _row(summary, plan.rows[name].label) for name, summary in rows.items()}
    reference = told[plan.reference]['mrce']
    for figures in told.values():
        own = figures['mrce']
        # Unknown where a detector finds nothing at all.
        figures['mrce_relative'] = 100 * (own / reference - 1) if own and reference else None
    for name, difference in differences.items():
        told[name]['less_subject'] = {
            key: [value.estimate, value.low, value.high] for key, value in difference.items()
        }
    evidence: dict[str, Any] = {
        'data': 'simulated (diffkd_ros.sources.simulator)'
        if plan.conditions.frames().kind == 'sim'
        else plan.conditions.source,
        'frames': any_row['frames'],
        'scenarios': any_row['scenarios'],
        'seeds': plan.conditions.seeds,
        'severity': plan.conditions.severity,
        'corruptions': plan.conditions.corruptions,
        'reference': plan.reference,
        'subject': plan.subject,
        'rows': told,
    }
    if reliability is not None:
        evidence['reliability'] = _reliability(reliability)
    if steps:
        evidence['steps'] = [_setting(start, count, summary) for (start, count), summary in steps.items()]
    return evidence


def _row(summary: Summary, label: str) -> dict[str, Any]:
    groups = {group['group']: group for group in summary['groups']}
    corruptions = {
        name: {key: figures[key] for key in ('family', *_AP, 'rce_ap50', 'rce_ap70')}
        for name, figures in summary['corruptions'].items()
    }
    return {
        'label': label,
        'model': summary['run']['model'],
        **{f'clean_{key}': summary['clean'][key] for key in _AP},
        **{f'clean_{key}_interval': summary['clean'][f'{key}_interval'] for key in _AP},
        **_mean_ap(corruptions[name] for name in groups.get('paper', {}).get('corruptions', ())),
        'mrce': summary['mrce'],
        'mrce_interval': summary['mrce_interval'],
        'mrce_ap50': summary['mrce_ap50'],
        'mrce_ap70': summary['mrce_ap70'],
        'mrce_held_out': groups['held_out']['mrce'] if 'held_out' in groups else None,
        'mrce_link': groups['link']['mrce'] if 'link' in groups else None,
        'laece0_change': summary['calibration'].get('laece0_mean_change'),
        'false_boxes_outside': summary['clean']['false_boxes_outside'],
        'link_mbit_s': summary['link_mbit_s'],
        'encode_ms': summary['latency_ms']['encode'],
        'fuse_ms': summary['latency_ms']['fuse'],
        'corruptions': corruptions,
    }


def _reliability(summary: Summary) -> dict[str, Any]:
    def trust(figures: Mapping[str, Any]) -> dict[str, float]:
        return {key: figures[key] for key in ('ego_reliability', 'gate_ego', 'gate_neighbours')}

    return {
        'clean': trust(summary['clean']),
        **{
            name: {severity: trust(level) for severity, level in figures['severities'].items()}
            for name, figures in summary['corruptions'].items()
        },
    }


def _setting(start: str, steps: int, summary: Summary) -> dict[str, Any]:
    return {
        'start': start if steps else '',
        'steps': steps,
        **{f'clean_{key}': summary['clean'][key] for key in _AP},
        **_mean_ap(summary['corruptions'].values()),
        'fuse_ms': summary['latency_ms']['fuse'],
    }


def _mean_ap(corruptions: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """AP over corruptions, None without any."""
    parts = list(corruptions)
    return {f'corrupted_{key}': sum(p[key] for p in parts) / len(parts) if parts else None for key in _AP}


def markdown(evidence: Mapping[str, Any]) -> str:
    """The tables, from the structure alone."""
    parts = [_main_table(evidence), _differences_table(evidence), _corruption_table(evidence)]
    if 'steps' in evidence:
        parts.append(_steps_table(evidence['steps']))
    return '\n\n'.join(parts) + '\n'


def _main_table(evidence: Mapping[str, Any]) -> str:
    header = (
        evidence['data'].partition(' ')[0], 'AP@0.5', 'AP@0.7', 'corrupted, both', 'mRCE', 'to reference',
        'held out', 'link', 'ΔLaECE₀', 'false outside', 'ms encode + fuse', 'Mbit/s',
    )  # fmt: skip
    lines = []
    for name, row in evidence['rows'].items():
        change = '' if name == evidence['reference'] else _number(row['mrce_relative'], 0, '+', ' %')
        lines.append(
            (
                row['label'],
                _with_interval(row['clean_ap50'], row['clean_ap50_interval'], 100),
                _with_interval(row['clean_ap70'], row['clean_ap70_interval'], 100),
                ' / '.join(_percent(row[key]) for key in ('corrupted_ap50', 'corrupted_ap70')),
                _with_interval(row['mrce'], row['mrce_interval']),
                change,
                _number(row['mrce_held_out']),
                _number(row['mrce_link']),
                _number(row['laece0_change'], 3),
                _number(row['false_boxes_outside'], 2),
                f'{_number(row["encode_ms"], 0)} + {_number(row["fuse_ms"], 0)}',
                _number(row['link_mbit_s'], 2),
            )
        )
    return _table(header, lines)


def _differences_table(evidence: Mapping[str, Any]) -> str:
    rows = evidence['rows']
    header = (
        f'less {rows[evidence["subject"]]["label"]}', 'AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'AP@0.7', 'mRCE'
    )  # fmt: skip
    figures = {'clean_ap50': 100, 'clean_ap70': 100, 'corrupted_ap50': 100, 'corrupted_ap70': 100, 'mrce': 1}
    return _table(
        header,
        [
            (
                row['label'],
                *(_difference(row['less_subject'].get(key), scale) for key, scale in figures.items()),
            )
            for name, row in rows.items()
            if name != evidence['subject']
        ],
    )


def _difference(ends: Sequence[float | None] | None, scale: float) -> str:
    """A difference with its interval, told apart if that does not hold 0."""
    if ends is None:
        return ''
    value, low, high = ends
    told = _with_interval(value, (low, high), scale, '+')
    sure = low is not None and high is not None and low * high > 0
    return f'**{told}**' if sure else told


def _corruption_table(evidence: Mapping[str, Any]) -> str:
    names = list(next(iter(evidence['rows'].values()))['corruptions'])
    header = ('AP@0.5', *(row['label'] for row in evidence['rows'].values()))
    lines = [
        (
            name.replace('_', ' '),
            *(
                _percent(row['corruptions'][name]['ap50']) if name in row['corruptions'] else ''
                for row in evidence['rows'].values()
            ),
        )
        for name in names
    ]
    return _table(header, lines)


def _steps_table(settings: Iterable[Mapping[str, Any]]) -> str:
    header = ('start', 'steps', 'clean AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'AP@0.7', 'ms fuse')
    return _table(
        header,
        [
            (
                setting['start'] or 'none',
                str(setting['steps']),
                *(
                    _percent(setting[key])
                    for key in ('clean_ap50', 'clean_ap70', 'corrupted_ap50', 'corrupted_ap70')
                ),
                f'{setting["fuse_ms"]:.0f}',
            )
            for setting in settings
        ],
    )


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ['---'] + ['--:'] * (len(header) - 1)
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in (header, rule, *lines))


def _number(value: float | None, digits: int = 1, sign: str = '', unit: str = '', scale: float = 1) -> str:
    return '' if value is None or math.isnan(value) else f'{scale * value:{sign}.{digits}f}{unit}'


def _percent(share: float | None) -> str:
    return _number(share, scale=100)


def _with_interval(
    value: float | None, interval: Sequence[float | None] | None, scale: float = 1, sign: str = ''
) -> str:
    low, high = (_number(end, sign=sign, scale=scale) for end in interval or (None, None))
    told = _number(value, sign=sign, scale=scale)
    return f'{told} ({low} to {high})' if low and high else told
