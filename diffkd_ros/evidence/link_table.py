# SPDX-License-Identifier: Apache-2.0
"""The results of a study of the layered message as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from diffkd_ros.evidence.cells import listed, number, percent, table, with_interval
from diffkd_ros.evidence.link_results import KEYS, ArmDifference, Ends, LinkResults, LossPoint

_HEADINGS = ('AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'corrupted AP@0.7')


def link_tables(results: LinkResults) -> str:
    """Format all tables of what was measured."""
    tables = [_rate(results), _less_late(results), _chunks_lost(results), _other_losses(results)]
    tables += [_less_reference(results), _arms(results), _parts(results)]
    return '\n\n'.join(each for each in tables if each) + '\n'


def _rate(results: LinkResults) -> str:
    lines = [
        (results.labels[name], number(point.kb, 2), *(percent(getattr(point, key)) for key in KEYS))
        for name, points in results.rate.items()
        for point in points
    ]
    return table(('sent', 'kB of a sweep', *_HEADINGS), lines)


def _less_late(results: LinkResults) -> str:
    lines = [
        (f'{point.kb:g} kB', *(_difference(getattr(point, key)) for key in KEYS))
        for point in results.less_late
    ]
    return table(('layered less late', *_HEADINGS), lines)


def _chunks_lost(results: LinkResults) -> str:
    points = next(iter(results.loss.values()), [])
    lines = [
        (results.labels[name], *(with_interval(p.ap70, (p.ap70_low, p.ap70_high), 100) for p in row))
        for name, row in results.loss.items()
    ]
    return table(('chunks lost, AP@0.7', *_shares(points)), lines)


def _other_losses(results: LinkResults) -> str:
    """AP@0.7 of the arms under bursts, loss of messages and delay; intervals are in the file."""
    header, columns = ['AP@0.7'], []
    for what, losses in (('bursts', results.burst), ('messages', results.messages)):
        points = next(iter(losses.values()), [])[1:]
        header += [f'{what} {share}' for share in _shares(points)]
        columns.append({name: [point.ap70 for point in row[1:]] for name, row in losses.items()})
    delays = next(iter(results.delay.values()), [])[1:]
    header += [f'delay {1e3 * point.seconds:.0f} ms' for point in delays]
    columns.append({name: [point.ap70 for point in row[1:]] for name, row in results.delay.items()})
    lines = [
        (results.labels[name], *(percent(value) for column in columns for value in column.get(name, [])))
        for name in results.arms
    ]
    return table(header, lines)


def _shares(points: Sequence[LossPoint] | Sequence[ArmDifference]) -> list[str]:
    return [f'{100 * point.share:.0f} %' for point in points]


def _less_reference(results: LinkResults) -> str:
    rows = results.less_reference
    points = next(iter(rows.values()), [])
    lines = [(results.labels[name], *(_difference(p.ap70) for p in row)) for name, row in rows.items()]
    label = results.labels.get(results.reference, results.reference)
    header = f'chunks lost, AP@0.7 less {label}'
    return table((header, *_shares(points)), lines)


def _arms(results: LinkResults) -> str:
    lines = [
        (results.labels[name], *(listed(getattr(arm, key), 100) for key in KEYS))
        for name, arm in results.arms.items()
    ]
    return table(('each training seed', *_HEADINGS), lines)


def _parts(results: LinkResults) -> str:
    lines = [
        (
            f'without {name}',
            *(_difference(part.less_complete[key]) if key in part.less_complete else '' for key in KEYS),
        )
        for name, part in results.parts.items()
    ]
    return table(('less the complete context', *_HEADINGS), lines)


def _difference(ends: Ends) -> str:
    """A difference with its interval, in bold if that does not contain 0."""
    value, low, high = ends
    text = with_interval(value, (low, high), 100, '+')
    return f'**{text}**' if low * high > 0 else text
