# SPDX-License-Identifier: Apache-2.0
"""An experiment of many trainings and measurements as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffkd_ros.documents import explained, read_config
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition, make_conditions
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.sources.source import Source
from diffkd_ros.training.checkpoint import CHECKPOINT
from diffkd_ros.training.recipe import Recipe, Stage, load_recipe

# Simulator seeds 2 and 3 are those of validation and evaluation.
_SEED_STEP = 100


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


class Training(_Section):
    """One network, as a change to the base recipe."""

    after: str | None = Field(None, description='Training whose checkpoint it starts from.')
    stages: list[str] = Field(min_length=1, description="Names of the base recipe's stages.")
    change: dict[str, Any] = Field(
        default_factory=dict, description="Differences from the base recipe: sections as in a recipe's file."
    )
    seeds: int = Field(
        1,
        ge=1,
        le=9,
        description='Number of runs, each with other weights at the start and other training frames; as many '
        'as of the training that it starts from, unless that has only one.',
    )


class Row(_Section):
    """One line of the table: a training of the plan, or an existing model."""

    training: str | None = None
    model: str | None = Field(None, description='Model folder, or name of a shipped model.')
    label: str = Field(description='Name in the table.')
    cooperation: Literal['intermediate', 'late', 'early', 'none'] = 'intermediate'

    @model_validator(mode='after')
    def _has_one_model(self) -> Row:
        if (self.training is None) == (self.model is None):
            raise ValueError(f'row {self.label}: give either a training or a model')
        if self.model is not None:
            try:
                model_folder(self.model)
            except DiffkdError as error:
                raise ValueError(str(error)) from error
        return self


class Levels(_Section):
    """Corruptions, in terms of the options of `diffkd evaluate`."""

    corruptions: str = 'all'
    severity: str = 'all'
    agents: str = 'default'
    seeds: str = '0'

    def levels(self) -> list[Condition]:
        """The conditions, the references first.

        Raises:
            EvaluationError: if a value is unknown or has no such level.
            CorruptionError: if a corruption is unknown.
        """
        return make_conditions(self.corruptions, self.severity, self.agents, self.seeds)


class Conditions(Levels):
    """What is measured, in terms of the options of `diffkd evaluate`."""

    source: str = 'sim'
    scenarios: int = Field(25, ge=1)
    frames_per_scenario: int = Field(4, ge=1)
    more: list[Levels] = Field([], description='Further corruptions of the same frames.')

    @model_validator(mode='after')
    def _can_be_measured(self) -> Conditions:
        # Fail before the trainings rather than after them.
        try:
            self.frames().names()
            self.levels()
        except DiffkdError as error:
            raise ValueError(str(error)) from error
        return self

    def frames(self) -> Source:
        """The frames to evaluate.

        Raises:
            EvaluationError: if there is no such source.
        """
        return Source(self.source, self.scenarios, self.frames_per_scenario)

    def levels(self) -> list[Condition]:
        """All conditions, the references first; raises as `Levels.levels` does."""
        every = [*super().levels(), *(level for part in self.more for level in part.levels())]
        return list(dict.fromkeys(every))


class Forced(Conditions):
    """One row on simulated frames in which all agents have each of several sensors or intensity laws."""

    row: str
    names: list[str] = Field(min_length=1, description='Names of the sensors or laws.')
    corruptions: str = 'none'

    def parts(self, option: str) -> dict[str, Conditions]:
        """The measurement of each name, given as this option of the source.

        Raises:
            DatasetError: if the source does not take one of them.
        """
        start = self.source + (',' if ':' in self.source else ':')
        parts: dict[str, Conditions] = {
            name: self.model_copy(update={'source': f'{start}{option}={name}'}) for name in self.names
        }
        for part in parts.values():
            part.frames()
        return parts


class Steps(Conditions):
    """Settings of the sampler, measured on one training without retraining."""

    training: str
    starts: list[Literal['truncated', 'pure', 'matched']] = Field(min_length=1)
    steps: list[int] = Field(min_length=1)


class Reliability(Conditions):
    """Fusion weights of one row when the ego is corrupted."""

    row: str


class Plan(_Section):
    """The whole experiment."""

    base: str = Field(description="Recipe that trainings change; a path relative to the plan's folder.")
    change: dict[str, Any] = Field(
        default_factory=dict, description='Differences of all trainings from the base recipe.'
    )
    trainings: dict[str, Training] = {}
    rows: dict[str, Row] = Field(min_length=1)
    conditions: Conditions = Field(default_factory=Conditions)
    reference: str = Field(description='Row that the mRCE of the others is compared with.')
    subject: str = Field(description='Row of the method.')
    worlds: dict[str, Conditions] = Field({}, description='Further frames that all rows are measured on.')
    intensity: Forced | None = Field(None, description='One row under each of several intensity laws.')
    sensors: Forced | None = Field(None, description='One row with each of several sensors.')
    steps: Steps | None = None
    reliability: Reliability | None = None

    def only(self, rows: Sequence[str]) -> Plan:
        """The part of the plan that concerns these rows.

        The first of them replaces a subject or reference that is not among them.

        Raises:
            DiffkdError: if there is no such row.
        """
        if unknown := [row for row in rows if row not in self.rows]:
            raise DiffkdError(f'no row {", ".join(unknown)}; the plan has {", ".join(self.rows)}')
        chosen = {name: row for name, row in self.rows.items() if name in rows}
        needed: set[str] = set()
        for training in (row.training for row in chosen.values()):
            while training is not None and training not in needed:
                needed.add(training)
                training = self.trainings[training].after
        sections = ('intensity', 'sensors', 'reliability')
        used = {row.training for row in chosen.values()}
        changes: dict[str, Any] = {
            name: part if (part := getattr(self, name)) is not None and part.row in chosen else None
            for name in sections
        }
        changes |= {
            name: row if (row := getattr(self, name)) in chosen else next(iter(chosen))
            for name in ('subject', 'reference')
        }
        trainings = {name: training for name, training in self.trainings.items() if name in needed}
        steps = self.steps if self.steps is not None and self.steps.training in used else None
        return self.model_copy(update={**changes, 'rows': chosen, 'trainings': trainings, 'steps': steps})

    def forced(self, section: Literal['intensity', 'sensors']) -> dict[str, tuple[str, Conditions]]:
        """Row and conditions of the measurements of a section, by the name of the law or sensor."""
        wanted: Forced | None = getattr(self, section)
        if wanted is None:
            return {}
        parts = wanted.parts(section.removesuffix('s'))
        return {name: (wanted.row, part) for name, part in parts.items()}

    @model_validator(mode='after')
    def _names_are_known(self) -> Plan:
        wanted = {row.training for row in self.rows.values()}
        wanted |= {training.after for training in self.trainings.values()}
        wanted |= {self.steps.training if self.steps else None}
        unknown = sorted({name for name in wanted if name is not None} - set(self.trainings))
        if unknown:
            raise ValueError(f'no training {", ".join(unknown)}')
        sections = (self.reliability, self.intensity, self.sensors)
        rows = {self.reference, self.subject, *(section.row for section in sections if section is not None)}
        if rows - set(self.rows):
            raise ValueError(f'no row {", ".join(sorted(rows - set(self.rows)))}')
        try:
            self.forced('intensity'), self.forced('sensors')
        except DiffkdError as error:
            raise ValueError(str(error)) from error
        runs = [run for training in self.trainings for run in self.runs_of(training)]
        if twice := sorted({run for run in runs if runs.count(run) > 1}):
            raise ValueError(f'two runs would be named {", ".join(twice)}')
        for name, training in self.trainings.items():
            before = 1 if training.after is None else self.trainings[training.after].seeds
            if before not in (1, training.seeds):
                raise ValueError(
                    f'training {name} has {training.seeds} seeds, but {training.after}, its start, '
                    f'has {before}'
                )
        return self

    def runs_of(self, training: str) -> list[str]:
        """Names of the runs of a training, one for each seed."""
        others = range(2, self.trainings[training].seeds + 1)
        return [training, *(f'{training}_seed{number}' for number in others)]


@dataclass(frozen=True)
class Experiment:
    """A plan and the recipes of its runs.

    Attributes:
        plan: as read.
        recipes: by name of the run, in an order in which they can be run.
        after: the run that each run starts from, None for none.
    """

    plan: Plan
    recipes: dict[str, Recipe]
    after: dict[str, str | None]


def load_experiment(path: Path, out: Path, rows: Sequence[str] = ()) -> Experiment:
    """Read a plan.

    Args:
        path: of the plan.
        out: folder of the trainings and their checkpoints.
        rows: leave out everything that does not concern these rows; all by default.

    Raises:
        DiffkdError: if the plan is missing, not YAML, or not valid, or has no such row.
        RecipeError: if the base recipe or a change to it is not valid.
    """
    plan = read_config(path, Plan)
    plan = plan.only(rows) if rows else plan
    base = _changed(load_recipe(path.parent / plan.base), plan.change, 'change')
    trainings = {name: [t.after] if t.after else [] for name, t in plan.trainings.items()}
    try:
        order = list(TopologicalSorter(trainings).static_order())
    except CycleError as error:
        raise DiffkdError(f'{path}: trainings {", ".join(error.args[1])} wait for each other') from error
    recipes: dict[str, Recipe] = {}
    after: dict[str, str | None] = {}
    for training in order:
        start = plan.trainings[training].after
        before = [None] if start is None else plan.runs_of(start)
        for number, run in enumerate(plan.runs_of(training)):
            after[run] = previous = before[min(number, len(before) - 1)]
            initial = None if previous is None else checkpoint_of(previous, out)
            recipes[run] = _recipe(run, number, plan.trainings[training], base, initial)
    return Experiment(plan, recipes, after)


def checkpoint_of(run: str, out: Path) -> Path:
    """The checkpoint file of a run."""
    return out / 'trainings' / run / CHECKPOINT


def _recipe(run: str, number: int, training: Training, base: Recipe, initial: Path | None) -> Recipe:
    stages: dict[str, Stage] = {stage.name: stage for stage in base.stages}
    missing = [stage for stage in training.stages if stage not in stages]
    if missing:
        raise DiffkdError(f'training {run}: the base recipe has no stage {", ".join(missing)}')
    own: dict[str, Any] = {
        'name': run,
        'stages': [stages[stage].model_dump() for stage in training.stages],
        'initial': base.initial if initial is None else str(initial),
    }
    recipe = _changed(base, _merged(training.change, own), f'training {run}')
    data = recipe.data.model_copy(update={'train_seed': recipe.data.train_seed + _SEED_STEP * number})
    return recipe.model_copy(update={'seed': recipe.seed + number, 'data': data})


def _changed(recipe: Recipe, change: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(_merged(recipe.model_dump(mode='json'), change))
    except ValidationError as error:
        raise DiffkdError(f'{where}: {explained(error, Recipe)}') from error


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged
