# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file that needs no other, with tables, plots and pictures."""

from __future__ import annotations

import base64
import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from diffkd_ros.corruptions import lookup
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evaluation.pipeline import MAX_AGE
from diffkd_ros.evaluation.report import panels, plots
from diffkd_ros.evaluation.report.scene import DrawingUnavailableError
from diffkd_ros.evaluation.report.tables import IOU, SUMMARY, TABLE
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.metrics.bootstrap import Interval
from diffkd_ros.metrics.breakdown import by_distance, by_visibility, unobserved_false_alarms
from diffkd_ros.metrics.calibration import (
    MIN_DETECTIONS,
    detection_calibration,
    localisation_recall_precision,
)
from diffkd_ros.metrics.inference import MESSAGES_PER_SECOND, inference_figures

REPORT = 'report.html'
_CLEAN = Condition(CLEAN)
_ALONE = Condition(EGO_ALONE)
_FEW_SCENARIOS = 20
_PICTURES = {'lidar': 3, 'pose': 1, 'link': 1}
_DIAGRAMS = 7
_VISIBILITY = 9

_PAGE_STYLE = """
:root { --ink: #22262e; --faint: #6b7280; --line: #d9dde3; --wash: #f5f6f8; }
body { font: 15px/1.5 system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif; color: var(--ink);
  max-width: 1120px; margin: 2.5em auto; padding: 0 1.5em; }
h1 { font-size: 1.7em; margin: 0 0 .1em; } h2 { font-size: 1.2em; margin: 2.4em 0 .4em;
  border-bottom: 1px solid var(--line); padding-bottom: .2em; }
p { max-width: 52em; } p.sub, figcaption, caption { color: var(--faint); }
figure { margin: 1em 0; } figure img { width: 100%; }
figcaption, caption { font-size: .87em; max-width: 62em; text-align: left; }
caption { caption-side: bottom; padding-top: .5em; }
table { border-collapse: collapse; font-size: .87em; font-variant-numeric: tabular-nums; margin: 1em 0; }
th, td { padding: .22em .8em .22em 0; text-align: right; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1.5px solid var(--ink); }
td:first-child, th:first-child { text-align: left; }
tr.first td { border-top: 1px solid var(--line); } td small { color: var(--faint); }
.cards { display: flex; flex-wrap: wrap; gap: .8em; margin: 1.4em 0; }
.card { background: var(--wash); border-radius: 6px; padding: .7em 1.1em; min-width: 7.5em; }
.card b { display: block; font-size: 1.5em; } .card span { color: var(--faint); font-size: .84em; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .8em; } .pictures figure { margin: 0; }
.warning { background: #fff4e0; border-left: 4px solid #d55e00; padding: .6em 1em; }
@media print { body { margin: 0; max-width: none; } figure, table { break-inside: avoid; } }
"""


def require_drawing() -> None:
    """Make sure that the report can be drawn.

    Raises:
        DrawingUnavailableError: if Matplotlib is not installed.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise DrawingUnavailableError(
            'the report is drawn by matplotlib, which is not installed: pip install "diffkd_ros[report]"'
        )


def write(path: Path, evaluation: Evaluation, summary: Mapping[str, Any], plan: Plan) -> None:
    """Write the report.

    Args:
        path: of the HTML file.
        evaluation: all figures.
        summary: from `summarise`.
        plan: of the run, from which one frame is perceived again for the pictures.
    """
    run = summary['run']
    parts = [
        '<h1>Robustness of cooperative perception</h1>',
        f'<p class="sub">{escape(run["model"])} on {escape(run["source"])}: {summary["frames"]} frames of '
        f'{summary["scenarios"]} scenarios, {summary["truths"]} vehicles, {run["cooperation"]} '
        f'cooperation, protocol {summary["protocol"]} '
        f'({_order(summary["order"])}), seeds {", ".join(map(str, run["seeds"]))}</p>',
        *_warnings(evaluation, summary),
        _cards(summary),
    ]
    if evaluation.corrupted:
        parts += _corruption_sections(evaluation, summary)
    worst = plots.worst_levels(evaluation, _VISIBILITY)
    parts += _calibration_section(evaluation, worst)
    parts += _visibility_section(evaluation, worst)
    parts += _inference_section(evaluation)
    parts += _picture_section(evaluation, plan)
    parts += _definitions(summary)
    body = '\n'.join(parts)
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<title>Robustness: {escape(run["model"])}</title><style>{_PAGE_STYLE}</style></head>\n'
        f'<body>\n{body}\n</body></html>\n',
        encoding='utf-8',
    )


def _order(order: str) -> str:
    return {'global': 'detections sorted over all frames', 'per_frame': 'detections frame after frame'}[order]


def _warnings(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[str]:
    lines = []
    if len(evaluation.scenarios) < _FEW_SCENARIOS:
        lines.append(
            f'{len(evaluation.scenarios)} scenarios are few: intervals drawn from fewer than '
            f'{_FEW_SCENARIOS} are too narrow.'
        )
    left_out = summary['run']['left_out']
    if left_out['frames']:
        key, why = next(iter(left_out['frames'].items()))
        lines.append(
            f'{len(left_out["frames"])} times a frame could not be run under a condition and is not in its '
            f'figures; the first: {key}: {why}'
        )
    if left_out['scenarios']:
        lines.append(f'Scenarios of which no frame can be used: {", ".join(left_out["scenarios"])}.')
    if left_out['not_of_this_cooperation']:
        names = ', '.join(left_out['not_of_this_cooperation'])
        lines.append(f'Left out, as no feature maps travel: {names}.')
    if left_out['conditions']:
        lines.append(f'Not told, for want of frames: {", ".join(left_out["conditions"])}.')
    return [f'<p class="warning">{escape(line)}</p>' for line in lines]


def _cards(summary: Mapping[str, Any]) -> str:
    cards = []
    if summary['mrce'] is not None:
        low, high = summary['mrce_interval']
        cards.append((_number(summary['mrce'], 2, ' %'), f'mRCE, {_range(low, high, 1)}'))
        cards.append((_number(summary['mrce_ap50'], 2, ' %'), 'mRCE at IoU 0.5'))
        cards.append((_number(summary['mrce_ap70'], 2, ' %'), 'mRCE at IoU 0.7'))
    if 'mce' in summary:
        cards.append((_number(summary['mce'], 1, ' %'), f'mCE against {summary["mce_baseline"]}'))
    for name, label in (('clean', 'clean'), ('ego_alone', 'ego alone')):
        for iou in (50, 70):
            value = 100 * summary[name][f'ap{iou}']
            cards.append((_number(value, 1), f'AP@0.{iou // 10} {label}'))
    cards.append((_number(summary['calibration']['laece0'], 3), 'LaECE₀ clean'))
    if 'scaled' in summary['calibration']:
        scaled = summary['calibration']['scaled']
        cards.append((_number(scaled['laece0'], 3), f'LaECE₀ clean, {scaled["method"]} scaling'))
    change = summary['calibration'].get('laece0_mean_change')
    if change is not None and not math.isnan(change):
        cards.append((f'{change:+.3f}', 'mean ΔLaECE₀ corrupted'))
    shown = (f'<div class="card"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in cards)
    return f'<div class="cards">{"".join(shown)}</div>'


def _corruption_sections(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[str]:
    parts = [
        '<h2>Average precision by corruption</h2>',
        _figure(
            plots.by_corruption(evaluation),
            'Mean over the severities; whiskers reach from the least to the most harmful severity. '
            'Dashed: clean. Dotted: the ego alone on clean frames.',
        ),
        _group_table(summary),
        _level_table(evaluation),
    ]
    for title, picture, caption in (
        (
            'Sensors: AP over severity',
            plots.over_severity(evaluation),
            'Bands: 95 % interval by scenario. Dotted: ego alone, clean.',
        ),
        (
            'Poses: AP over the error of the neighbours',
            plots.over_pose_error(evaluation),
            'The same numbers stand for metres and, as the legend says, for degrees or radians of heading. '
            'Bands: 95 % interval by scenario. Dotted: ego alone, clean.',
        ),
        (
            'Link: AP over loss, delay and bytes',
            plots.over_link(evaluation),
            f'The ego fuses the newest feature that has arrived if it is at most {MAX_AGE:g} s old, at the '
            'pose where it was sensed. Bands: 95 % interval by scenario.',
        ),
    ):
        if picture is not None:
            parts += [f'<h2>{title}</h2>', _figure(picture, caption)]
    return parts


def _group_table(summary: Mapping[str, Any]) -> str:
    header = [
        'group',
        'who is hit',
        'types',
        'mRCE',
        'at IoU 0.5',
        'at IoU 0.7',
        'without crosstalk',
        'ΔLaECE₀',
    ]
    body = []
    for group in summary['groups']:
        cells = [
            plots.readable(group['group']),
            group['who'],
            str(len(group['corruptions'])),
            *(_with_interval(_interval(group, key), 1) for key in ('mrce', 'mrce_ap50', 'mrce_ap70')),
            _with_interval(_interval(group, 'mrce_without_crosstalk'), 1)
            if group['group'] == 'paper'
            else '',
            _number(group['calibration']['laece0_mean_change'], 3),
        ]
        body.append((False, cells))
    caption = (
        'mRCE, percent: the share of its clean AP that the detector loses, the mean over the severities of '
        'a corruption, then over the corruptions, then over IoU 0.5 and 0.7. In brackets the 95 % interval. '
        'ΔLaECE₀: mean change of the calibration error.'
    )
    return _table(header, body, caption)


def _level_table(evaluation: Evaluation) -> str:
    header = [
        'condition', 'who', 'AP@0.3', 'AP@0.5', 'AP@0.7', 'RCE@0.5', 'RCE@0.7', 'LaECE₀', 'LRP',
    ]  # fmt: skip
    body = []
    before = ''
    for level in evaluation.levels:
        cells = [plots.describe(level), '' if level.reference else level.who]
        cells += [
            _with_interval(_percent(evaluation.average_precision(level, iou)), 1) for iou in (0.3, 0.5, 0.7)
        ]
        for iou in (0.5, 0.7):
            value = None if level.reference else evaluation.relative_error(level, iou)
            cells.append('' if value is None else _number(value.estimate, 1))
        quality = evaluation.calibration(level)
        few = quality.detections < MIN_DETECTIONS
        cells.append(_number(quality.error, 3) + ('*' if few else ''))
        every = evaluation.every_result(level)
        cells.append(_number(localisation_recall_precision(every, IOU, evaluation.min_score).error, 3))
        body.append((level.corruption != before, cells))
        before = level.corruption
    seeds = max(evaluation.seeds(level) for level in evaluation.levels)
    caption = (
        'AP and RCE in percent, in brackets the 95 % interval by scenario'
        + (f', AP the mean over {seeds} seeds' if seeds > 1 else '')
        + '. LRP at IoU 0.5 and the score threshold of the model. '
        f'*: fewer than {MIN_DETECTIONS} detections.'
    )
    return _table(header, body, caption)


def _calibration_section(evaluation: Evaluation, worst: Sequence[Condition]) -> list[str]:
    levels = [_CLEAN, *worst[:_DIAGRAMS]]
    return [
        '<h2>Does a score mean what it says?</h2>',
        _figure(
            plots.reliability_diagrams(evaluation, levels),
            'Scores against the precision at IoU 0.5 (D-ECE) and against the mean overlap with what was '
            'found (LaECE₀); 25 bins of equal mass, scores from 0.05. Below the diagonal, scores promise too '
            'much. Of each corruption its worst severity.',
        ),
        *_calibrator_table(evaluation),
    ]


def _calibrator_table(evaluation: Evaluation) -> list[str]:
    calibrator = evaluation.calibrator
    if calibrator is None:
        return []
    header = ['condition', 'who', 'LaECE₀', 'scaled', 'D-ECE', 'scaled']
    body = []
    before = ''
    for level in evaluation.levels:
        every = evaluation.every_result(level)
        errors = [
            evaluation.calibration(level),
            evaluation.scaled_calibration(level),
            detection_calibration(every, IOU),
            calibrator.detection(every),
        ]
        cells = [plots.describe(level), '' if level.reference else level.who]
        body.append((level.corruption != before, [*cells, *(_number(part.error, 3) for part in errors)]))
        before = level.corruption
    temperatures = ', '.join(f'{value:.3f} for {name}' for name, value in calibrator.temperatures.items())
    caption = (
        f'Before and after {calibrator.method} scaling, fitted to clean frames of {calibrator.source}, of '
        'which none is evaluated here; one scaling for each error'
        + (f', of temperature {temperatures}. ' if temperatures else '. ')
        + 'AP and all else is of the scores as they are.'
    )
    return [_table(header, body, caption)]


def _visibility_section(evaluation: Evaluation, worst: Sequence[Condition]) -> list[str]:
    levels = [_CLEAN, _ALONE, *worst]
    header = ['condition', 'seen by', 'vehicles', 'recall', 'AP@0.5']
    body = []
    for level in (_CLEAN, _ALONE):
        results = evaluation.results(level)
        rows = [
            *((seen.value, part) for seen, part in by_visibility(results, IOU).items()),
            *(
                (f'any, {low:g} to {high:g} m', part)
                for (low, high), part in by_distance(results, IOU).items()
            ),
        ]
        for k, (name, part) in enumerate(rows):
            figures = [_number(100 * part.recall, 1), _number(100 * part.average_precision, 1)]
            body.append((k == 0, [plots.describe(level) if k == 0 else '', name, str(part.truths), *figures]))
    return [
        '<h2>Who saw the vehicles that are found?</h2>',
        _figure(
            plots.recall_by_visibility(evaluation, levels),
            'A vehicle is seen by the ego, or by the others together, if five or more of their returns lie '
            'on it in the sweeps after corruption; an agent from which nothing was fused has seen nothing. '
            'Where there is no such vehicle, there is no bar.',
        ),
        _table(header, body, 'Clean frames, by who saw the vehicle and by its distance from the ego.'),
    ]


def _inference_section(evaluation: Evaluation) -> list[str]:
    header = [
        'condition', 'who', 'Mbit/s', 'ego reliability', 'weight of the ego', 'of a neighbour', 'encode, ms',
        'fuse, ms', 'made up',
    ]  # fmt: skip
    body = []
    before = ''
    for level in evaluation.levels:
        results = evaluation.results(level)
        figures = inference_figures(results)
        cells = [
            plots.describe(level),
            '' if level.reference else level.who,
            _number(figures.link_mbit_s, 2),
            *(
                _number(value, 3)
                for value in (figures.ego_reliability, figures.gate_ego, figures.gate_neighbours)
            ),
            _number(figures.encode_ms, 1),
            _number(figures.fuse_ms, 1),
            _number(unobserved_false_alarms(results, IOU).per_frame, 2),
        ]
        body.append((level.corruption != before, cells))
        before = level.corruption
    caption = (
        f'Mbit/s of a vehicle that sends {MESSAGES_PER_SECOND:g} messages a second, whether they arrive or '
        'not. Reliability and weights: means over the frames; the ego has weight 1 where no features of '
        'others were fused. Encode and fuse: medians as measured in this run, on a processor shared by its '
        'workers. Made up: false alarms a frame where no agent had a return.'
    )
    return ['<h2>What travels, and whom does the ego trust?</h2>', _table(header, body, caption)]


def _picture_section(evaluation: Evaluation, plan: Plan) -> list[str]:
    scenario, position = panels.telling_frame(evaluation)
    figures = []
    # The worst sensor failures, and one of the poses and one of the link.
    worst = plots.worst_levels(evaluation, len(evaluation.corrupted))
    chosen = [_CLEAN]
    for family, count in _PICTURES.items():
        chosen += [level for level in worst if lookup(level.corruption).family == family][:count]
    for condition, picture in panels.draw_panels(plan, evaluation, chosen):
        text = plots.describe(condition)
        source = f'data:image/png;base64,{base64.b64encode(picture).decode()}'
        figures.append(_image(source, text))
    return [
        '<h2>One frame, side by side</h2>',
        f'<p class="sub">Frame {position} of {escape(scenario)}, where neighbours help most; seed 0, '
        f'detections of score {panels.SHOWN_SCORE} or more; the ego alone is that of the clean frame. Fused '
        'are features; boxes or points of others may have been used all the same.</p>',
        f'<div class="pictures">{"".join(figures)}</div>',
    ]


def _definitions(summary: Mapping[str, Any]) -> list[str]:
    run = summary['run']
    headline = ', '.join(map(plots.readable, summary['mrce_of']))
    return [
        '<h2>What was run</h2>',
        f'<p>The headline mRCE is over {escape(headline)}.</p>' if headline else '',
        f'<p>{escape(run["model_description"])}</p>',
        '<p>The clean figures are of the detections that a live run recorded; all else, pictures included, '
        'was computed anew from the same sweeps.</p>'
        if run['answers']
        else '',
        f'<p class="sub">diffkd_ros {escape(run["version"])}, written {escape(run["written"])}. Every figure '
        f'is in {TABLE}, the chief ones are in {SUMMARY}.</p>',
    ]


def _figure(svg: str, caption: str) -> str:
    source = f'data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}'
    return _image(source, caption)


def _image(source: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _table(header: Iterable[str], body: Iterable[tuple[bool, Sequence[str]]], caption: str) -> str:
    """A table; cells may hold markup, and a row marked True begins a block."""
    head = ''.join(f'<th>{escape(cell)}</th>' for cell in header)
    lines = [
        f'<tr{" class=first" if first else ""}>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>'
        for first, cells in body
    ]
    return f'<table><caption>{escape(caption)}</caption><tr>{head}</tr>\n' + '\n'.join(lines) + '</table>'


def _number(value: float, digits: int, unit: str = '') -> str:
    # Not -0.0.
    return 'n/a' if math.isnan(value) else f'{round(value, digits) + 0.0:.{digits}f}{unit}'


def _range(low: float, high: float, digits: int) -> str:
    if math.isnan(low) or math.isnan(high):
        return 'interval unknown'
    return f'95 %: {low:.{digits}f} to {high:.{digits}f}'


def _percent(value: Interval) -> Interval:
    return Interval(100 * value.estimate, 100 * value.low, 100 * value.high, value.level)


def _interval(figures: Mapping[str, Any], key: str) -> Interval:
    low, high = figures[f'{key}_interval']
    return Interval(figures[key], low, high, 0.95)


def _with_interval(value: Interval, digits: int) -> str:
    text = _number(value.estimate, digits)
    if math.isnan(value.low):
        return text
    return f'{text} <small>[{value.low:.{digits}f}, {value.high:.{digits}f}]</small>'
