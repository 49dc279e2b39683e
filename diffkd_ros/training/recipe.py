# SPDX-License-Identifier: Apache-2.0
"""A training run as one YAML file, typed and validated."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffkd_ros.model.student import StudentConfig
from diffkd_ros.sources.simulator import SimulatorConfig


class RecipeError(ValueError):
    """A recipe file that is not valid; the message names the key and, if one is near, what was meant."""


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class Data(_Section):
    """Where frames come from. Scenarios of different seeds share nothing."""

    simulator: SimulatorConfig = Field(default_factory=SimulatorConfig)
    train_seed: int = Field(1, description='Simulator seed of the training scenarios.')
    validation_seed: int = Field(2, description='Simulator seed of the held-out scenarios.')
    validation_scenarios: int = Field(10, ge=1, description='Held-out scenarios scored after training.')
    validation_frames: int = Field(5, ge=1, description='Frames of each, evenly spaced.')
    batch: int = Field(4, ge=1, description='Frames per step.')
    workers: int = Field(1, ge=0, description='Processes that simulate.')
    min_points: int = Field(
        5, ge=1, description='Vehicles with fewer returns are neither target nor clutter.'
    )
    drop_neighbours: float = Field(
        0.25, ge=0, le=1, description='Share of frames that keep only some of the neighbours.'
    )


class Weights(_Section):
    """Weights of the loss terms."""

    heatmap: float = Field(1.0, ge=0, description='Focal loss on box centres.')
    regression: float = Field(1.0, ge=0, description='Smooth L1 on boxes.')
    feature: float = Field(1.0, ge=0, description='PKD (b): fused feature to the teacher.')
    prediction: float = Field(0.5, ge=0, description='PKD (b): heat map and boxes to the teacher.')
    diffusion: float = Field(1.0, ge=0, description='PKD (a): predicted clean latent to the teacher.')
    autoencoder: float = Field(1.0, ge=0, description='PKD (a): reconstruction through the latent.')
    projection: float = Field(0.1, ge=0, description='PKD (a): observed feature into the latent.')
    reliability: float = Field(
        0.1, ge=0, description='AGF: ego reliability to its distance from the teacher.'
    )


class Stage(_Section):
    """One stage of the progression."""

    name: Literal['teacher', 'student', 'diffuser', 'joint']
    steps: int = Field(ge=1)
    learning_rate: float = Field(1e-3, gt=0, description='Peak of the one-cycle schedule.')


class Recipe(_Section):
    """A whole run: `diffkd train FILE` reproduces the model."""

    name: str = Field(pattern=r'^[a-z0-9_]+$', description='Name of the model folder.')
    description: str = Field(description='For the model card.')
    seed: int = 0
    model: StudentConfig = Field(default_factory=StudentConfig)
    data: Data = Field(default_factory=Data)
    weights: Weights = Field(default_factory=Weights)
    stages: list[Stage] = Field(min_length=1)
    weight_decay: float = Field(1e-4, ge=0)
    gradient_clip: float = Field(10.0, gt=0)
    min_score: float = Field(0.1, ge=0, le=1, description='Score threshold written into the card.')


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: if the file is missing, not YAML, or has an unknown key or a bad value.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f'{path}: {error}') from error
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [_explain(problem['loc'], problem['type'], problem['msg']) for problem in error.errors()]
        raise RecipeError(f'{path}: ' + '; '.join(problems)) from error


def _known_keys(model: type[BaseModel]) -> set[str]:
    keys = set(model.model_fields)
    for info in model.model_fields.values():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys |= _known_keys(annotation)
    return keys


def _explain(location: tuple[int | str, ...], kind: str, message: str) -> str:
    where = '.'.join(str(part) for part in location)
    if kind not in ('extra_forbidden', 'unexpected_keyword_argument'):
        return f'{where}: {message}'
    known = _known_keys(Recipe) | _known_keys(Stage) | set(StudentConfig.__dataclass_fields__)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f'unknown key {where}' + (f', did you mean {near[0]}?' if near else '')
