# SPDX-License-Identifier: Apache-2.0
"""The results as files: one tidy table and a summary.

In the table, each row is one figure of one level of a corruption (see `Row`). AP and calibration errors are
shares in [0, 1], relative errors percent; `low` and `high` are the ends of the 95 % interval where there is
one.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diffkd_ros.corruptions import lookup
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation import measures
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.errors import ExperimentError
from diffkd_ros.evaluation.measures import Evaluation, Group
from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError
from diffkd_ros.metrics.bootstrap import Interval
from diffkd_ros.metrics.breakdown import by_distance, by_visibility, unobserved_false_alarms
from diffkd_ros.metrics.calibration import (
    CalibrationRobustness,
    detection_calibration,
    localisation_recall_precision,
)
from diffkd_ros.metrics.inference import inference_figures
from diffkd_ros.metrics.robustness import Robustness

TABLE = 'results.csv'
SUMMARY = 'summary.json'
IOU = 0.5
"""Overlap at which everything but AP is told."""
_NAN = float('nan')


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one level.

    Attributes:
        corruption: name, `clean` or `ego_alone`.
        family: `lidar`, `pose`, `link`, or empty.
        severity: from 1; 0 where nothing is corrupted.
        who: which agents are hit.
        profile: of the level.
        seeds: how many realisations the figure is of.
        metric: what the figure is.
        iou: overlap it was taken at, if any.
        part: part of the boxes, or the seed, it is of, if not of all.
        value: the figure.
        low, high: ends of its 95 % interval.
    """

    corruption: str
    family: str
    severity: int
    who: str
    profile: str
    seeds: int
    metric: str
    iou: float | None
    part: str
    value: float
    low: float = _NAN
    high: float = _NAN


def rows(evaluation: Evaluation) -> Iterator[Row]:
    """Every figure of every level."""
    for level in evaluation.levels:
        family = '' if level.reference else lookup(level.corruption).family
        seeds = evaluation.seeds(level)
        key = level.corruption, family, level.severity, level.who, level.profile
        for metric, iou, part, value in _figures(evaluation, level):
            if isinstance(value, Interval):
                yield Row(*key, seeds, metric, iou, part, value.estimate, value.low, value.high)
            else:
                yield Row(*key, seeds, metric, iou, part, value)


def _figures(
    evaluation: Evaluation, level: Condition
) -> Iterator[tuple[str, float | None, str, float | Interval]]:
    results = evaluation.results(level)
    for iou in evaluation.protocol.iou_thresholds:
        for order in DetectionOrder:
            yield f'ap_{order.value}', iou, '', evaluation.average_precision(level, iou, order)
        for seed, value in evaluation.by_seed(level, iou).items():
            yield 'ap_of_seed', iou, str(seed), value
        if not level.reference:
            yield 'rce', iou, '', evaluation.relative_error(level, iou)
    every = evaluation.every_result(level)
    quality = evaluation.calibration(level)
    precision = detection_calibration(every, IOU)
    yield 'laece0', None, '', quality.error
    yield 'laece0_overconfidence', None, '', quality.overconfidence
    yield 'd_ece', IOU, '', precision.error
    yield 'd_ece_overconfidence', IOU, '', precision.overconfidence
    if evaluation.calibrator is not None:
        yield 'laece0_scaled', None, '', evaluation.scaled_calibration(level).error
        yield 'd_ece_scaled', IOU, '', evaluation.calibrator.detection(every).error
    lrp = localisation_recall_precision(every, IOU, evaluation.min_score)
    yield 'lrp', IOU, '', lrp.error
    yield 'lrp_localisation', IOU, '', lrp.localisation
    yield 'lrp_false_alarms', IOU, '', lrp.false_alarms
    yield 'lrp_missed', IOU, '', lrp.missed
    parts = {
        **{f'seen_by_{seen.value}': part for seen, part in by_visibility(results, IOU).items()},
        **{f'{low:g}-{high:g} m': part for (low, high), part in by_distance(results, IOU).items()},
    }
    for name, part in parts.items():
        yield 'ap_of_part', IOU, name, part.average_precision
        yield 'recall_of_part', IOU, name, part.recall
        yield 'truths_of_part', None, name, float(part.truths)
        yield 'false_alarms_of_part', IOU, name, float(part.false_alarms)
    yield 'unobserved_false_alarms_per_frame', IOU, '', unobserved_false_alarms(results, IOU).per_frame
    for name, value in asdict(inference_figures(results)).items():
        yield name, None, '', value
    yield 'frames', None, '', float(len(results))
    yield 'truths', None, '', float(results.counted_truths)


def write_table(evaluation: Evaluation, path: Path) -> None:
    """Write every figure as CSV; what is not a number is left empty."""
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        for row in rows(evaluation):
            writer.writerow(['' if _unknown(value) else value for value in asdict(row).values()])


def _unknown(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


_OF_LEVEL = ('false_boxes_outside', 'link_mbit_s', 'ego_reliability', 'gate_ego', 'gate_neighbours')
"""What a summary tells of a level beside its AP."""


def _level(evaluation: Evaluation, level: Condition) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for iou in evaluation.protocol.iou_thresholds:
        value = evaluation.average_precision(level, iou)
        figures[f'ap{round(100 * iou)}'] = value.estimate
        figures[f'ap{round(100 * iou)}_interval'] = [value.low, value.high]
    results = evaluation.results(level)
    outside = unobserved_false_alarms(results, IOU).per_frame
    told = {'false_boxes_outside': outside, **asdict(inference_figures(results))}
    return {**figures, **{name: told[name] for name in _OF_LEVEL}}


def _group(evaluation: Evaluation, group: Group) -> dict[str, Any]:
    robustness = evaluation.robustness(group)
    figures: dict[str, Any] = {
        'group': group.name,
        'who': group.who,
        'profile': group.profile,
        'corruptions': robustness.corruptions,
    }
    for name, figure in (
        ('mrce', measures.mean_error),
        ('mrce_ap50', measures.mean_error_50),
        ('mrce_ap70', measures.mean_error_70),
        ('mrce_without_crosstalk', measures.mean_error_of_six),
    ):
        value = evaluation.group_interval(group, figure)
        figures[name] = value.estimate
        figures[f'{name}_interval'] = [value.low, value.high]
    figures['mrr'] = 100.0 - figures['mrce']
    for order in DetectionOrder:
        figures[f'mrce_{order.value}'] = evaluation.group_interval(group, measures.mean_error, order).estimate
    figures['calibration'] = _calibration_change(evaluation.calibration_change(group))
    return figures


def _calibration_change(change: CalibrationRobustness) -> dict[str, Any]:
    return {
        'laece0_mean_change': change.mean_change,
        'mrce_cal': change.mrce,
        'laece0_change': {f'{name} {severity}': value for (name, severity), value in change.change.items()},
        'skipped': [f'{name} {severity}' for name, severity in change.skipped],
    }


def summarise(evaluation: Evaluation, run: dict[str, Any]) -> dict[str, Any]:
    """What a run found, in one structure.

    Args:
        evaluation: all figures.
        run: what was run: model, source, and so on; stands at the end.
    """
    clean = Condition(CLEAN)
    groups = [_group(evaluation, group) for group in evaluation.groups]
    headline = next((group for group in groups if group['group'] == 'paper'), None)
    corruptions: dict[str, Any] = {}
    for group, told in zip(evaluation.groups, groups, strict=True):
        robustness = evaluation.robustness(group)
        errors = {iou: robustness.rce_by_corruption([iou]) for iou in (0.5, 0.7)}
        for name in told['corruptions']:
            levels = [level for level in group.conditions if level.corruption == name]
            figures = [_level(evaluation, level) for level in levels]
            thresholds = [f'ap{round(100 * iou)}' for iou in evaluation.protocol.iou_thresholds]
            means = [*thresholds, *_OF_LEVEL]
            entry = {name: sum(f[name] for f in figures) / len(figures) for name in means}
            # With several choices of who is hit, the plain name is the first one's.
            key = f'{name} ({group.who})' if name in corruptions else name
            corruptions[key] = {
                **entry,
                'rce_ap50': errors[0.5][name],
                'rce_ap70': errors[0.7][name],
                'who': group.who,
                'family': lookup(name).family,
                'severities': {
                    str(level.severity): figure for level, figure in zip(levels, figures, strict=True)
                },
            }
    cost = inference_figures(evaluation.results(clean))
    quality = evaluation.calibration(clean)
    precision = detection_calibration(evaluation.every_result(clean), IOU)
    lrp = localisation_recall_precision(evaluation.every_result(clean), IOU, evaluation.min_score)
    keys = ('mrce', 'mrce_ap50', 'mrce_ap70', 'mrce_without_crosstalk', 'mrr')
    return {
        **{key: headline[key] if headline else None for key in keys},
        'mrce_interval': headline['mrce_interval'] if headline else None,
        'mrce_of': headline['corruptions'] if headline else [],
        'clean': _level(evaluation, clean),
        'ego_alone': _level(evaluation, Condition(EGO_ALONE)),
        'corruptions': corruptions,
        'groups': groups,
        'calibration': {
            'laece0': quality.error,
            'laece0_overconfidence': quality.overconfidence,
            'd_ece_ap50': precision.error,
            'lrp_ap50': lrp.error,
            'detections': quality.detections,
            **(headline['calibration'] if headline else {}),
            **_scaled(evaluation),
        },
        'link_mbit_s': cost.link_mbit_s,
        'latency_ms': {'encode': cost.encode_ms, 'fuse': cost.fuse_ms},
        'protocol': evaluation.protocol.name,
        'order': evaluation.protocol.order.value,
        'min_score': evaluation.min_score,
        'scenarios': len(evaluation.scenarios),
        'frames': len(evaluation.results(clean)),
        'truths': evaluation.results(clean).counted_truths,
        'run': run,
    }


def _scaled(evaluation: Evaluation) -> dict[str, Any]:
    """What the calibrator makes of it, if there is one."""
    calibrator, clean, group = evaluation.calibrator, Condition(CLEAN), evaluation.headline
    if calibrator is None:
        return {}
    overlap = evaluation.scaled_calibration(clean)
    figures: dict[str, Any] = {
        'method': calibrator.method,
        'fitted_on': calibrator.source,
        'temperatures': calibrator.temperatures,
        'laece0': overlap.error,
        'laece0_overconfidence': overlap.overconfidence,
        'd_ece_ap50': calibrator.detection(evaluation.every_result(clean)).error,
    }
    if group is not None:
        change = evaluation.calibration_change(group, evaluation.scaled_calibration)
        figures.update(_calibration_change(change))
    return {'scaled': figures}


def mean_corruption_error(own: dict[str, Any], baseline: Path) -> float:
    """MCE of a summary's paper group against the run in another folder, percent.

    Raises:
        ExperimentError: if the folder holds no summary, or one of other conditions or another protocol.
    """
    path = baseline / SUMMARY
    try:
        other = json.loads(path.read_text())
        theirs = _circumstances(other)
        for what, value in _circumstances(own).items():
            if theirs[what] != value:
                raise ExperimentError(
                    f'{path} cannot be a baseline: its {what} are {theirs[what]!r}, not {value!r}'
                )
        return float(_robustness(own).mce(_robustness(other)))
    except (DiffkdError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ExperimentError):
            raise
        reason = error if isinstance(error, EvaluationError | OSError) else f'{type(error).__name__}: {error}'
        raise ExperimentError(f'{path} cannot be a baseline: {reason}') from error


def _circumstances(summary: dict[str, Any]) -> dict[str, Any]:
    """What two runs have to share for their errors to be compared, beside corruptions and severities."""
    paper: dict[str, Any] = next((group for group in summary['groups'] if group['group'] == 'paper'), {})
    return {
        'rules of scoring': summary['protocol'],
        'scenarios, frames and vehicles': [summary[key] for key in ('scenarios', 'frames', 'truths')],
        'seeds': summary['run']['seeds'],
        'agents hit, and by which profile,': [paper.get('who'), paper.get('profile')],
    }


def _robustness(summary: dict[str, Any]) -> Robustness:
    def by_iou(figures: dict[str, Any]) -> dict[float, float]:
        return {0.5: figures['ap50'], 0.7: figures['ap70']}

    return Robustness(
        by_iou(summary['clean']),
        {
            (name, int(severity)): by_iou(figures)
            for name in summary['mrce_of']
            for severity, figures in summary['corruptions'][name]['severities'].items()
        },
    )
