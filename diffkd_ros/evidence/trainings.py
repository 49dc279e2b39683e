# SPDX-License-Identifier: Apache-2.0
"""The trainings of a plan, as changes to one recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffkd_ros.documents import explained
from diffkd_ros.errors import DiffkdError
from diffkd_ros.training.checkpoint import CHECKPOINT
from diffkd_ros.training.recipe import Recipe, Stage, load_recipe

# Simulator seeds 2 and 3 are those of validation and evaluation.
_SEED_STEP = 100


class Section(BaseModel):
    """A part of a plan's file."""

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)


class Training(Section):
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


class Trainings(Section):
    """The trainings of a plan and what they have in common."""

    base: str = Field(description="Recipe that trainings change; a path relative to the plan's folder.")
    change: dict[str, Any] = Field(
        default_factory=dict, description='Differences of all trainings from the base recipe.'
    )
    trainings: dict[str, Training] = {}

    @property
    def lines(self) -> Mapping[str, str | None]:
        """The training of each line of the tables, which may be asked for by its name; None for none."""
        raise NotImplementedError

    @model_validator(mode='after')
    def _runs_are_known(self) -> Trainings:
        self.require(training.after for training in self.trainings.values())
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

    def require(self, names: Iterable[str | None]) -> None:
        """Check that there are these trainings; None stands for no training.

        Raises:
            ValueError: if there is no such training.
        """
        unknown = sorted({name for name in names if name is not None} - set(self.trainings))
        if unknown:
            raise ValueError(f'no training {", ".join(unknown)}')

    def needed(self, names: Iterable[str | None]) -> set[str]:
        """These trainings and those that they start from."""
        needed: set[str] = set()
        for training in names:
            while training is not None and training not in needed:
                needed.add(training)
                training = self.trainings[training].after
        return needed

    def runs_of(self, training: str) -> list[str]:
        """Names of the runs of a training, one for each seed."""
        others = range(2, self.trainings[training].seeds + 1)
        return [training, *(f'{training}_seed{number}' for number in others)]


PlanT = TypeVar('PlanT', bound=Trainings)


@dataclass(frozen=True)
class Experiment(Generic[PlanT]):
    """A plan and the recipes of its runs.

    Attributes:
        plan: as read.
        recipes: by name of the run, in an order in which they can be run.
        after: the run that each run starts from, None for none.
        asked: names of the lines that are to be run; of the others, earlier results are kept.
        runs: what these lines need, in the order of `recipes`.
    """

    plan: PlanT
    recipes: dict[str, Recipe]
    after: dict[str, str | None]
    asked: frozenset[str]
    runs: list[str]


def make_experiment(plan: PlanT, path: Path, out: Path, names: Sequence[str] = ()) -> Experiment[PlanT]:
    """Make the recipes of a plan.

    Args:
        plan: as read from `path`.
        path: of the plan.
        out: folder of the trainings and their checkpoints.
        names: of the lines that are asked for; all lines and all trainings by default.

    Raises:
        DiffkdError: if there is no such line, trainings wait for each other, or a change to the base recipe
            is not valid.
        RecipeError: if the base recipe is not valid.
    """
    lines = plan.lines
    if unknown := [name for name in names if name not in lines]:
        raise DiffkdError(f'no {", ".join(unknown)}; the plan has {", ".join(lines)}')
    needed = plan.needed(lines[name] for name in names) if names else plan.trainings
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
    runs = [run for run in recipes if any(run in plan.runs_of(training) for training in needed)]
    return Experiment(plan, recipes, after, frozenset(names or lines), runs)


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
        'new_restoration': base.new_restoration and initial is None,
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
