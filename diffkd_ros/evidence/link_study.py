# SPDX-License-Identifier: Apache-2.0
"""Measures the layered message: AP over bytes, over losses and delays, and without parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.evaluate import Outcome
from diffkd_ros.evaluation.layered import ENVELOPE, LayeredCooperation
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evidence import compare
from diffkd_ros.evidence.compare import FigureOf, differences, figures, mean_over_seeds
from diffkd_ros.evidence.link_plan import LinkPlan
from diffkd_ros.evidence.link_results import (
    KEYS,
    ArmFigures,
    DelayPoint,
    Difference,
    LinkResults,
    LossDifference,
    LossPoint,
    RateDifference,
    RatePoint,
)
from diffkd_ros.evidence.measure import Measure, Measurement, Network, complete, network_of, networks_of
from diffkd_ros.evidence.trainings import Experiment
from diffkd_ros.metrics.inference import MESSAGES_PER_SECOND

LAYERED = LayeredCooperation.name

Amount = Callable[[Condition], float]
Runs = list[Outcome]
"""One outcome for each training seed."""


@dataclass(frozen=True)
class LinkMeasurements:
    """What was measured of a plan, now or before.

    Attributes:
        rate: by way to cooperate and bytes.
        arms, parts: by name.
    """

    rate: dict[str, dict[int, Runs]]
    arms: dict[str, Runs]
    parts: dict[str, Runs]


def measure_link(experiment: Experiment[LinkPlan], out: Path, measure: Measure) -> LinkMeasurements:
    """Measure everything that the plan asks for.

    Args:
        experiment: whose trainings are finished.
        out: folder of the study.
        measure: runs a measurement.

    Raises:
        EvaluationError: if a measurement fails.
    """
    plan, source = experiment.plan, experiment.plan.frames.frames()

    def runs(
        folder: str,
        networks: Sequence[Network],
        cooperation: str,
        budget: int,
        levels: Sequence[Condition],
        asked: bool,
    ) -> Runs:
        # Other messages have one envelope, which their ways to cooperate do not count.
        limit = budget if cooperation == LAYERED else max(budget - ENVELOPE, 0)
        return complete(
            measure(
                Measurement(
                    *(out / folder / str(number), network, source, levels, cooperation, asked, limit),
                    plan.plausibility,
                )
            )
            for number, network in enumerate(networks, 1)
        )

    def curve(name: str) -> dict[int, Runs]:
        one, asked, levels = plan.rate[name], name in experiment.asked, plan.frames.levels()
        networks = networks_of(one, plan, out)
        every = {
            budget: runs(f'rate/{name}/{budget}', networks, one.cooperation, budget, levels, asked)
            for budget in sorted(one.budgets)
        }
        return every if all(every.values()) else {}

    def layered(section: str, name: str, networks: Sequence[Network]) -> Runs:
        asked = name in experiment.asked
        return runs(f'{section}/{name}', networks, LAYERED, plan.budget, plan.conditions(), asked)

    def arm(name: str) -> Runs:
        one = plan.arms[name]
        if one.training is None or one.steps is None:
            return layered('arms', name, networks_of(one, plan, out))
        configs = {
            run: replace(experiment.recipes[run].model, steps=one.steps) for run in plan.runs_of(one.training)
        }
        return layered('arms', name, [network_of(run, out, config) for run, config in configs.items()])

    def part(name: str) -> Runs:
        return layered('parts', name, [network_of(run, out) for run in plan.runs_of(plan.parts[name])])

    rate = {name: curve(name) for name in plan.rate}
    arms = {name: arm(name) for name in plan.arms}
    parts = {name: part(name) for name in plan.parts}
    return LinkMeasurements(
        {name: found for name, found in rate.items() if found},
        {name: found for name, found in arms.items() if found},
        {name: found for name, found in parts.items() if found},
    )


def gather_link(plan: LinkPlan, measured: LinkMeasurements) -> LinkResults:
    """Collect the results of a study."""
    arms = {name: _evaluations(runs) for name, runs in measured.arms.items()}
    parts = {name: _evaluations(runs) for name, runs in measured.parts.items()}
    everything = [*(runs for curve in measured.rate.values() for runs in curve.values())]
    everything += [*measured.arms.values(), *measured.parts.values()]
    summary = everything[0][0].summary
    lost, late = _levels(plan, _chunk_loss), _levels(plan, lambda condition: condition.link.delay)

    def losses(amount: Amount) -> dict[str, list[LossPoint]]:
        levels = _levels(plan, amount).items()
        return {
            name: [LossPoint(share=share, **_at(level, runs)) for share, level in levels]
            for name, runs in arms.items()
        }

    return LinkResults(
        data=plan.frames.source,
        frames=summary.frames,
        scenarios=summary.scenarios,
        corruptions=plan.frames.corruptions,
        severity=plan.frames.severity,
        budget=plan.budget,
        labels=plan.labels,
        runs={
            **{name: len(next(iter(curve.values()))) for name, curve in measured.rate.items()},
            **{name: len(runs) for name, runs in arms.items()},
        },
        rate={
            name: [_rate_point(runs, plan.rate[name].cooperation) for runs in curve.values()]
            for name, curve in measured.rate.items()
        },
        rate_less={
            name: {other: _rate_less(curve, measured.rate[other]) for other in others}
            for name, curve in measured.rate.items()
            if (others := [other for other in plan.rate[name].against if other in measured.rate])
        },
        loss=losses(_chunk_loss),
        burst=losses(lambda condition: condition.link.chunk_burst),
        messages=losses(lambda condition: condition.link.message_loss),
        delay={
            name: [DelayPoint(seconds=seconds, **_at(level, runs)) for seconds, level in late.items()]
            for name, runs in arms.items()
        },
        loss_less={
            name: {
                other: [
                    LossDifference(share=share, less=_loss_less(runs, arms[other], level))
                    for share, level in lost.items()
                ]
                for other in others
            }
            for name, runs in arms.items()
            if (others := [other for other in plan.arms[name].against if other in arms])
        },
        arms={name: ArmFigures(**_by_seed(runs)) for name, runs in arms.items()},
        parts={
            name: ArmFigures(
                **_by_seed(runs),
                less_complete=_differences(runs, arms[plan.complete]) if plan.complete in arms else {},
            )
            for name, runs in parts.items()
        },
        seeds={
            name: {
                f'{share:g}': [run.average_precision(level, 0.7).estimate for run in runs]
                for share, level in lost.items()
            }
            for name, runs in arms.items()
        },
    )


def _rate_point(runs: Runs, cooperation: str) -> RatePoint:
    sent = float(np.mean([run.summary.link_mbit_s for run in runs])) * 1e6 / 8 / MESSAGES_PER_SECOND
    envelope = 0 if cooperation == LAYERED else ENVELOPE
    by_seed = _by_seed(_evaluations(runs))
    return RatePoint(
        kb=(sent + envelope) / 1e3, **{key: float(np.mean(values)) for key, values in by_seed.items()}
    )


def _rate_less(curve: Mapping[int, Runs], other: Mapping[int, Runs]) -> list[RateDifference]:
    """Differences at each number of bytes from another curve with as many, or with the fewest measured."""
    result = []
    for budget, runs in curve.items():
        nearest = max((each for each in other if each <= budget), default=min(other))
        less = _differences(_evaluations(runs), _evaluations(other[nearest]))
        result.append(RateDifference(kb=budget / 1e3, less=less))
    return result


def _chunk_loss(condition: Condition) -> float:
    return condition.link.chunk_loss


def _evaluations(outcomes: Sequence[Outcome]) -> list[Evaluation]:
    return [outcome.evaluation for outcome in outcomes]


def _levels(plan: LinkPlan, amount: Amount) -> dict[float, Condition]:
    """The levels of a link corruption by its amount, ascending; clean frames first, if there is any."""
    levels = dict.fromkeys(condition.level for condition in plan.conditions())
    hit = {amount(level): level for level in levels if level.over_links and amount(level) > 0}
    return {0.0: Condition(CLEAN), **dict(sorted(hit.items()))} if hit else {}


def _ap(level: Condition, iou: float) -> FigureOf:
    return lambda _: lambda ap: ap(level, iou)


def _at(level: Condition, runs: Sequence[Evaluation]) -> dict[str, float]:
    ap50, ap70 = (mean_over_seeds(runs, _ap(level, iou)) for iou in (0.5, 0.7))
    return {'ap50': ap50.estimate, 'ap70': ap70.estimate, 'ap70_low': ap70.low, 'ap70_high': ap70.high}


def _loss_less(
    own: Sequence[Evaluation], other: Sequence[Evaluation], level: Condition
) -> dict[str, Difference]:
    return {
        f'ap{round(100 * iou)}': _stored(compare.difference(own, other, _ap(level, iou)))
        for iou in (0.5, 0.7)
    }


def _by_seed(runs: Sequence[Evaluation]) -> dict[str, list[float]]:
    found = [figures(run) for run in runs]
    return {key: [each.get(key, float('nan')) for each in found] for key in KEYS}


def _differences(own: Sequence[Evaluation], other: Sequence[Evaluation]) -> dict[str, Difference]:
    less = differences(own, other)
    return {key: _stored(less[key]) for key in KEYS if key in less}


def _stored(found: compare.Difference) -> Difference:
    mean = found.mean
    return Difference(mean=mean.estimate, low=mean.low, high=mean.high, by_seed=list(found.by_seed))
