# SPDX-License-Identifier: Apache-2.0
"""An experiment of many trainings and measurements as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from diffkd_ros.documents import read_config
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.conditions import Condition, make_conditions
from diffkd_ros.evidence.trainings import Experiment, Section, Trainings, make_experiment
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.sources.source import Source


class Line(Section):
    """A line of tables: a training of the plan, or an existing model."""

    training: str | None = None
    model: str | None = Field(None, description='Model folder, or name of a shipped model.')
    label: str = Field(description='Name in tables and plots.')

    @model_validator(mode='after')
    def _has_one_model(self) -> Line:
        if (self.training is None) == (self.model is None):
            raise ValueError(f'{self.label}: give either a training or a model')
        if self.model is not None:
            try:
                model_folder(self.model)
            except DiffkdError as error:
                raise ValueError(str(error)) from error
        return self


class Row(Line):
    """A line of the study, and its way to cooperate."""

    cooperation: Literal['intermediate', 'late', 'early', 'none', 'layered'] = 'intermediate'


class Levels(Section):
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


class Plan(Trainings):
    """The whole experiment."""

    rows: dict[str, Row] = Field(min_length=1)
    conditions: Conditions = Field(default_factory=Conditions)
    reference: str = Field(description='Row that the mRCE of the others is compared with.')
    subject: str = Field(description='Row of the method.')
    worlds: dict[str, Conditions] = Field({}, description='Further frames that all rows are measured on.')
    intensity: Forced | None = Field(None, description='One row under each of several intensity laws.')
    sensors: Forced | None = Field(None, description='One row with each of several sensors.')
    steps: Steps | None = None
    reliability: Reliability | None = None

    @property
    def lines(self) -> Mapping[str, str | None]:
        """The training of each row."""
        return {name: row.training for name, row in self.rows.items()}

    def forced(self, section: Literal['intensity', 'sensors']) -> dict[str, tuple[str, Conditions]]:
        """Row and conditions of the measurements of a section, by the name of the law or sensor."""
        wanted: Forced | None = getattr(self, section)
        if wanted is None:
            return {}
        parts = wanted.parts(section.removesuffix('s'))
        return {name: (wanted.row, part) for name, part in parts.items()}

    @model_validator(mode='after')
    def _names_are_known(self) -> Plan:
        self.require(row.training for row in self.rows.values())
        self.require([self.steps.training if self.steps else None])
        sections = (self.reliability, self.intensity, self.sensors)
        rows = {self.reference, self.subject, *(section.row for section in sections if section is not None)}
        if rows - set(self.rows):
            raise ValueError(f'no row {", ".join(sorted(rows - set(self.rows)))}')
        try:
            self.forced('intensity'), self.forced('sensors')
        except DiffkdError as error:
            raise ValueError(str(error)) from error
        return self


def load_experiment(path: Path, out: Path, rows: Sequence[str] = ()) -> Experiment[Plan]:
    """Read a plan.

    Args:
        path: of the plan.
        out: folder of the trainings and their checkpoints.
        rows: that are asked for; all by default.

    Raises:
        DiffkdError: if the plan is missing, not YAML, or not valid, or has no such row.
        RecipeError: if the base recipe or a change to it is not valid.
    """
    return make_experiment(read_config(path, Plan), path, out, rows)
