# SPDX-License-Identifier: Apache-2.0
"""A study of the layered message as one YAML file: AP over bytes, over losses, and without parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffkd_ros.documents import read_config, read_yaml
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evaluation.cooperation import Plausibility
from diffkd_ros.evidence.plan import Conditions, Levels, Line
from diffkd_ros.evidence.trainings import Experiment, Trainings, make_experiment
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET

LINK = 'link'
"""Value of the key `study` in a plan of this kind."""

Bytes = Annotated[int, Field(ge=0, le=10**9)]


class Curve(Line):
    """A way to cooperate, measured over bytes."""

    cooperation: Literal['layered', 'intermediate', 'late'] = 'intermediate'
    budgets: list[Bytes] = Field(
        min_length=1, description='Most bytes of a sweep, the other fields of its messages included.'
    )
    against: list[str] = Field(
        [], description='Curves that it is compared with, at as many bytes or, of those measured, fewer.'
    )


class Arm(Line):
    """A receiver of layered messages, measured over losses."""

    steps: int | None = Field(
        None, ge=1, description='Of the sampler, for a training that is measured with other than its own.'
    )
    against: list[str] = Field([], description='Arms that it is compared with.')

    @model_validator(mode='after')
    def _has_a_recipe_for_its_steps(self) -> Arm:
        if self.steps is not None and self.training is None:
            raise ValueError(f'{self.label}: steps need a training, of which another model is exported')
        return self


class LinkPlan(Trainings):
    """The whole study.

    Ways to cooperate and arms are measured on the same frames, clean and under the corruptions of `frames`.
    """

    study: Literal['link']
    frames: Conditions
    rate: dict[str, Curve] = Field(description='AP over bytes.')
    arms: dict[str, Arm] = Field(min_length=1, description='AP over losses.')
    losses: Levels = Field(description='Link corruptions that the arms are measured under.')
    budget: Bytes = Field(DEFAULT_BUDGET, description='Most bytes of a sweep, for arms and parts.')
    parts: dict[str, str] = Field({}, description='Training without a part, by the name of the part.')
    plausibility: Plausibility = Field('sweep', description='Examination of layers.')
    complete: str = Field(description='The arm that has all parts.')

    @property
    def lines(self) -> Mapping[str, str | None]:
        """The training of each curve, arm and part; None for an existing model."""
        return {name: line.training for name, line in self._named.items()} | self.parts

    @property
    def labels(self) -> dict[str, str]:
        """Names of curves and arms in plots and tables."""
        return {name: line.label for name, line in self._named.items()}

    @property
    def _named(self) -> Mapping[str, Line]:
        return {**self.rate, **self.arms}

    @model_validator(mode='after')
    def _names_are_known(self) -> LinkPlan:
        self.require(self.lines.values())
        names = [*self.rate, *self.arms, *self.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f'several of rate, arms and parts are named {", ".join(twice)}')
        _require(self.rate, (other for curve in self.rate.values() for other in curve.against))
        _require(self.arms, (other for arm in self.arms.values() for other in arm.against))
        _require(self.arms, [self.complete])
        try:
            self.conditions()
        except DiffkdError as error:
            raise ValueError(str(error)) from error
        return self

    def conditions(self) -> list[Condition]:
        """What arms and parts are measured under.

        Raises:
            EvaluationError: if a value is unknown or has no such level.
            CorruptionError: if a corruption is unknown.
        """
        return list(dict.fromkeys([*self.frames.levels(), *self.losses.levels()]))


def _require(known: Mapping[str, Line], names: Iterable[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f'no {", ".join(unknown)} among {", ".join(known)}')


def is_link_study(path: Path) -> bool:
    """Returns whether a plan's file is of this kind; False if it is not readable."""
    try:
        content = read_yaml(path)
    except DiffkdError:
        return False
    return isinstance(content, dict) and content.get('study') == LINK


def load_link_study(path: Path, out: Path, names: Sequence[str] = ()) -> Experiment[LinkPlan]:
    """Read a plan; arguments and errors are those of `load_experiment`."""
    return make_experiment(read_config(path, LinkPlan), path, out, names)
