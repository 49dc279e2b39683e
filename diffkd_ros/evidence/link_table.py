# SPDX-License-Identifier: Apache-2.0
"""The results of a study of the layered message as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffkd_ros.evaluation.cells import difference, listed, number, percent, table, with_interval
from diffkd_ros.evidence.link_results import KEYS, Difference, LinkResults, LossDifference, LossPoint

_HEADINGS = ('AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'corrupted AP@0.7')


def link_tables(results: LinkResults) -> str:
    """Format all tables of what was measured; columns without any figure are left out."""
    tables = [_rate(results), _rate_less(results), _chunks_lost(results), _other_losses(results)]
    tables += [_loss_less(results), _arms(results), _parts(results)]
    return '\n\n'.join(each for each in tables if each) + '\n'


def _rate(results: LinkResults) -> str:
    lines = [
        (*_named(results, name), number(point.kb, 2), *(percent(getattr(point, key)) for key in KEYS))
        for name, points in results.rate.items()
        for point in points
    ]
    return table(('sent', 'seeds', 'kB of a sweep', *_HEADINGS), lines)


def _rate_less(results: LinkResults) -> str:
    lines = [
        (_less(results, name, other), f'{point.kb:g}', *_differences(point.less, KEYS))
        for name, others in results.rate_less.items()
        for other, points in others.items()
        for point in points
    ]
    return table(('sent', 'kB', 'seeds', *_HEADINGS), lines)


def _chunks_lost(results: LinkResults) -> str:
    points = next(iter(results.loss.values()), [])
    lines = [
        (*_named(results, name), *(with_interval(p.ap70, (p.ap70_low, p.ap70_high), 100) for p in row))
        for name, row in results.loss.items()
        if row
    ]
    return table(('chunks lost, AP@0.7', 'seeds', *_shares(points)), lines)


def _other_losses(results: LinkResults) -> str:
    """AP@0.7 of the arms under bursts, loss of messages and delay; intervals are in the file."""
    header, columns = ['AP@0.7', 'seeds'], []
    for what, losses in (('bursts', results.burst), ('messages', results.messages)):
        points = next(iter(losses.values()), [])[1:]
        header += [f'{what} {share}' for share in _shares(points)]
        columns.append({name: [point.ap70 for point in row[1:]] for name, row in losses.items()})
    delays = next(iter(results.delay.values()), [])[1:]
    header += [f'delay {1e3 * point.seconds:.0f} ms' for point in delays]
    columns.append({name: [point.ap70 for point in row[1:]] for name, row in results.delay.items()})
    lines = [
        (*_named(results, name), *(percent(value) for column in columns for value in column[name]))
        for name in results.arms
    ]
    return table(header, lines) if len(header) > 2 else ''


def _loss_less(results: LinkResults) -> str:
    every = [points for others in results.loss_less.values() for points in others.values() if points]
    lines = []
    for name, others in results.loss_less.items():
        for other, points in others.items():
            cells = [_difference(point.less['ap70']) for point in points]
            lines.append((_less(results, name, other), _compared([p.less['ap70'] for p in points]), *cells))
    return table(('chunks lost, AP@0.7', 'seeds', *_shares(every[0])), lines) if every else ''


def _arms(results: LinkResults) -> str:
    lines = [
        (results.labels[name], *(listed(getattr(arm, key), 100) for key in KEYS))
        for name, arm in results.arms.items()
    ]
    return table(('each training seed', *_HEADINGS), lines)


def _parts(results: LinkResults) -> str:
    lines = [
        (f'without {name}', *_differences(part.less_complete, KEYS))
        for name, part in results.parts.items()
        if part.less_complete
    ]
    return table(('less the complete context', 'seeds', *_HEADINGS), lines)


def _named(results: LinkResults, name: str) -> tuple[str, str]:
    return results.labels[name], str(results.runs[name])


def _less(results: LinkResults, name: str, other: str) -> str:
    return f'{results.labels[name]} less {results.labels[other]}'


def _shares(points: Sequence[LossPoint] | Sequence[LossDifference]) -> list[str]:
    return [f'{100 * point.share:.0f} %' for point in points]


def _differences(less: Mapping[str, Difference], keys: Sequence[str]) -> list[str]:
    """The number of training seeds that were compared, and the differences."""
    return [_compared([*less.values()]), *(_difference(less[key]) if key in less else '' for key in keys)]


def _compared(less: Sequence[Difference]) -> str:
    return str(max((len(each.by_seed) for each in less), default=''))


def _difference(less: Difference) -> str:
    return difference(less.mean, (less.low, less.high), less.by_seed, 100)
