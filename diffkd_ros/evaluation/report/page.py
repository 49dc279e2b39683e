# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file without references to other files, from a Jinja2 template, plots and pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffkd_ros.corruptions import lookup
from diffkd_ros.evaluation.calibrators import Calibrator
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.measures import IOU, Evaluation
from diffkd_ros.evaluation.pipeline import MAX_AGE
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.report import panels, plots
from diffkd_ros.evaluation.report.tables import TABLE
from diffkd_ros.evaluation.summary import SUMMARY, Ends, Summary
from diffkd_ros.files import write_text
from diffkd_ros.metrics.bootstrap import Interval
from diffkd_ros.metrics.breakdown import by_distance, by_visibility, unobserved_false_alarms
from diffkd_ros.metrics.calibration import (
    MIN_DETECTIONS,
    detection_calibration,
    localisation_recall_precision,
)
from diffkd_ros.metrics.inference import MESSAGES_PER_SECOND, inference_figures

REPORT = 'report.html'
_TEMPLATE = 'page.html'
_CLEAN = Condition(CLEAN)
_ALONE = Condition(EGO_ALONE)
_FEW_SCENARIOS = 20
_PICTURES = {'lidar': 3, 'pose': 1, 'link': 1}
_DIAGRAMS = 7
_VISIBILITY = 9
_ORDERS = {'global': 'detections sorted over all frames', 'per_frame': 'detections frame after frame'}

Cell = str | Interval


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the report; each row has whether a block of rows starts there, and its cells."""

    header: Sequence[str]
    rows: Sequence[tuple[bool, Sequence[Cell]]]
    caption: str


def write(path: Path, evaluation: Evaluation, summary: Summary, plan: Plan) -> None:
    """Write the report to an HTML file; for the pictures, one frame of the plan is perceived again."""
    worst = plots.worst_levels(evaluation, _VISIBILITY)
    text = render(
        summary,
        warnings=_warnings(evaluation, summary),
        corruptions=_corruptions(evaluation, summary) if evaluation.corrupted else None,
        calibration={
            'figure': _svg(plots.reliability_diagrams(evaluation, [_CLEAN, *worst[:_DIAGRAMS]])),
            'scaled': _scaled_table(evaluation, evaluation.calibrator) if evaluation.calibrator else None,
        },
        visibility={
            'figure': _svg(plots.recall_by_visibility(evaluation, [_CLEAN, _ALONE, *worst])),
            'table': _visibility_table(evaluation),
        },
        inference=_inference_table(evaluation),
        pictures=_pictures(evaluation, plan),
    )
    write_text(path, text)


def render(summary: Summary, **sections: Any) -> str:
    """Fill the template, with all values escaped.

    Args:
        summary: of the evaluation.
        sections: see `write`; each holds tables, text and images as data URLs.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters['number'] = _number
    template = files('diffkd_ros.evaluation.report').joinpath(_TEMPLATE).read_text(encoding='utf-8')
    return environment.from_string(template).render(
        summary=summary,
        run=summary.run,
        order=_ORDERS.get(summary.order, summary.order),
        cards=_cards(summary),
        max_age=f'{MAX_AGE:g}',
        table_file=TABLE,
        summary_file=SUMMARY,
        **sections,
    )


def _warnings(evaluation: Evaluation, summary: Summary) -> list[str]:
    lines = summary.run.left_out.sentences()
    if len(evaluation.scenarios) < _FEW_SCENARIOS:
        lines.insert(
            0,
            f'Only {len(evaluation.scenarios)} scenarios: intervals from fewer than {_FEW_SCENARIOS} '
            'are too narrow.',
        )
    return lines


def _cards(summary: Summary) -> list[tuple[str, str]]:
    """The main figures, each with its label."""
    cards = []
    if summary.mrce_interval is not None:
        cards += [
            (_number(summary.mrce, 2, ' %'), f'mRCE, {_range(summary.mrce_interval)}'),
            (_number(summary.mrce_ap50, 2, ' %'), 'mRCE at IoU 0.5'),
            (_number(summary.mrce_ap70, 2, ' %'), 'mRCE at IoU 0.7'),
        ]
    if summary.mce_baseline:
        cards.append((_number(summary.mce, 1, ' %'), f'mCE against {summary.mce_baseline}'))
    for figures, label in ((summary.clean, 'clean'), (summary.ego_alone, 'ego alone')):
        cards += [(_number(100 * value, 1), f'AP@{iou} {label}') for iou, value in figures.by_iou.items()]
    quality = summary.calibration
    cards.append((_number(quality.laece0, 3), 'LaECE₀ clean'))
    if quality.scaled is not None:
        cards.append((_number(quality.scaled.laece0, 3), f'LaECE₀ clean, {quality.scaled.method} scaling'))
    if not math.isnan(quality.laece0_mean_change):
        cards.append((f'{quality.laece0_mean_change:+.3f}', 'mean ΔLaECE₀ corrupted'))
    return cards


def _corruptions(evaluation: Evaluation, summary: Summary) -> dict[str, Any]:
    figures = {
        'severity': plots.over_severity(evaluation),
        'pose': plots.over_pose_error(evaluation),
        'link': plots.over_link(evaluation),
    }
    return {
        'figure': _svg(plots.by_corruption(evaluation)),
        'groups': _group_table(summary),
        'levels': _level_table(evaluation),
        **{name: None if figure is None else _svg(figure) for name, figure in figures.items()},
    }


def _group_table(summary: Summary) -> _Table:
    rows: list[tuple[bool, Sequence[Cell]]] = []
    for group in summary.groups:
        cells: list[Cell] = [plots.readable(group.group), group.who, str(len(group.corruptions))]
        cells += [
            Interval(group.mrce, *group.mrce_interval),
            Interval(group.mrce_ap50, *group.mrce_ap50_interval),
            Interval(group.mrce_ap70, *group.mrce_ap70_interval),
            Interval(group.mrce_without_crosstalk, *group.mrce_without_crosstalk_interval)
            if group.group == 'paper'
            else '',
            _number(group.calibration.laece0_mean_change, 3),
        ]
        rows.append((False, cells))
    return _Table(
        ['group', 'corrupted', 'types', 'mRCE', 'at IoU 0.5', 'at IoU 0.7', 'without crosstalk', 'ΔLaECE₀'],
        rows,
        'mRCE, percent: the share of its clean AP that the detector loses, averaged over the severities of a '
        'corruption, then over the corruptions, then over IoU 0.5 and 0.7. In brackets the 95 % interval. '
        'ΔLaECE₀: mean change of the calibration error.',
    )


def _per_level(
    evaluation: Evaluation, cells: Callable[[Condition], Sequence[Cell]]
) -> list[tuple[bool, Sequence[Cell]]]:
    """A row for each level; a block starts at each corruption."""
    rows: list[tuple[bool, Sequence[Cell]]] = []
    before = ''
    for level in evaluation.levels:
        name = plots.describe(level), '' if level.reference else level.who
        rows.append((level.corruption != before, [*name, *cells(level)]))
        before = level.corruption
    return rows


def _level_table(evaluation: Evaluation) -> _Table:
    def cells(level: Condition) -> list[Cell]:
        quality = evaluation.calibration(level)
        lrp = localisation_recall_precision(evaluation.every_result(level), IOU, evaluation.min_score)
        return [
            *(_percent(evaluation.average_precision(level, iou)) for iou in (0.3, 0.5, 0.7)),
            *(
                '' if level.reference else _number(evaluation.relative_error(level, iou).estimate, 1)
                for iou in (0.5, 0.7)
            ),
            _number(quality.error, 3) + ('*' if quality.detections < MIN_DETECTIONS else ''),
            _number(lrp.error, 3),
        ]

    seeds = max(evaluation.seeds(level) for level in evaluation.levels)
    return _Table(
        ['condition', 'corrupted', 'AP@0.3', 'AP@0.5', 'AP@0.7', 'RCE@0.5', 'RCE@0.7', 'LaECE₀', 'LRP'],
        _per_level(evaluation, cells),
        'AP and RCE in percent, in brackets the 95 % interval over scenarios'
        + (f', AP averaged over {seeds} seeds' if seeds > 1 else '')
        + '. LRP at IoU 0.5 and the score threshold of the model. '
        f'*: fewer than {MIN_DETECTIONS} detections.',
    )


def _scaled_table(evaluation: Evaluation, calibrator: Calibrator) -> _Table:
    def cells(level: Condition) -> list[Cell]:
        every = evaluation.every_result(level)
        parts = (
            evaluation.calibration(level),
            evaluation.calibration(level, calibrator.overlap),
            detection_calibration(every, IOU),
            detection_calibration(every, IOU, calibrator.precision),
        )
        return [_number(part.error, 3) for part in parts]

    temperatures = ', '.join(f'{value:.3f} for {name}' for name, value in calibrator.temperatures.items())
    return _Table(
        ['condition', 'corrupted', 'LaECE₀', 'scaled', 'D-ECE', 'scaled'],
        _per_level(evaluation, cells),
        f'Before and after {calibrator.method} scaling, fitted to clean frames of {calibrator.source} that '
        'are not evaluated here; one scaling for each error'
        + (f', of temperature {temperatures}. ' if temperatures else '. ')
        + 'AP and all other figures use the original scores.',
    )


def _visibility_table(evaluation: Evaluation) -> _Table:
    rows: list[tuple[bool, Sequence[Cell]]] = []
    for level in (_CLEAN, _ALONE):
        results = evaluation.results(level)
        parts = {seen.value: part for seen, part in by_visibility(results, IOU).items()}
        for (low, high), part in by_distance(results, IOU).items():
            parts[f'any, {low:g} to {high:g} m'] = part
        for k, (name, part) in enumerate(parts.items()):
            figures = [_number(100 * part.recall, 1), _number(100 * part.average_precision, 1)]
            rows.append((k == 0, [plots.describe(level) if k == 0 else '', name, str(part.truths), *figures]))
    return _Table(
        ['condition', 'seen by', 'vehicles', 'recall', 'AP@0.5'],
        rows,
        'Clean frames, by which agents saw the vehicle and by its distance from the ego. Percent.',
    )


def _inference_table(evaluation: Evaluation) -> _Table:
    def cells(level: Condition) -> list[Cell]:
        results = evaluation.results(level)
        values = (*astuple(inference_figures(results)), unobserved_false_alarms(results, IOU))
        return [_number(value, digits) for value, digits in zip(values, (2, 3, 3, 3, 1, 1, 2), strict=True)]

    header = (
        'condition', 'corrupted', 'Mbit/s', 'ego reliability', 'weight of the ego', 'of a neighbour',
        'encode, ms', 'fuse, ms', 'unobserved',
    )  # fmt: skip
    return _Table(
        header,
        _per_level(evaluation, cells),
        f'Mbit/s of a vehicle that sends {MESSAGES_PER_SECOND:g} messages per second, whether they arrive or '
        'not. Reliability and weights: means over the frames; the ego has weight 1 where no features of '
        'others were fused. Encode and fuse: medians measured in this run, on a processor shared by its '
        'workers. Unobserved: false alarms per frame where no agent had a return.',
    )


def _pictures(evaluation: Evaluation, plan: Plan) -> dict[str, Any]:
    scenario, position = panels.telling_frame(evaluation)
    # The worst sensor failures, and the worst pose and link conditions.
    worst = plots.worst_levels(evaluation, len(evaluation.corrupted))
    chosen = [_CLEAN]
    for family, count in _PICTURES.items():
        chosen += [level for level in worst if lookup(level.corruption).family == family][:count]
    images = [
        (_data_url(picture, 'png'), plots.describe(condition))
        for condition, picture in panels.draw_panels(plan, evaluation, chosen)
    ]
    return {'scenario': scenario, 'position': position, 'score': panels.SHOWN_SCORE, 'images': images}


def _svg(figure: str) -> str:
    return _data_url(figure.encode(), 'svg+xml')


def _data_url(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _number(value: float, digits: int, unit: str = '') -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return 'n/a' if math.isnan(value) else f'{round(value, digits) + 0.0:.{digits}f}{unit}'


def _range(ends: Ends) -> str:
    low, high = ends
    return 'interval unknown' if math.isnan(low) else f'95 %: {low:.1f} to {high:.1f}'


def _percent(value: Interval) -> Interval:
    return Interval(100 * value.estimate, 100 * value.low, 100 * value.high)
