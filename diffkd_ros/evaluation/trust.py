# SPDX-License-Identifier: Apache-2.0
"""`diffkd evaluate --attack`: what the ego still finds while some of its neighbours lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from diffkd_ros.attacks.catalogue import ABSENT
from diffkd_ros.attacks.liars import Liars
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.cooperations import cooperation_named
from diffkd_ros.evaluation.deceived import ATTACK_HISTORY
from diffkd_ros.evaluation.evaluate import run_with_progress
from diffkd_ros.evaluation.measures import IOU, confident
from diffkd_ros.evaluation.run import Plan, load_results, read_judged, settle, usable
from diffkd_ros.evaluation.summary import Number
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
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.sources.source import SIMULATOR

TRUST = 'trust.json'
_NAN = float('nan')
_CLEAN, _ALONE = Condition(CLEAN), Condition(EGO_ALONE)


class Figures(BaseModel):
    """AP at IoU 0.5 and 0.7, and false boxes a frame, see `false_boxes`."""

    model_config = ConfigDict(frozen=True)

    ap50: Number
    ap70: Number
    false_boxes: Number


class AttackFigures(Figures):
    """Figures of an attack.

    Attributes:
        lost: share of the vehicles that the ego finds alone and no longer with its neighbours, at IoU 0.5.
        detected: share of the lies whose sender was refused or taken for a liar; NaN if nothing judges.
        delay: mean seconds of the drives until a liar was first refused or taken for one; NaN if none was, or
            if the frames are not successive.
    """

    lost: Number
    detected: Number = _NAN
    delay: Number = _NAN


class References(BaseModel):
    """The frames with nobody lying, with the liars sending nothing, and without neighbours."""

    model_config = ConfigDict(frozen=True)

    honest: Figures
    liar_absent: Figures
    ego_alone: Figures


class Trust(References):
    """All figures of an evaluation of attacks, the contents of `trust.json`.

    The references are those of the first choice of liars, and of each one in `references`. `attacks` has
    figures by name and by liars. `false_quarantine` is the share of honest senders that are taken for liars,
    NaN if nothing judges.
    """

    attacks: dict[str, dict[str, AttackFigures]]
    false_quarantine: Number
    references: dict[str, References]
    model: str
    cooperation: str
    source: str
    frames: dict[str, int]
    seeds: list[int]

    def write(self, folder: Path) -> None:
        """Write `trust.json`."""
        write_json(folder / TRUST, self.model_dump())


def evaluate_attacks(
    plan: Plan, conditions: Mapping[int, Sequence[Condition]], console: Console, workers: int = 1
) -> Trust:
    """Measure attacks, write `trust.json` and return its contents.

    Args:
        plan: what is evaluated, on simulated frames; an earlier run in its folder is continued.
        conditions: from `make_attacks`.
        console: for progress and figures.
        workers: processes.

    Raises:
        EvaluationError: if the source is recorded, the model takes too few agents, nothing that can lie is
            sent, the folder holds another evaluation, or a condition could not be run.
        DatasetError: if the source cannot be opened.
        ModelError: if the model does not load.
    """
    _check(plan, conditions)
    kept: dict[Liars, tuple[Plan, Sequence[Condition], dict[Condition, FrameResults]]] = {}
    for neighbours, asked in conditions.items():
        simulator = {**plan.source.simulator, 'agents': neighbours + 1}
        part = replace(
            plan,
            out=plan.out / f'{neighbours}_neighbours',
            source=replace(plan.source, simulator=simulator),
            history=ATTACK_HISTORY,
        )
        drives = part.source.names()
        settle(part)
        console.print(f'{neighbours} neighbours: {len(asked)} conditions on {len(drives)} scenarios')
        run_with_progress(part, asked, drives, workers, console)
        loaded = load_results(part, asked, usable(part, drives))
        if missing := [condition.name for condition in asked if condition not in loaded]:
            raise EvaluationError(f'no results of {", ".join(missing)}: see the reasons in {part.out}')
        results = {each: confident(found, plan.open().model.card.min_score) for each, found in loaded.items()}
        for liars in dict.fromkeys(each.liars for each in asked if each.liars is not None):
            kept[liars] = part, asked, results
    trust = _trust(plan, kept)
    trust.write(plan.out)
    for name, references in trust.references.items():
        _print(trust, name, references, console)
    console.print(f'in {plan.out}: {TRUST}', highlight=False, soft_wrap=True)
    return trust


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


def _trust(
    plan: Plan, kept: Mapping[Liars, tuple[Plan, Sequence[Condition], dict[Condition, FrameResults]]]
) -> Trust:
    attacks: dict[str, dict[str, AttackFigures]] = {}
    references: dict[str, References] = {}
    honest: list[Judgements] = []
    for liars, (part, asked, results) in kept.items():
        drives = results[_CLEAN].scenarios
        absent = [each for each in asked if each.liars == liars and each.attack == ABSENT.name]
        references[str(liars)] = References(
            honest=_figures(plan, [results[_CLEAN]]),
            liar_absent=_figures(plan, [results[each] for each in absent]),
            ego_alone=_figures(plan, [results[_ALONE]]),
        )
        honest += [read_judged(part, _CLEAN, drive) for drive in drives]
        for name in dict.fromkeys(each.attack for each in asked if each.liars == liars):
            levels = [each for each in asked if each.liars == liars and each.attack == name]
            found = [results[each] for each in levels]
            judged = [read_judged(part, each, drive) for each in levels for drive in drives]
            if name != ABSENT.name:
                attacks.setdefault(name, {})[str(liars)] = AttackFigures(
                    **_figures(plan, found).model_dump(),
                    lost=float(np.mean([lost_share(each, results[_ALONE], IOU) for each in found])),
                    detected=detected_share(judged),
                    delay=mean_delay(judged),
                )
    return Trust(
        **next(iter(references.values())).model_dump(),
        attacks=attacks,
        false_quarantine=false_share(honest),
        references=references,
        model=plan.open().model.card.model_id,
        cooperation=plan.cooperation,
        source=plan.source.spec,
        frames={str(liars): len(results[_CLEAN]) for liars, (_, _, results) in kept.items()},
        seeds=sorted({each.seed for _, asked, _ in kept.values() for each in asked}),
    )


def _figures(plan: Plan, results: Sequence[FrameResults]) -> Figures:
    """Means over the seeds."""
    order = plan.protocol.order
    ap50, ap70 = (
        float(np.mean([each.average_precision(iou, order) for each in results])) for iou in (0.5, 0.7)
    )
    return Figures(ap50=ap50, ap70=ap70, false_boxes=float(np.mean([false_boxes(each) for each in results])))


def _print(trust: Trust, name: str, references: References, console: Console) -> None:
    longest = max(map(len, trust.attacks))
    table = Table(
        title=f'{name} neighbours lie, {trust.frames[name]} frames: percent, false boxes a frame, seconds'
    )
    for column in ('', 'AP@0.5', 'AP@0.7', 'false', 'lost', 'detected', 'delay'):
        table.add_column(column, justify='right' if column else 'left', min_width=0 if column else longest)

    def line(label: str, figures: Figures) -> None:
        row = [f'{100 * figures.ap50:.1f}', f'{100 * figures.ap70:.1f}', f'{figures.false_boxes:.2f}']
        if isinstance(figures, AttackFigures):
            row.append(f'{100 * figures.lost:.1f}')
            row.append('' if np.isnan(figures.detected) else f'{100 * figures.detected:.0f}')
            row.append('' if np.isnan(figures.delay) else f'{figures.delay:.1f}')
        table.add_row(label, *row)

    line('honest', references.honest)
    line('liar absent', references.liar_absent)
    line('ego alone', references.ego_alone)
    for attack, by_liars in trust.attacks.items():
        line(attack, by_liars[name])
    console.print(table)
