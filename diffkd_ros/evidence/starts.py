# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that the runs of an experiment's folder have started from, by their hashes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from diffkd_ros.documents import read_json_object
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evidence.trainings import checkpoint_of
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.card import sha256
from diffkd_ros.training.frames import expand
from diffkd_ros.training.recipe import Recipe, RecipeError

STARTS = 'starts.json'
"""File in the folder of an experiment."""


def note_starts(recipes: Iterable[Recipe], out: Path) -> None:
    """Check that runs go on from the checkpoints that they have started from, and note those of new runs.

    Runs whose checkpoint to start from is not there yet are left for a later call.

    Args:
        recipes: of the runs, which are named by them.
        out: folder of the experiment.

    Raises:
        DiffkdError: if a run in the folder has started from another checkpoint, or `STARTS` is not readable.
    """
    path = out / STARTS
    noted = read_json_object(path) if path.exists() else {}
    digest = cache(_digest)
    for recipe in recipes:
        if recipe.initial is None:
            continue
        now, before = digest(recipe.initial), noted.get(recipe.name)
        # Nothing goes on from a missing one, unless it is one of the folder, which would be trained again.
        changed = before not in (None, now) and (now is not None or out in Path(recipe.initial).parents)
        if changed and checkpoint_of(recipe.name, out).exists():
            raise DiffkdError(
                f'training {recipe.name} in {out} has started from another checkpoint than '
                f'{_where(recipe.initial)}; give that one, or choose another folder'
            )
        if now is not None:
            noted[recipe.name] = now
    write_json(path, noted)


def _digest(initial: str) -> str | None:
    with suppress(OSError, RecipeError):
        return sha256(expand(initial))
    return None


def _where(initial: str) -> str:
    with suppress(RecipeError):
        return str(expand(initial))
    return initial
