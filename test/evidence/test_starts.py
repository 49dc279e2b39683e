# SPDX-License-Identifier: Apache-2.0
"""Trainings go on only from the checkpoints that they have started from."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('lightning', reason='trainings need the train extra')

from small_recipe import small_recipe

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evidence.starts import STARTS, note_starts
from diffkd_ros.evidence.trainings import checkpoint_of
from diffkd_ros.training.recipe import Recipe


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def run(name: str, initial: str) -> Recipe:
    return small_recipe('student').model_copy(update={'name': name, 'initial': initial})


def test_a_checkpoint_from_elsewhere_may_go_but_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, recipes = tmp_path / 'start', [run('one', '$START'), small_recipe('teacher')]
    monkeypatch.setenv('START', str(start))
    note_starts(recipes, tmp_path)
    written(start, b'first')
    note_starts(recipes, tmp_path)
    # Nothing was trained from it yet.
    written(start, b'second')
    note_starts(recipes, tmp_path)
    written(checkpoint_of('one', tmp_path), b'')
    note_starts(recipes, tmp_path)
    start.unlink()
    note_starts(recipes, tmp_path)
    monkeypatch.delenv('START')
    note_starts(recipes, tmp_path)
    monkeypatch.setenv('START', str(written(start, b'third')))
    with pytest.raises(DiffkdError, match=f'one in {tmp_path} has started from .* than {start}; give that'):
        note_starts(recipes, tmp_path)


def test_a_training_of_the_folder_is_not_trained_again_under_those_that_follow_it(tmp_path: Path) -> None:
    teacher = written(checkpoint_of('teacher', tmp_path), b'first')
    recipes = [run('student', str(teacher))]
    note_starts(recipes, tmp_path)
    written(checkpoint_of('student', tmp_path), b'')
    note_starts(recipes, tmp_path)
    teacher.unlink()
    with pytest.raises(DiffkdError, match='has started from another checkpoint'):
        note_starts(recipes, tmp_path)


@pytest.mark.parametrize('content', [b'{', b'[]', b'\xff'])
def test_damaged_notes_are_refused(tmp_path: Path, content: bytes) -> None:
    written(tmp_path / STARTS, content)
    with pytest.raises(DiffkdError, match=STARTS):
        note_starts([], tmp_path)
