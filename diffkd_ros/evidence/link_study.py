# SPDX-License-Identifier: Apache-2.0
"""Measures the layered message: AP over bytes, over losses and delays, and without parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from diffkd_ros.evaluation.conditions import CLEAN, Condition
from diffkd_ros.evaluation.evaluate import Outcome, evaluate
from diffkd_ros.evaluation.layered import ENVELOPE, LayeredCooperation
from diffkd_ros.evaluation.measures import Evaluation
from diffkd_ros.evaluation.run import Plan
from diffkd_ros.evidence.compare import FigureOf, difference, differences, figures, mean_over_seeds
from diffkd_ros.evidence.link_plan import LinkPlan
from diffkd_ros.evidence.link_results import (
    KEYS,
    ArmDifference,
    ArmFigures,
    DelayPoint,
    LateDifference,
    LinkResults,
    LossPoint,
    RatePoint,
)
from diffkd_ros.evidence.measure import export_with, model_of
from diffkd_ros.evidence.trainings import Experiment
from diffkd_ros.metrics.inference import MESSAGES_PER_SECOND

LAYERED = LayeredCooperation.name

Amount = Callable[[Condition], float]


@dataclass(frozen=True)
class LinkMeasurements:
    """Everything that a plan asks for.

    Attributes:
        rate: by way to cooperate and bytes, of the first training seed.
        arms, parts: by name, one for each training seed.
    """

    rate: dict[str, dict[int, Outcome]]
    arms: dict[str, list[Outcome]]
    parts: dict[str, list[Outcome]]


class LinkStudy:
    """Runs `diffkd evaluate` for a plan; what is measured already is not measured again.

    Args:
        experiment: whose trainings are finished.
        out: folder of the study.
        workers: processes.
        console: for progress messages.
    """

    def __init__(self, experiment: Experiment[LinkPlan], out: Path, workers: int, console: Console) -> None:
        self._plan, self._recipes = experiment.plan, experiment.recipes
        self._out, self._workers, self._console = out, workers, console

    def measure(self) -> LinkMeasurements:
        """Measure everything.

        Raises:
            EvaluationError: if a measurement fails.
        """
        plan = self._plan
        return LinkMeasurements(
            {name: self._curve(name) for name in plan.rate},
            {name: self._layered(f'arms/{name}', arm.training, arm.steps) for name, arm in plan.arms.items()},
            {name: self._layered(f'parts/{name}', training) for name, training in plan.parts.items()},
        )

    def _curve(self, name: str) -> dict[int, Outcome]:
        curve, conditions = self._plan.rate[name], self._plan.frames.levels()
        model = model_of(curve.training, self._out)
        return {
            budget: self._evaluate(f'rate/{name}/{budget}', model, curve.cooperation, budget, conditions)
            for budget in sorted(curve.budgets)
        }

    def _layered(self, folder: str, training: str, steps: int | None = None) -> list[Outcome]:
        models = [
            model_of(run, self._out)
            if steps is None
            else export_with(run, self._out, replace(self._recipes[run].model, steps=steps))
            for run in self._plan.runs_of(training)
        ]
        return [
            self._evaluate(f'{folder}/{number}', model, LAYERED, self._plan.budget, self._plan.conditions())
            for number, model in enumerate(models, 1)
        ]

    def _evaluate(
        self, folder: str, model: Path, cooperation: str, budget: int, conditions: Sequence[Condition]
    ) -> Outcome:
        self._console.print(f'measuring {folder}', highlight=False)
        source = self._plan.frames.frames()
        # Other messages have one envelope, which their ways to cooperate do not count.
        limit = budget if cooperation == LAYERED else max(budget - ENVELOPE, 0)
        plan = Plan(self._out / folder, source, model, source.protocol, cooperation, budget=limit)
        return evaluate(plan, conditions, self._console, self._workers, draw=False)


def gather_link(plan: LinkPlan, measured: LinkMeasurements) -> LinkResults:
    """Collect the results of a study."""
    arms = {name: _evaluations(runs) for name, runs in measured.arms.items()}
    parts = {name: _evaluations(runs) for name, runs in measured.parts.items()}
    any_arm = next(iter(measured.arms.values()))[0]
    reference, complete = arms[plan.reference], arms[plan.complete]
    lost = _levels(any_arm, _chunk_loss)
    late = _levels(any_arm, lambda condition: condition.link.delay)

    def losses(amount: Amount) -> dict[str, list[LossPoint]]:
        levels = _levels(any_arm, amount).items()
        return {
            name: [LossPoint(share=share, **_at(level, runs)) for share, level in levels]
            for name, runs in arms.items()
        }

    return LinkResults(
        data=plan.frames.source,
        frames=any_arm.summary.frames,
        scenarios=any_arm.summary.scenarios,
        corruptions=plan.frames.corruptions,
        severity=plan.frames.severity,
        budget=plan.budget,
        reference=plan.reference,
        labels=plan.labels,
        rate={
            name: [_rate_point(each, plan.rate[name].cooperation) for each in outcomes.values()]
            for name, outcomes in measured.rate.items()
        },
        less_late=_less_late(plan, measured.rate),
        loss=losses(_chunk_loss),
        burst=losses(lambda condition: condition.link.chunk_burst),
        messages=losses(lambda condition: condition.link.message_loss),
        delay={
            name: [DelayPoint(seconds=seconds, **_at(level, runs)) for seconds, level in late.items()]
            for name, runs in arms.items()
        },
        less_reference={
            name: [ArmDifference(share=share, **_less(runs, reference, at)) for share, at in lost.items()]
            for name, runs in arms.items()
            if name != plan.reference
        },
        arms={name: ArmFigures(**_by_seed(runs)) for name, runs in arms.items()},
        parts={
            name: ArmFigures(**_by_seed(runs), less_complete=_differences(runs, complete))
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


def _rate_point(outcome: Outcome, cooperation: str) -> RatePoint:
    sent = outcome.summary.link_mbit_s * 1e6 / 8 / MESSAGES_PER_SECOND
    envelope = 0 if cooperation == LAYERED else ENVELOPE
    found = figures(outcome.evaluation)
    return RatePoint(kb=(sent + envelope) / 1e3, **{key: found.get(key, float('nan')) for key in KEYS})


def _less_late(plan: LinkPlan, rate: Mapping[str, Mapping[int, Outcome]]) -> list[LateDifference]:
    """Differences at each number of bytes from late fusion with as many, or with the fewest measured."""
    layered = [name for name, curve in plan.rate.items() if curve.cooperation == LAYERED]
    if not layered or plan.late not in rate:
        return []
    late, result = rate[plan.late], []
    for budget, outcome in rate[layered[0]].items():
        other = late[max((each for each in late if each <= budget), default=min(late))]
        less = _differences([outcome.evaluation], [other.evaluation])
        result.append(LateDifference(kb=budget / 1e3, **less))
    return result


def _chunk_loss(condition: Condition) -> float:
    return condition.link.chunk_loss


def _evaluations(outcomes: Sequence[Outcome]) -> list[Evaluation]:
    return [outcome.evaluation for outcome in outcomes]


def _levels(outcome: Outcome, amount: Amount) -> dict[float, Condition]:
    """The levels of a link corruption by its amount, ascending; clean frames first, if there is any."""
    levels = outcome.evaluation.levels
    hit = {amount(level): level for level in levels if level.over_links and amount(level) > 0}
    return {0.0: Condition(CLEAN), **dict(sorted(hit.items()))} if hit else {}


def _ap(level: Condition, iou: float) -> FigureOf:
    return lambda _: lambda ap: ap(level, iou)


def _at(level: Condition, runs: Sequence[Evaluation]) -> dict[str, float]:
    ap50, ap70 = (mean_over_seeds(runs, _ap(level, iou)) for iou in (0.5, 0.7))
    return {'ap50': ap50.estimate, 'ap70': ap70.estimate, 'ap70_low': ap70.low, 'ap70_high': ap70.high}


def _less(own: Sequence[Evaluation], other: Sequence[Evaluation], level: Condition) -> dict[str, Any]:
    return {
        f'ap{round(100 * iou)}': astuple(difference(own, other, _ap(level, iou)).mean) for iou in (0.5, 0.7)
    }


def _by_seed(runs: Sequence[Evaluation]) -> dict[str, list[float]]:
    found = [figures(run) for run in runs]
    return {key: [each.get(key, float('nan')) for each in found] for key in KEYS}


def _differences(own: Sequence[Evaluation], other: Sequence[Evaluation]) -> dict[str, Any]:
    less = differences(own, other)
    return {key: astuple(less[key].mean) for key in KEYS if key in less}
