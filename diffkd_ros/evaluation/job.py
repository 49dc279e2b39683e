# SPDX-License-Identifier: Apache-2.0
"""One job of an evaluation: one scenario under some of the conditions.

Its frames are sensed and encoded once for all of the conditions. A job reads the source and the model, and
returns its results; the process that started the run writes them.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffkd_ros.corruptions import CorruptionError
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.cooperation import Cooperation
from diffkd_ros.evaluation.deceived import DeceivedPerceiver
from diffkd_ros.evaluation.model import CleanFrame
from diffkd_ros.evaluation.pipeline import Perceiver, needed_frames, score
from diffkd_ros.evaluation.plan import Plan, forget_models
from diffkd_ros.metrics.frame_results import FrameResults, join
from diffkd_ros.runtime.model_folder import portable_name
from diffkd_ros.sources.source import forget_scenarios
from diffkd_ros.workers import Advance

Reasons = dict[str, str]
"""Why a frame was left out, by `condition/scenario/position`."""


@dataclass(frozen=True, slots=True)
class Job:
    """Some conditions to be run on the scenario of a number."""

    number: int
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a job gives.

    Attributes:
        drive: name of the scenario.
        conditions: those of the job.
        results: of the frames scored, by condition; without those of which no frame was scored.
        left_out: frames that could not be run, by condition.
        judged: who lied and who was taken for a liar, by condition and position.
        parts: what the source left out of the scored frames, by reason, with counts.
    """

    drive: str
    conditions: tuple[Condition, ...]
    results: Mapping[Condition, FrameResults]
    left_out: Mapping[Condition, Reasons]
    judged: Mapping[Condition, Mapping[str, Any]]
    parts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Work:
    """Runs jobs of a plan; a `workers.Task`.

    Attributes:
        plan: as settled.
        card: content of the model's card, checked by `prepare`.
        scenarios: digest of the names of the scenarios, checked by `prepare`.
    """

    plan: Plan
    card: Mapping[str, Any] = field(default_factory=dict)
    scenarios: str = ''

    def __call__(self, job: Job, advance: Advance) -> Finished:
        """Run a job."""
        return _run_job(self.plan, job, advance)

    def elsewhere(self) -> Work:
        """With absolute paths, a shipped model by its name, and what `prepare` checks."""
        plan = self.plan
        model = Path(portable_name(plan.model))
        portable = replace(plan, source=plan.source.absolute(), model=model)
        return Work(portable, plan.open().model.card.model_dump(), _digest(plan.source.names()))

    def prepare(self) -> None:
        """Open source and models anew, and check that they are those of the process that started the run."""
        forget_models()
        forget_scenarios()
        if self.plan.open().model.card.model_dump() != self.card:
            raise DiffkdError(f'{self.plan.model} holds another model than where the run was started')
        if _digest(self.plan.source.names()) != self.scenarios:
            raise DiffkdError(f'{self.plan.source.spec} has other scenarios than where the run was started')
        if self.plan.optimiser is not None:
            self.plan.optimiser.prepare()


def _digest(names: list[str]) -> str:
    return hashlib.sha256('\n'.join(names).encode(errors='backslashreplace')).hexdigest()


def _perceiver(plan: Plan, job: Job, cooperation: Cooperation, condition: Condition) -> Perceiver:
    if condition.liars is None:
        return Perceiver(cooperation, condition, plan.budget, plan.plausibility)
    drive, elsewhere = (partial(plan.source.scenario, job.number + other) for other in (0, 1))
    return DeceivedPerceiver(
        cooperation,
        condition,
        condition.liars,
        drive,
        elsewhere,
        plan.budget,
        plan.optimiser,
        plan.plausibility,
    )


def _run_job(plan: Plan, job: Job, advance: Advance) -> Finished:
    cooperation, drive, protocol = plan.open(), plan.source.scenario(job.number), plan.protocol
    perceivers = {each: _perceiver(plan, job, cooperation, each) for each in job.conditions}
    results: dict[Condition, list[FrameResults]] = defaultdict(list)
    left_out: dict[Condition, Reasons] = defaultdict(dict)
    judged: dict[Condition, dict[str, Any]] = defaultdict(dict)
    parts: Counter[str] = Counter()
    positions = plan.positions(drive)
    needed = {each: dict(needed_frames(positions, perceivers[each].history)) for each in job.conditions}
    longest = max(perceiver.history for perceiver in perceivers.values())
    for position, scored in needed_frames(positions, longest):
        try:
            frame = drive.frame(position)
            if scored:
                protocol.truth(frame)
        except (DiffkdError, ValueError) as error:
            if scored:
                for condition in job.conditions:
                    left_out[condition][f'{condition.name}/{drive.name}/{position}'] = str(error)
            continue
        if scored:
            parts.update(frame.left_out)
        clean = CleanFrame(frame)
        for condition, perceiver in perceivers.items():
            if position not in needed[condition]:
                continue
            advance(0)
            try:
                sensed = perceiver.take(clean)
                if scored:
                    perception = perceiver.perceive(clean, sensed)
                    results[condition].append(score(frame, perception, protocol))
                    if perception.judgement:
                        judged[condition][str(position)] = asdict(perception.judgement)
                    advance(1)
                else:
                    perceiver.remember(clean, sensed)
            except CorruptionError as error:
                if scored:
                    left_out[condition][f'{condition.name}/{drive.name}/{position}'] = str(error)
    return Finished(
        drive.name,
        job.conditions,
        {condition: join(scored) for condition, scored in results.items()},
        dict(left_out),
        dict(judged),
        dict(parts),
    )
