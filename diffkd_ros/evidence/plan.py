# SPDX-License-Identifier: Apache-2.0
"""An experiment of many trainings and measurements as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffkd_ros.documents import read_config
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition, make_conditions
from diffkd_ros.sources.source import Source
from diffkd_ros.training.checkpoint import CHECKPOINT
from diffkd_ros.training.recipe import Recipe, Stage, load_recipe


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


class Training(_Section):
    """One network, as a change to the base recipe."""

    after: str | None = Field(None, description='Training whose checkpoint it starts from.')
    stages: list[str] = Field(min_length=1, description="Names of the base recipe's stages.")
    change: dict[str, Any] = Field(
        default_factory=dict, description="Differences from the base recipe: sections as in a recipe's file."
    )


class Row(_Section):
    """One line of the table."""

    training: str
    label: str = Field(description='Name in the table.')
    cooperation: Literal['intermediate', 'late', 'early', 'none'] = 'intermediate'


class Conditions(_Section):
    """What is measured, in terms of the options of `diffkd evaluate`."""

    source: str = 'sim'
    scenarios: int = Field(25, ge=1)
    frames_per_scenario: int = Field(4, ge=1)
    corruptions: str = 'all'
    severity: str = 'all'
    agents: str = 'default'
    seeds: str = '0'

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
        """The conditions, the references first.

        Raises:
            EvaluationError: if a value is unknown or has no such level.
            CorruptionError: if a corruption is unknown.
        """
        return make_conditions(self.corruptions, self.severity, self.agents, self.seeds)


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
    trainings: dict[str, Training] = Field(min_length=1)
    rows: dict[str, Row] = Field(min_length=1)
    conditions: Conditions = Field(default_factory=Conditions)
    reference: str = Field(description='Row that the mRCE of the others is compared with.')
    subject: str = Field(description='Row of the method.')
    steps: Steps | None = None
    reliability: Reliability | None = None

    @model_validator(mode='after')
    def _names_are_known(self) -> Plan:
        wanted = {row.training for row in self.rows.values()}
        wanted |= {training.after for training in self.trainings.values() if training.after is not None}
        if self.steps is not None:
            wanted.add(self.steps.training)
        unknown = sorted(wanted - set(self.trainings))
        if unknown:
            raise ValueError(f'no training {", ".join(unknown)}')
        rows = {self.reference, self.subject} | ({self.reliability.row} if self.reliability else set())
        if rows - set(self.rows):
            raise ValueError(f'no row {", ".join(sorted(rows - set(self.rows)))}')
        return self


@dataclass(frozen=True)
class Experiment:
    """A plan and the recipes of its trainings.

    Attributes:
        plan: as read.
        recipes: by name of the training, in an order in which they can be run.
    """

    plan: Plan
    recipes: dict[str, Recipe]


def load_experiment(path: Path, out: Path) -> Experiment:
    """Read a plan.

    Args:
        path: of the plan.
        out: folder of the trainings and their checkpoints.

    Raises:
        DiffkdError: if the plan is missing, not YAML, or not valid.
        RecipeError: if the base recipe or a change to it is not valid.
    """
    plan = read_config(path, Plan)
    base = load_recipe(path.parent / plan.base)
    after = {name: [t.after] if t.after else [] for name, t in plan.trainings.items()}
    try:
        order = list(TopologicalSorter(after).static_order())
    except CycleError as error:
        raise DiffkdError(f'{path}: trainings {", ".join(error.args[1])} wait for each other') from error
    return Experiment(plan, {name: _recipe(name, plan, base, out) for name in order})


def checkpoint_of(training: str, out: Path) -> Path:
    """The checkpoint file of a training."""
    return out / 'trainings' / training / CHECKPOINT


def _recipe(name: str, plan: Plan, base: Recipe, out: Path) -> Recipe:
    training = plan.trainings[name]
    stages: dict[str, Stage] = {stage.name: stage for stage in base.stages}
    missing = [stage for stage in training.stages if stage not in stages]
    if missing:
        raise DiffkdError(f'training {name}: the base recipe has no stage {", ".join(missing)}')
    content = _merged(base.model_dump(mode='json'), training.change)
    content['name'] = name
    content['stages'] = [stages[stage].model_dump() for stage in training.stages]
    if training.after is not None:
        content['initial'] = str(checkpoint_of(training.after, out))
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise DiffkdError(f'training {name}: {error}') from error


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        inner = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged
