# SPDX-License-Identifier: Apache-2.0
"""Makes the summary of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from diffkd_ros.corruptions import lookup
from diffkd_ros.evaluation.calibrators import Calibrator
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.measures import IOU, Evaluation, Group
from diffkd_ros.evaluation.summary import (
    CalibrationChange,
    CalibrationFigures,
    CorruptionFigures,
    GroupFigures,
    Latency,
    LevelFigures,
    LevelMeans,
    Run,
    ScaledCalibration,
    Summary,
)
from diffkd_ros.metrics.average_precision import DetectionOrder
from diffkd_ros.metrics.breakdown import unobserved_false_alarms
from diffkd_ros.metrics.calibration import (
    CalibrationRobustness,
    detection_calibration,
    localisation_recall_precision,
)
from diffkd_ros.metrics.inference import inference_figures
from diffkd_ros.metrics.robustness import NOT_IN_SIX, Figure, Robustness

_CLEAN = Condition(CLEAN)


def summarise(evaluation: Evaluation, run: Run) -> Summary:
    """Compute the summary of an evaluation; `run` says what was evaluated."""
    groups = [_group(evaluation, group) for group in evaluation.groups]
    corruptions: dict[str, CorruptionFigures] = {}
    for group in evaluation.groups:
        for name, figures in _corruptions(evaluation, group).items():
            # With several choices of who is corrupted, the plain name is the first one's.
            corruptions[f'{name} ({group.who})' if name in corruptions else name] = figures
    headline = next((group for group in groups if group.group == 'paper'), None)
    clean = evaluation.results(_CLEAN)
    cost = inference_figures(clean)
    shared = ('mrce', 'mrce_ap50', 'mrce_ap70', 'mrce_without_crosstalk', 'mrr', 'mrce_interval')
    unknown = dict.fromkeys(shared)
    return Summary(
        **({key: getattr(headline, key) for key in shared} if headline else unknown),
        mrce_of=headline.corruptions if headline else [],
        clean=_level(evaluation, _CLEAN),
        ego_alone=_level(evaluation, Condition(EGO_ALONE)),
        corruptions=corruptions,
        groups=groups,
        calibration=_calibration(evaluation, headline),
        link_mbit_s=cost.link_mbit_s,
        latency_ms=Latency(encode=cost.encode_ms, fuse=cost.fuse_ms),
        protocol=evaluation.protocol.name,
        order=evaluation.protocol.order.value,
        min_score=evaluation.min_score,
        scenarios=len(evaluation.scenarios),
        frames=len(clean),
        truths=clean.counted_truths,
        run=run,
    )


def _level(evaluation: Evaluation, level: Condition) -> LevelFigures:
    figures: dict[str, Any] = {}
    for iou in evaluation.protocol.iou_thresholds:
        value = evaluation.average_precision(level, iou)
        figures[f'ap{round(100 * iou)}'] = value.estimate
        figures[f'ap{round(100 * iou)}_interval'] = value.low, value.high
    results = evaluation.results(level)
    figures['false_boxes_outside'] = unobserved_false_alarms(results, IOU)
    inference = asdict(inference_figures(results))
    figures |= {key: value for key, value in inference.items() if key in LevelFigures.model_fields}
    return LevelFigures(**figures)


def _corruptions(evaluation: Evaluation, group: Group) -> dict[str, CorruptionFigures]:
    """Figures of each corruption of a group."""
    robustness = evaluation.robustness(group)
    errors = {iou: robustness.rce_by_corruption([iou]) for iou in (0.5, 0.7)}
    corruptions = {}
    for name in robustness.corruptions:
        levels = [level for level in group.conditions if level.corruption == name]
        figures = {level.severity: _level(evaluation, level) for level in levels}
        corruptions[name] = CorruptionFigures(
            **_means(list(figures.values())),
            rce_ap50=errors[0.5][name],
            rce_ap70=errors[0.7][name],
            who=group.who,
            family=lookup(name).family,
            severities=figures,
        )
    return corruptions


def _means(figures: Sequence[LevelFigures]) -> dict[str, Any]:
    return {key: sum(getattr(f, key) for f in figures) / len(figures) for key in LevelMeans.model_fields}


_ERRORS: dict[str, Callable[[Robustness], Figure]] = {
    'mrce': Robustness.mrce,
    'mrce_ap50': lambda robustness: robustness.mrce([0.5]),
    'mrce_ap70': lambda robustness: robustness.mrce([0.7]),
    'mrce_without_crosstalk': lambda robustness: robustness.mrce(without=NOT_IN_SIX),
}


def _group(evaluation: Evaluation, group: Group) -> GroupFigures:
    figures: dict[str, Any] = {}
    for name, error in _ERRORS.items():
        value = evaluation.group_interval(group, error)
        figures[name] = value.estimate
        figures[f'{name}_interval'] = value.low, value.high
    for order in DetectionOrder:
        figures[f'mrce_{order.value}'] = evaluation.group_interval(group, Robustness.mrce, order).estimate
    return GroupFigures(
        group=group.name,
        who=group.who,
        profile=group.profile,
        corruptions=evaluation.robustness(group).corruptions,
        **figures,
        mrr=100.0 - figures['mrce'],
        calibration=CalibrationChange(**_change(evaluation.calibration_change(group))),
    )


def _change(change: CalibrationRobustness) -> dict[str, Any]:
    return {
        'laece0_mean_change': change.mean_change,
        'mrce_cal': change.mrce,
        'laece0_change': {f'{name} {severity}': value for (name, severity), value in change.change.items()},
        'skipped': [f'{name} {severity}' for name, severity in change.skipped],
    }


def _calibration(evaluation: Evaluation, headline: GroupFigures | None) -> CalibrationFigures:
    every, quality = evaluation.every_result(_CLEAN), evaluation.calibration(_CLEAN)
    optional: dict[str, Any] = {}
    if headline is not None:
        optional |= headline.calibration.model_dump()
    if evaluation.calibrator is not None:
        optional['scaled'] = _scaled(evaluation, evaluation.calibrator)
    return CalibrationFigures(
        laece0=quality.error,
        laece0_overconfidence=quality.overconfidence,
        d_ece_ap50=detection_calibration(every, IOU).error,
        lrp_ap50=localisation_recall_precision(every, IOU, evaluation.min_score).error,
        detections=quality.detections,
        **optional,
    )


def _scaled(evaluation: Evaluation, calibrator: Calibrator) -> ScaledCalibration:
    group, quality = evaluation.headline, evaluation.calibration(_CLEAN, calibrator.overlap)
    change = {} if group is None else _change(evaluation.calibration_change(group, calibrator.overlap))
    return ScaledCalibration(
        method=calibrator.method,
        fitted_on=calibrator.source,
        temperatures=calibrator.temperatures,
        laece0=quality.error,
        laece0_overconfidence=quality.overconfidence,
        d_ece_ap50=detection_calibration(evaluation.every_result(_CLEAN), IOU, calibrator.precision).error,
        **change,
    )
