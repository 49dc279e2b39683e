# SPDX-License-Identifier: Apache-2.0
"""Differences of the rows of an experiment from its subject, with paired intervals.

All rows are measured on the same scenarios, whose difficulty largely cancels out: the interval of a
difference is narrower than the intervals of the two rows suggest.
"""

from __future__ import annotations

from collections.abc import Callable

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.measures import Evaluation, PrecisionOf
from diffkd_ros.metrics.bootstrap import Interval, interval
from diffkd_ros.metrics.robustness import Figure

Differences = dict[str, Interval]
"""By figure: `clean_ap50`, `clean_ap70`, `corrupted_ap50`, `corrupted_ap70` in [0, 1], `mrce` in percent."""


def differences(own: Evaluation, other: Evaluation) -> Differences:
    """One evaluation minus another, with 95 % intervals over scenarios drawn for both together.

    Raises:
        DiffkdError: if they were measured on different scenarios.
    """
    if own.scenarios != other.scenarios:
        raise DiffkdError('rows were measured on different scenarios')
    result: Differences = {}
    for name, figure in _figures(own).items():
        (estimate, samples), (reference, drawn) = own.sampled(figure), other.sampled(figure)
        result[name] = interval(estimate - reference, samples - drawn)
    return result


def _figures(evaluation: Evaluation) -> dict[str, Callable[[PrecisionOf], Figure]]:
    figures: dict[str, Callable[[PrecisionOf], Figure]] = {
        'clean_ap50': lambda ap: ap(Condition(CLEAN), 0.5),
        'clean_ap70': lambda ap: ap(Condition(CLEAN), 0.7),
    }
    group = evaluation.headline
    if group is None:
        return figures
    return {
        **figures,
        'corrupted_ap50': lambda ap: evaluation.robustness(group, ap).mean_precision(0.5),
        'corrupted_ap70': lambda ap: evaluation.robustness(group, ap).mean_precision(0.7),
        'mrce': lambda ap: evaluation.robustness(group, ap).mrce(),
    }
