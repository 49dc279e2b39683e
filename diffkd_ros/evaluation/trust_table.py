# SPDX-License-Identifier: Apache-2.0
"""Figures of an evaluation of attacks as tables, on the terminal and in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from diffkd_ros.evaluation.cells import number, percent, table
from diffkd_ros.evaluation.conditions import CLEAN
from diffkd_ros.evaluation.trust_results import AttackFigures, Figures, Trust

COLUMNS = ('AP@0.5', 'AP@0.7', 'false', 'lost', 'detected', 'delay')
_UNITS = 'percent, false boxes a frame, seconds'
_NAN = float('nan')


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
    texts = [percent(figures.ap50), percent(figures.ap70), number(figures.false_boxes, 2)]
    if not isinstance(figures, AttackFigures):
        return [*texts, '', '', '']
    return [*texts, percent(figures.lost), number(figures.detected, 0, scale=100), number(figures.delay)]


def _title(trust: Trust, liars: str) -> str:
    return f'{liars} neighbours lie, {trust.frames[liars]} frames: {_UNITS}'


def print_tables(trust: Trust, console: Console) -> None:
    """Print a table for each choice of liars."""
    longest = max(map(len, trust.attacks), default=0)
    for liars in trust.references:
        shown = Table(title=_title(trust, liars))
        shown.add_column('', min_width=longest)
        for column in COLUMNS:
            shown.add_column(column, justify='right')
        for name, texts in rows(trust, liars):
            shown.add_row(name, *texts)
        console.print(shown)


def markdown(trust: Trust) -> str:
    """A table for each choice of liars, and one of the honest sweeps that are left out."""
    parts = []
    for liars in trust.references:
        lines = [(name, *texts) for name, texts in rows(trust, liars)]
        parts += [f'{_title(trust, liars)}:', table(('', *COLUMNS), lines)]
    if any(name != CLEAN for name in trust.left_out_honest):
        title = 'Sweeps of honest neighbours that are left out, percent, by severity of the corruption:'
        parts += [title, _honest(trust.left_out_honest)]
    return '\n\n'.join(parts) + '\n'


def _honest(left_out: Mapping[str, float]) -> str:
    """Rows of corruptions and columns of severities; names are `CORRUPTION SEVERITY`."""
    by_corruption: dict[str, dict[str, float]] = defaultdict(dict)
    for name, share in left_out.items():
        corruption, _, severity = name.partition(' ')
        by_corruption[corruption][severity] = share
    severities = sorted({each for shares in by_corruption.values() for each in shares if each})
    lines = [
        (
            corruption.replace('_', ' '),
            *(percent(shares.get(each, shares.get('', _NAN))) for each in severities),
        )
        for corruption, shares in by_corruption.items()
    ]
    return table(('', *(f'severity {each}' for each in severities)), lines)
