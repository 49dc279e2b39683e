# SPDX-License-Identifier: Apache-2.0
"""`diffkd evaluate --attack`: what the ego still finds while some of its neighbours lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console

from diffkd_ros.attacks.catalogue import ABSENT, ATTACKS
from diffkd_ros.attacks.liars import Liars
from diffkd_ros.evaluation.conditions import EGO_ALONE, REFERENCES, Condition, attack_of, corrupted_honest
from diffkd_ros.evaluation.cooperations import cooperation_named
from diffkd_ros.evaluation.deceived import ATTACK_HISTORY
from diffkd_ros.evaluation.evaluate import run_with_progress
from diffkd_ros.evaluation.measures import IOU, confident
from diffkd_ros.evaluation.plan import Plan
from diffkd_ros.evaluation.run import load_results, read_judged, settle, usable
from diffkd_ros.evaluation.trust_results import TRUST, AttackFigures, Figures, References, Trust
from diffkd_ros.evaluation.trust_table import print_tables
from diffkd_ros.metrics.average_precision import EvaluationError
from diffkd_ros.metrics.deception import (
    Judgements,
    detected_share,
    false_boxes,
    false_share,
    lost_share,
    mean_delay,
)
from diffkd_ros.metrics.frame_results import FrameResults
from diffkd_ros.sources.source import SIMULATOR
from diffkd_ros.workers import HERE, Workers

_FOLDER = '_neighbours'


def evaluate_attacks(
    plan: Plan, conditions: Mapping[int, Sequence[Condition]], console: Console, workers: Workers = HERE
) -> Trust:
    """Measure attacks, write `trust.json` and return its contents.

    Args:
        plan: what is evaluated, on simulated frames; an earlier run in its folder is continued.
        conditions: from `make_attacks`.
        console: for progress and figures.
        workers: which run the jobs.

    Raises:
        EvaluationError: if the source is recorded, the model takes too few agents, nothing that can lie is
            sent, the folder holds another evaluation, or a condition could not be run.
        DatasetError: if the source cannot be opened.
        ModelError: if the model does not load.
    """
    _check(plan, conditions)
    parts = _parts(plan, conditions)
    for part in parts.values():
        part.source.names()  # checks the source before anything is written
        settle(part)
    measured = []
    for neighbours, part in parts.items():
        drives, asked = part.source.names(), conditions.get(neighbours, ())
        if asked:
            console.print(f'{neighbours} neighbours: {len(asked)} conditions on {len(drives)} scenarios')
            run_with_progress(part, asked, drives, workers, console)
        names = sorted(path.name for path in (part.out / 'frames').glob('*'))
        honest = [each for each in corrupted_honest() if each.name in names]
        complete = [*REFERENCES, *filter(None, map(attack_of, names)), *honest]
        loaded = load_results(part, complete, usable(part, drives))
        if missing := [condition.name for condition in asked if condition not in loaded]:
            raise EvaluationError(f'no results of {", ".join(missing)}: see the reasons in {part.out}')
        if set(REFERENCES) <= set(loaded):
            measured.append(_Measured(part, loaded))
    trust = _trust(plan, measured)
    trust.write(plan.out)
    print_tables(trust, console)
    console.print(f'in {plan.out}: {TRUST}', highlight=False, soft_wrap=True)
    return trust


def _parts(plan: Plan, conditions: Iterable[int]) -> dict[int, Plan]:
    """The plan for each number of neighbours, also for those of earlier runs."""
    folders = plan.out.glob(f'[1-9]{_FOLDER}')
    numbers = {*conditions, *(int(path.name[0]) for path in folders)}
    return {
        neighbours: replace(
            plan,
            out=plan.out / f'{neighbours}{_FOLDER}',
            source=replace(plan.source, simulator={**plan.source.simulator, 'agents': neighbours + 1}),
            history=ATTACK_HISTORY,
        )
        for neighbours in sorted(numbers)
    }


def _check(plan: Plan, conditions: Mapping[int, Sequence[Condition]]) -> None:
    if plan.source.kind != SIMULATOR:
        raise EvaluationError(
            f'attacks are measured on simulated frames, whose number of neighbours can be chosen, not on '
            f'{plan.source.spec}'
        )
    if cooperation_named(plan.cooperation).sends not in ('map', 'boxes', 'chunks'):
        raise EvaluationError(f'attacks need a cooperation by maps, layers or boxes, not {plan.cooperation}')
    card = plan.open().model.card
    if (most := max(conditions)) >= card.max_agents:
        raise EvaluationError(
            f'{card.name} takes {card.max_agents - 1} neighbours at most, liars among {most} were asked for'
        )


class _Measured:
    """The results of all conditions that are complete, for one number of neighbours."""

    def __init__(self, plan: Plan, loaded: Mapping[Condition, FrameResults]) -> None:
        threshold = plan.open().model.card.min_score
        self.plan, self.results = plan, {each: confident(found, threshold) for each, found in loaded.items()}
        self.clean, self.alone = (self.results[each] for each in REFERENCES)
        levels: dict[tuple[Liars, str], list[Condition]] = defaultdict(list)
        for each in loaded:
            if each.liars is not None:
                levels[each.liars, each.attack].append(each)
        self.levels = levels

    @property
    def liars(self) -> list[Liars]:
        """The choices of liars of which the reference without them is complete."""
        return sorted(liars for liars, attack in self.levels if attack == ABSENT.name)

    def judged(self, condition: Condition) -> list[Judgements]:
        return [read_judged(self.plan, condition, drive) for drive in self.clean.scenarios]

    def references(self, liars: Liars) -> References:
        absent = [self.results[each] for each in self.levels[liars, ABSENT.name]]
        return References(
            honest=_figures(self.plan, [self.clean]),
            liar_absent=_figures(self.plan, absent),
            ego_alone=_figures(self.plan, [self.alone]),
        )

    def attack(self, liars: Liars, name: str) -> AttackFigures:
        levels = self.levels[liars, name]
        found = [self.results[each] for each in levels]
        judged = [drive for each in levels for drive in self.judged(each)]
        return AttackFigures(
            **_figures(self.plan, found).model_dump(),
            lost=float(np.mean([lost_share(each, self.alone, IOU) for each in found])),
            detected=detected_share(judged),
            delay=mean_delay(judged),
        )


def _trust(plan: Plan, measured: Sequence[_Measured]) -> Trust:
    by_liars = {liars: part for part in measured for liars in part.liars}
    references = {str(liars): part.references(liars) for liars, part in by_liars.items()}
    attacks = {
        name: {
            str(liars): part.attack(liars, name)
            for liars, part in by_liars.items()
            if (liars, name) in part.levels
        }
        for name in ATTACKS
    }
    honest = _honest(measured)
    return Trust(
        **next(iter(references.values())).model_dump(),
        attacks={name: figures for name, figures in attacks.items() if figures},
        false_quarantine=false_share([drive for drives in honest.values() for drive in drives]),
        left_out_honest={name: false_share(drives) for name, drives in honest.items()},
        references=references,
        model=plan.open().model.card.model_id,
        cooperation=plan.cooperation,
        source=plan.source.spec,
        frames={str(liars): len(part.clean) for liars, part in by_liars.items()},
        seeds=sorted({each.seed for part in measured for each in part.results}),
    )


def _honest(measured: Sequence[_Measured]) -> dict[str, list[Judgements]]:
    """The judgements in the conditions in which nobody lies, by their names."""
    honest: dict[str, list[Judgements]] = defaultdict(list)
    for part in measured:
        for each in part.results:
            if not each.attack and each != Condition(EGO_ALONE):
                name = each.corruption if each.reference else f'{each.corruption} {each.severity}'
                honest[name] += part.judged(each)
    return dict(honest)


def _figures(plan: Plan, results: Sequence[FrameResults]) -> Figures:
    """Means over the seeds."""
    order = plan.protocol.order
    ap50, ap70 = (
        float(np.mean([each.average_precision(iou, order) for each in results])) for iou in (0.5, 0.7)
    )
    return Figures(ap50=ap50, ap70=ap70, false_boxes=float(np.mean([false_boxes(each) for each in results])))
