# SPDX-License-Identifier: Apache-2.0
"""Figures of an evaluation of attacks as tables, on the terminal and in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from diffkd_ros.evaluation.conditions import CLEAN
from diffkd_ros.evaluation.trust_results import AttackFigures, Figures, Trust

COLUMNS = ('AP@0.5', 'AP@0.7', 'false', 'lost', 'detected', 'delay')
_UNITS = 'percent, false boxes a frame, seconds'


def rows(trust: Trust, liars: str) -> Iterator[tuple[str, list[str]]]:
    """The references and the attacks of a choice of liars: name and a text for each of `COLUMNS`."""
    references = trust.references[liars]
    yield 'honest', _texts(references.honest)
    yield 'liar absent', _texts(references.liar_absent)
    yield 'ego alone', _texts(references.ego_alone)
    for name, by_liars in trust.attacks.items():
        if liars in by_liars:
            yield name, _texts(by_liars[liars])


def _texts(figures: Figures) -> list[str]:
    texts = [f'{100 * figures.ap50:.1f}', f'{100 * figures.ap70:.1f}', f'{figures.false_boxes:.2f}']
    if not isinstance(figures, AttackFigures):
        return [*texts, '', '', '']
    detected = '' if np.isnan(figures.detected) else f'{100 * figures.detected:.0f}'
    delay = '' if np.isnan(figures.delay) else f'{figures.delay:.1f}'
    return [*texts, f'{100 * figures.lost:.1f}', detected, delay]


def _title(trust: Trust, liars: str) -> str:
    return f'{liars} neighbours lie, {trust.frames[liars]} frames: {_UNITS}'


def print_tables(trust: Trust, console: Console) -> None:
    """Print a table for each choice of liars."""
    longest = max(map(len, trust.attacks), default=0)
    for liars in trust.references:
        table = Table(title=_title(trust, liars))
        table.add_column('', min_width=longest)
        for column in COLUMNS:
            table.add_column(column, justify='right')
        for name, texts in rows(trust, liars):
            table.add_row(name, *texts)
        console.print(table)


def markdown(trust: Trust) -> str:
    """A table for each choice of liars, and one of the honest sweeps that are left out."""
    parts = []
    for liars in trust.references:
        lines = [f'{_title(trust, liars)}:', '', _row('', COLUMNS), '|---|' + '--:|' * len(COLUMNS)]
        lines += [_row(name, texts) for name, texts in rows(trust, liars)]
        parts.append(lines)
    if any(name != CLEAN for name in trust.left_out_honest):
        parts.append(_honest(trust.left_out_honest))
    return '\n\n'.join('\n'.join(lines) for lines in parts) + '\n'


def _honest(left_out: Mapping[str, float]) -> list[str]:
    """Rows of corruptions and columns of severities; names are `CORRUPTION SEVERITY`."""
    by_corruption: dict[str, dict[str, float]] = defaultdict(dict)
    for name, share in left_out.items():
        corruption, _, severity = name.partition(' ')
        by_corruption[corruption][severity] = share
    severities = sorted({each for shares in by_corruption.values() for each in shares if each})
    lines = ['Sweeps of honest neighbours that are left out, percent, by severity of the corruption:', '']
    lines.append(_row('', [f'severity {each}' for each in severities]))
    lines.append('|---|' + '--:|' * len(severities))
    for corruption, shares in by_corruption.items():
        found = {each: shares.get(each, shares.get('')) for each in severities}
        texts = ['' if share is None else f'{100 * share:.1f}' for share in found.values()]
        lines.append(_row(corruption.replace('_', ' '), texts))
    return lines


def _row(name: str, texts: list[str] | tuple[str, ...]) -> str:
    return f'| {name} | {" | ".join(texts)} |'
