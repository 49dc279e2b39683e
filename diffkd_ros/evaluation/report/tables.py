# SPDX-License-Identifier: Apache-2.0
"""Every figure of an evaluation as a tidy table, `results.csv`.

Each row is one figure of one level of a corruption: its value for one IoU threshold, and for one part of the
boxes or one seed if it is not of all. Severity 0 means that nothing is corrupted. AP and calibration errors
are shares in [0, 1], relative errors percent; `low` and `high` are the ends of the 95 % interval, if any.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from diffkd_ros.corruptions import lookup
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.measures import IOU, Evaluation
from diffkd_ros.files import whole_file
from diffkd_ros.metrics.average_precision import DetectionOrder
from diffkd_ros.metrics.bootstrap import Interval
from diffkd_ros.metrics.breakdown import by_distance, by_visibility, unobserved_false_alarms
from diffkd_ros.metrics.calibration import detection_calibration, localisation_recall_precision
from diffkd_ros.metrics.inference import inference_figures

TABLE = 'results.csv'
_COLUMNS = (
    'corruption', 'family', 'severity', 'who', 'profile', 'seeds',
    'metric', 'iou', 'part', 'value', 'low', 'high',
)  # fmt: skip


def write_table(evaluation: Evaluation, path: Path) -> None:
    """Write every figure as CSV; unknown values are empty."""
    with whole_file(path) as unfinished, unfinished.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for level in evaluation.levels:
            family = '' if level.reference else lookup(level.corruption).family
            key = level.corruption, family, level.severity, level.who, level.profile, evaluation.seeds(level)
            for metric, iou, part, value in _figures(evaluation, level):
                interval = value if isinstance(value, Interval) else Interval(value)
                row = (*key, metric, iou, part, interval.estimate, interval.low, interval.high)
                writer.writerow(['' if _unknown(cell) else cell for cell in row])


def _unknown(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


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
    calibrator = evaluation.calibrator
    if calibrator is not None:
        yield 'laece0_scaled', None, '', evaluation.calibration(level, calibrator.overlap).error
        yield 'd_ece_scaled', IOU, '', detection_calibration(every, IOU, calibrator.precision).error
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
    yield 'unobserved_false_alarms_per_frame', IOU, '', unobserved_false_alarms(results, IOU)
    for name, value in asdict(inference_figures(results)).items():
        yield name, None, '', value
    yield 'frames', None, '', float(len(results))
    yield 'truths', None, '', float(results.counted_truths)
