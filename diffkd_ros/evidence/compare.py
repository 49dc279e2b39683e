# SPDX-License-Identifier: Apache-2.0
"""Figures of the rows of an experiment, and their differences from its subject with paired intervals.

All rows are measured on the same scenarios, whose difficulty largely cancels out: the interval of a
difference is narrower than the intervals of the two rows suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffkd_ros.corruptions import Who
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.measures import Evaluation, Group, PrecisionOf
from diffkd_ros.metrics.bootstrap import Interval, interval
from diffkd_ros.metrics.robustness import Figure

_PARTS: dict[Who, str] = {'all': 'corrupted', 'ego': 'ego_only', 'neighbours': 'neighbours_only'}
FIGURES = ('clean', *_PARTS.values())
"""What AP is compared under: `clean_ap50` and so on, with `mrce` the keys of all figures."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of a figure, over one or several training seeds.

    Attributes:
        mean: over the seeds, with its interval over scenarios.
        by_seed: of each pair of runs with the same training seed.
    """

    mean: Interval
    by_seed: tuple[float, ...]


def figures(evaluation: Evaluation) -> dict[str, float]:
    """AP in [0, 1] and mRCE in percent, by the keys of `FIGURES`; only what was measured."""
    return {name: evaluation.sampled(figure)[0] for name, figure in _figures(evaluation).items()}


def differences(own: Sequence[Evaluation], other: Sequence[Evaluation]) -> dict[str, Difference]:
    """Evaluations of the runs of one row minus those of another, in the order of their training seeds.

    If one row has fewer runs, only so many are compared. The 95 % intervals are over scenarios, drawn for
    all runs together.

    Raises:
        DiffkdError: if they were measured on different scenarios.
    """
    return {name: difference(own, other, partial(_figure, name)) for name in _figures(own[0])}


FigureOf = Callable[[Evaluation], Callable[[PrecisionOf], Figure]]
"""A figure of an evaluation, computed from AP as `Evaluation.sampled` passes it."""


def difference(own: Sequence[Evaluation], other: Sequence[Evaluation], figure: FigureOf) -> Difference:
    """The difference of one figure; arguments and errors are those of `differences`."""
    if any(one.scenarios != own[0].scenarios for one in (*own, *other)):
        raise DiffkdError('rows were measured on different scenarios')
    pairs = [
        (one.sampled(figure(one)), two.sampled(figure(two))) for one, two in zip(own, other, strict=False)
    ]
    by_seed = tuple(estimate - reference for (estimate, _), (reference, _) in pairs)
    samples = np.mean([drawn - reference for (_, drawn), (_, reference) in pairs], axis=0)
    return Difference(interval(float(np.mean(by_seed)), samples), by_seed)


def mean_over_seeds(runs: Sequence[Evaluation], figure: FigureOf) -> Interval:
    """A figure, the mean over the runs of a row, with its interval over scenarios."""
    estimates, samples = zip(*(run.sampled(figure(run)) for run in runs), strict=True)
    return interval(float(np.mean(estimates)), np.mean(samples, axis=0))


def _figure(name: str, evaluation: Evaluation) -> Callable[[PrecisionOf], Figure]:
    return _figures(evaluation)[name]


def _figures(evaluation: Evaluation) -> dict[str, Callable[[PrecisionOf], Figure]]:
    def clean(iou: float) -> Callable[[PrecisionOf], Figure]:
        return lambda ap: ap(Condition(CLEAN), iou)

    def corrupted(group: Group, iou: float) -> Callable[[PrecisionOf], Figure]:
        return lambda ap: evaluation.robustness(group, ap).mean_precision(iou)

    found = {f'clean_ap{round(100 * iou)}': clean(iou) for iou in (0.5, 0.7)}
    for group in evaluation.groups:
        if group.name == 'paper':
            name = _PARTS[group.who]
            found |= {f'{name}_ap{round(100 * iou)}': corrupted(group, iou) for iou in (0.5, 0.7)}
    headline = evaluation.headline
    if headline is not None:
        found['mrce'] = lambda ap: evaluation.robustness(headline, ap).mrce()
    return found
