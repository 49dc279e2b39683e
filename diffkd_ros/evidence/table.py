# SPDX-License-Identifier: Apache-2.0
"""The results of an experiment as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from diffkd_ros.evaluation.cells import difference, listed, number, percent, table, with_interval
from diffkd_ros.evaluation.summary import LevelMeans
from diffkd_ros.evidence.compare import FIGURES
from diffkd_ros.evidence.results import Evidence, MeasuredRow, MeasuredSteps

_NAN = float('nan')


def markdown(evidence: Evidence) -> str:
    """Format all tables of what was measured; columns without any figure are left out."""
    tables: list[str] = []
    if evidence.rows:
        tables += [_main_table(evidence), _quality_table(evidence), *_seeds_table(evidence)]
        tables += [
            _differences_table(evidence, ('clean', 'corrupted'), mrce=True),
            _differences_table(evidence, ('ego_only', 'neighbours_only'), mrce=False),
            _corruption_table(evidence),
        ]
    tables += [_world_table(evidence, world) for world in evidence.worlds]
    for name, figures in (('intensity law', evidence.intensity), ('sensor', evidence.sensors)):
        if figures:
            lines = [(key.replace('_', ' '), *_percents(means)) for key, means in figures.items()]
            tables.append(table((name, 'AP@0.5', 'AP@0.7'), lines))
    if evidence.steps:
        tables.append(_steps_table(evidence.steps))
    return '\n\n'.join(each for each in tables if each) + '\n'


def _main_table(evidence: Evidence) -> str:
    header = (
        evidence.data.partition(' ')[0], 'seeds', 'samples', 'AP@0.5', 'AP@0.7', 'corrupted', 'ego only',
        'neighbours only', 'mRCE', 'to reference', 'held out', 'link',
    )  # fmt: skip
    compared = evidence.rows.get(evidence.reference)
    reference = _NAN if compared is None else compared.summary.mrce
    lines = []
    for name, row in evidence.rows.items():
        summary = row.summary
        # Unknown where a detector finds nothing at all.
        relative = 100 * (summary.mrce / reference - 1) if summary.mrce and reference else _NAN
        lines.append(
            (
                row.label,
                str(row.runs),
                _samples(row.samples),
                with_interval(summary.clean.ap50, summary.clean.ap50_interval, 100),
                with_interval(summary.clean.ap70, summary.clean.ap70_interval, 100),
                _both(row.corrupted),
                _both(row.ego_only),
                _both(row.neighbours_only),
                with_interval(summary.mrce, summary.mrce_interval or (_NAN, _NAN)),
                '' if name == evidence.reference else number(relative, 0, '+', ' %'),
                number(summary.group('held_out').mrce),
                number(summary.group('link').mrce),
            )
        )
    return table(header, lines)


def _quality_table(evidence: Evidence) -> str:
    header = (
        evidence.data.partition(' ')[0], 'ΔLaECE₀', 'false outside', 'ms encode', 'ms fuse', 'Mbit/s'
    )  # fmt: skip
    lines = []
    for row in evidence.rows.values():
        summary = row.summary
        lines.append(
            (
                row.label,
                number(summary.calibration.laece0_mean_change, 3),
                number(summary.clean.false_boxes_outside, 2),
                number(summary.latency_ms.encode, 0),
                number(summary.latency_ms.fuse, 0),
                number(summary.link_mbit_s, 2),
            )
        )
    return table(header, lines)


def _seeds_table(evidence: Evidence) -> list[str]:
    """Each training seed's figures, of the rows with several."""
    rows = [row for row in evidence.rows.values() if row.by_seed]
    if not rows:
        return []
    names = [(f'{part}_{ap}', 100) for part in FIGURES for ap in ('ap50', 'ap70')] + [('mrce', 1)]
    lines = [
        (row.label, *(listed(row.by_seed.get(name, []), scale) for name, scale in names)) for row in rows
    ]
    return [table(('each training seed', *_headings(FIGURES), 'mRCE'), lines)]


def _differences_table(evidence: Evidence, parts: Sequence[str], mrce: bool) -> str:
    if evidence.subject not in evidence.rows:
        return ''
    names = [(f'{part}_{ap}', 100) for part in parts for ap in ('ap50', 'ap70')] + [('mrce', 1)] * mrce
    header = (f'less {evidence.rows[evidence.subject].label}', 'seeds', *_headings(parts), *['mRCE'] * mrce)
    lines = []
    for name, row in evidence.rows.items():
        cells = [_difference(row, key, scale) for key, scale in names]
        compared = max(map(len, row.less_subject_by_seed.values()), default=1)
        if name != evidence.subject:
            lines.append((row.label, str(compared) if any(cells) else '', *cells))
    return table(header, lines)


def _headings(parts: Iterable[str]) -> list[str]:
    names = ['' if part == 'clean' else part.replace('_', ' ') + ' ' for part in parts]
    return [f'{name}{ap}' for name in names for ap in ('AP@0.5', 'AP@0.7')]


def _difference(row: MeasuredRow, key: str, scale: float) -> str:
    if key not in row.less_subject:
        return ''
    value, low, high = row.less_subject[key]
    return difference(value, (low, high), row.less_subject_by_seed.get(key, []), scale)


def _world_table(evidence: Evidence, world: str) -> str:
    lines = [
        (evidence.rows[name].label, _both(row.clean), _both(row.corrupted))
        for name, row in evidence.worlds[world].items()
    ]
    return table((f'{world}, AP@0.5 / 0.7', 'clean', 'corrupted'), lines)


def _corruption_table(evidence: Evidence) -> str:
    rows = evidence.rows.values()
    summary = next(iter(rows)).summary
    lines = [
        (
            name.replace('_', ' '),
            *(
                percent(row.summary.corruptions[name].ap50) if name in row.summary.corruptions else ''
                for row in rows
            ),
        )
        # Without those whose other agents are corrupted, which have a column of the first table.
        for name in summary.corruptions
        if not name.endswith(')')
    ]
    return table(('AP@0.5', *(row.label for row in rows)), lines)


def _steps_table(settings: Iterable[MeasuredSteps]) -> str:
    header = ('start', 'steps', 'clean AP@0.5', 'AP@0.7', 'corrupted AP@0.5', 'AP@0.7', 'ms fuse')
    return table(
        header,
        [
            (
                setting.start or 'none',
                str(setting.steps),
                *_percents(setting.summary.clean),
                *_percents(setting.corrupted),
                number(setting.summary.latency_ms.fuse, 0),
            )
            for setting in settings
        ],
    )


def _percents(figures: LevelMeans) -> tuple[str, str]:
    return percent(figures.ap50), percent(figures.ap70)


def _both(figures: LevelMeans) -> str:
    texts = _percents(figures)
    return ' / '.join(texts) if any(texts) else ''


def _samples(stages: Mapping[str, int]) -> str:
    """Training frames after the teacher's; the teacher's own for a row that is a teacher."""
    own = sum(count for stage, count in stages.items() if stage != 'teacher')
    count = own or sum(stages.values())
    return f'{count:,}' if count else ''
