# SPDX-License-Identifier: Apache-2.0
"""The results of an experiment as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from diffkd_ros.evaluation.summary import LevelMeans
from diffkd_ros.evidence.results import Evidence, MeasuredSteps

_NAN = float('nan')


def markdown(evidence: Evidence) -> str:
    """Format all tables."""
    parts = [_main_table(evidence), _differences_table(evidence), _corruption_table(evidence)]
    if evidence.steps:
        parts.append(_steps_table(evidence.steps))
    return '\n\n'.join(parts) + '\n'


def _main_table(evidence: Evidence) -> str:
    header = (
        evidence.data.partition(' ')[0], 'AP@0.5', 'AP@0.7', 'corrupted, both', 'mRCE', 'to reference',
        'held out', 'link', 'ΔLaECE₀', 'false outside', 'ms encode + fuse', 'Mbit/s',
    )  # fmt: skip
    reference = evidence.rows[evidence.reference].summary.mrce
    lines = []
    for name, row in evidence.rows.items():
        summary = row.summary
        # Unknown where a detector finds nothing at all.
        relative = 100 * (summary.mrce / reference - 1) if summary.mrce and reference else _NAN
        lines.append(
            (
                row.label,
                _with_interval(summary.clean.ap50, summary.clean.ap50_interval, 100),
                _with_interval(summary.clean.ap70, summary.clean.ap70_interval, 100),
                ' / '.join(_percents(row.corrupted)),
                _with_interval(summary.mrce, summary.mrce_interval or (_NAN, _NAN)),
                '' if name == evidence.reference else _number(relative, 0, '+', ' %'),
                _number(summary.group('held_out').mrce),
                _number(summary.group('link').mrce),
                _number(summary.calibration.laece0_mean_change, 3),
                _number(summary.clean.false_boxes_outside, 2),
                f'{_number(summary.latency_ms.encode, 0)} + {_number(summary.latency_ms.fuse, 0)}',
                _number(summary.link_mbit_s, 2),
            )
        )
    return _table(header, lines)


def _differences_table(evidence: Evidence) -> str:
    header = (
        f'less {evidence.rows[evidence.subject].label}', 'AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'AP@0.7',
        'mRCE',
    )  # fmt: skip
    figures = {'clean_ap50': 100, 'clean_ap70': 100, 'corrupted_ap50': 100, 'corrupted_ap70': 100, 'mrce': 1}
    return _table(
        header,
        [
            (row.label, *(_difference(row.less_subject.get(key), scale) for key, scale in figures.items()))
            for name, row in evidence.rows.items()
            if name != evidence.subject
        ],
    )


def _difference(ends: tuple[float, float, float] | None, scale: float) -> str:
    """A difference with its interval, in bold if the interval does not contain 0."""
    if ends is None:
        return ''
    value, low, high = ends
    text = _with_interval(value, (low, high), scale, '+')
    return f'**{text}**' if low * high > 0 else text


def _corruption_table(evidence: Evidence) -> str:
    rows = evidence.rows.values()
    lines = [
        (
            name.replace('_', ' '),
            *(
                _percent(row.summary.corruptions[name].ap50) if name in row.summary.corruptions else ''
                for row in rows
            ),
        )
        for name in next(iter(rows)).summary.corruptions
    ]
    return _table(('AP@0.5', *(row.label for row in rows)), lines)


def _steps_table(settings: Iterable[MeasuredSteps]) -> str:
    header = ('start', 'steps', 'clean AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'AP@0.7', 'ms fuse')
    return _table(
        header,
        [
            (
                setting.start or 'none',
                str(setting.steps),
                *_percents(setting.summary.clean),
                *_percents(setting.corrupted),
                _number(setting.summary.latency_ms.fuse, 0),
            )
            for setting in settings
        ],
    )


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ['---'] + ['--:'] * (len(header) - 1)
    return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in (header, rule, *lines))


def _number(value: float, digits: int = 1, sign: str = '', unit: str = '', scale: float = 1) -> str:
    return '' if math.isnan(value) else f'{scale * value:{sign}.{digits}f}{unit}'


def _percent(share: float) -> str:
    return _number(share, scale=100)


def _percents(figures: LevelMeans) -> tuple[str, str]:
    return _percent(figures.ap50), _percent(figures.ap70)


def _with_interval(value: float, interval: tuple[float, float], scale: float = 1, sign: str = '') -> str:
    low, high = (_number(end, sign=sign, scale=scale) for end in interval)
    text = _number(value, sign=sign, scale=scale)
    return f'{text} ({low} to {high})' if low and high else text
