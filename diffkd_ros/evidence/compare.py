# SPDX-License-Identifier: Apache-2.0
"""How far the rows of an experiment lie from its subject, drawn on the same scenarios.

Rows share most of what makes a scenario easy or hard, so the interval of a difference is narrower than the
intervals of the two rows let expect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.measures import Evaluation, PrecisionOf, mean_error
from diffkd_ros.evidence.plan import EvidenceError
from diffkd_ros.metrics.bootstrap import Interval, interval
from diffkd_ros.metrics.robustness import Figure

Differences = dict[str, Interval]
"""By figure: `clean_ap50`, `clean_ap70`, `corrupted_ap50`, `corrupted_ap70` in [0, 1], `mrce` in percent."""


def compare_rows(rows: Mapping[str, Evaluation], subject: str) -> dict[str, Differences]:
    """Each row less the subject, for all rows but the subject itself.

    Raises:
        EvidenceError: if rows were measured on different scenarios.
    """
    return {name: differences(row, rows[subject]) for name, row in rows.items() if name != subject}


def differences(own: Evaluation, other: Evaluation) -> Differences:
    """One evaluation less another, with 95 % intervals over scenarios drawn for both at once.

    Raises:
        EvidenceError: if they are of different scenarios.
    """
    if own.scenarios != other.scenarios:
        raise EvidenceError('rows were measured on different scenarios')
    told: Differences = {}
    for name, figure in _figures(own).items():
        (estimate, samples), (reference, drawn) = own.sampled(figure), other.sampled(figure)
        told[name] = interval(estimate - reference, samples - drawn)
    return told


def _figures(evaluation: Evaluation) -> dict[str, Callable[[PrecisionOf], Figure]]:
    figures: dict[str, Callable[[PrecisionOf], Figure]] = {
        'clean_ap50': lambda ap: ap(Condition(CLEAN), 0.5),
        'clean_ap70': lambda ap: ap(Condition(CLEAN), 0.7),
    }
    group = evaluation.headline
    if group is None:
        return figures

    def corrupted(iou: float) -> Callable[[PrecisionOf], Figure]:
        return lambda ap: sum(ap(level, iou) for level in group.conditions) / len(group.conditions)

    return {
        **figures,
        'corrupted_ap50': corrupted(0.5),
        'corrupted_ap70': corrupted(0.7),
        'mrce': lambda ap: mean_error(evaluation.robustness(group, ap)),
    }
