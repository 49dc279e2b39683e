# SPDX-License-Identifier: Apache-2.0
"""A study of the layered message as one YAML file: AP over bytes, over losses, and without parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from diffkd_ros.documents import read_config, read_yaml
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition
from diffkd_ros.evidence.plan import Conditions, Levels
from diffkd_ros.evidence.trainings import Experiment, Section, Trainings, make_experiment
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET

LINK = 'link'
"""Value of the key `study` in a plan of this kind."""

Bytes = Annotated[int, Field(ge=0, le=10**9)]


class Curve(Section):
    """A way to cooperate, measured over bytes."""

    training: str
    label: str = Field(description='Name in plots and tables.')
    cooperation: Literal['layered', 'intermediate', 'late'] = 'intermediate'
    budgets: list[Bytes] = Field(
        min_length=1, description='Most bytes of a sweep, the other fields of its messages included.'
    )


class Arm(Section):
    """A receiver of layered messages, measured over losses."""

    training: str
    label: str = Field(description='Name in plots and tables.')
    steps: int | None = Field(
        None, ge=1, description='Of the sampler, for a training that is measured with other than its own.'
    )


class LinkPlan(Trainings):
    """The whole study.

    Ways to cooperate and arms are measured on the same frames, clean and under the corruptions of `frames`.
    """

    study: Literal['link']
    frames: Conditions
    rate: dict[str, Curve] = Field(description='AP over bytes.')
    late: str = Field(description='The way to cooperate in `rate` that the layered one is compared with.')
    arms: dict[str, Arm] = Field(min_length=1, description='AP over losses.')
    reference: str = Field(description='The arm that the others are compared with.')
    losses: Levels = Field(description='Link corruptions that the arms are measured under.')
    budget: Bytes = Field(DEFAULT_BUDGET, description='Most bytes of a sweep, for arms and parts.')
    parts: dict[str, str] = Field({}, description='Training without a part, by the name of the part.')
    complete: str = Field(description='The arm that has all parts.')

    @model_validator(mode='after')
    def _names_are_known(self) -> LinkPlan:
        self.require(each.training for each in self.rate.values())
        self.require(each.training for each in self.arms.values())
        self.require(self.parts.values())
        for name, known in (
            (self.late, self.rate), (self.reference, self.arms), (self.complete, self.arms)
        ):  # fmt: skip
            if name not in known:
                raise ValueError(f'no {name} among {", ".join(known)}')
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

    @property
    def labels(self) -> dict[str, str]:
        """Names of curves and arms in plots and tables."""
        curves = {name: curve.label for name, curve in self.rate.items()}
        return curves | {name: arm.label for name, arm in self.arms.items()}

    def only(self, names: Sequence[str]) -> LinkPlan:
        """The part of the plan that concerns these curves, arms and parts.

        The first of them replaces one that others are compared with and that is not among them.

        Raises:
            DiffkdError: if there is no such name, or no arm among them.
        """
        known = {*self.rate, *self.arms, *self.parts}
        if unknown := [name for name in names if name not in known]:
            raise DiffkdError(f'no {", ".join(unknown)}; the plan has {", ".join(sorted(known))}')
        sections: dict[str, Any] = {
            section: {name: part for name, part in getattr(self, section).items() if name in names}
            for section in ('rate', 'arms', 'parts')
        }
        if not sections['arms']:
            raise DiffkdError(f'no arm among {", ".join(names)}; the plan has {", ".join(self.arms)}')
        for key, section in (('late', 'rate'), ('reference', 'arms'), ('complete', 'arms')):
            if getattr(self, key) not in sections[section]:
                sections[key] = next(iter(sections[section]), '')
        chosen = [*sections['rate'].values(), *sections['arms'].values()]
        trainings = self.needed([*(each.training for each in chosen), *sections['parts'].values()])
        return self.model_copy(update={**sections, 'trainings': trainings})


def is_link_study(path: Path) -> bool:
    """Returns whether a plan's file is of this kind; False if it is not readable."""
    try:
        content = read_yaml(path)
    except DiffkdError:
        return False
    return isinstance(content, dict) and content.get('study') == LINK


def load_link_study(path: Path, out: Path, names: Sequence[str] = ()) -> Experiment[LinkPlan]:
    """Read a plan; arguments and errors are those of `load_experiment`."""
    plan = read_config(path, LinkPlan)
    return make_experiment(plan.only(names) if names else plan, path, out)
