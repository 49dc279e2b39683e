# SPDX-License-Identifier: Apache-2.0
"""Clouds from which the ranges of a quantised encoder follow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from diffkd_ros.runtime.card import ModelCard, ModelError
from diffkd_ros.training.data import training_batches
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.validation import grid_of

CLOUDS = 48
_SPACING = 4  # samples of one frame are similar


def recipe_of(card: ModelCard) -> Recipe:
    """The recipe by which a model was trained.

    Raises:
        ModelError: if its card does not have it.
    """
    try:
        own = card.training['recipe'] | {'description': card.description, 'initial': None}
        return Recipe.model_validate(own)
    except (KeyError, TypeError, ValidationError) as error:
        raise ModelError(f'the card of {card.name} has no recipe that this version knows') from error


def calibration_clouds(recipe: Recipe, count: int = CLOUDS) -> list[NDArray[np.float32]]:
    """Agents' clouds (p, 4) of the recipe's first training samples, corrupted as in training.

    Raises:
        DatasetError: if a data set of the recipe cannot be read.
    """
    clouds = itertools.islice(_training_clouds(recipe), 0, None, _SPACING)
    return list(itertools.islice(clouds, count))


def _training_clouds(recipe: Recipe) -> Iterator[NDArray[np.float32]]:
    data = recipe.data.model_copy(update={'workers': 0})
    for batch in training_batches(data, grid_of(recipe), 0, range(CLOUDS * _SPACING), clean=False):
        yield from (points.numpy() for points in batch.agents.points.split(batch.agents.sizes.tolist()))
