# SPDX-License-Identifier: Apache-2.0
"""A training stops at the first loss that is not finite and keeps the last finite checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_recipe import small_recipe
from torch import Tensor

from diffkd_ros.errors import DiffkdError
from diffkd_ros.training import loop, run
from diffkd_ros.training.catalogue import STAGES
from diffkd_ros.training.checkpoint import CHECKPOINT, Progress, save_checkpoint
from diffkd_ros.training.data import Batch
from diffkd_ros.training.finite import LossWatch
from diffkd_ros.training.loop import train
from diffkd_ros.training.recipe import Recipe
from diffkd_ros.training.stages import Losses, StudentStage


def losses(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_the_first_loss_that_is_not_finite_is_named() -> None:
    watch = LossWatch('joint')
    watch.check()
    watch.add(0, losses(heatmap=1.0, feature=2.0, total=3.0))
    watch.check()
    watch.add(1, losses(heatmap=1.0, feature=float('inf'), total=float('inf')))
    watch.add(2, losses(heatmap=float('nan'), feature=0.0, total=float('nan')))
    with pytest.raises(DiffkdError, match='stage joint, step 2: the loss feature is not finite'):
        watch.check()


def test_a_learning_rate_that_is_too_high_ends_the_training(tmp_path: Path) -> None:
    stages = [{'name': 'teacher', 'steps': 60, 'learning_rate': 1e6}, {'name': 'student', 'steps': 1}]
    recipe = small_recipe(stages=stages, gradient_clip=1e9, save_every=1)
    with pytest.raises(DiffkdError, match=r'not finite'):
        train(recipe, tmp_path)
    checkpoint = tmp_path / CHECKPOINT
    if checkpoint.exists():
        assert all(tensor.isfinite().all() for tensor in load_file(checkpoint).values())


def test_the_last_finite_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(StudentStage):
        """The third step gives NaN."""

        steps = 0

        def forward(self, batch: Batch) -> Losses:
            Broken.steps += 1
            found = super().forward(batch)
            return found | {'feature': found['feature'] * (float('nan') if Broken.steps == 3 else 1.0)}

    recipe = small_recipe('teacher', 'student', steps=8, save_every=2)
    monkeypatch.setitem(STAGES, 'student', Broken)
    monkeypatch.setattr(run, 'REPORT_EVERY', 100)
    with pytest.raises(DiffkdError, match='stage student, step 3: the loss feature is not finite'):
        train(recipe, tmp_path)
    assert Broken.steps <= 4  # it is noticed before the next checkpoint
    kept = load_file(tmp_path / CHECKPOINT)
    assert all(tensor.isfinite().all() for tensor in kept.values())
    monkeypatch.undo()
    monkeypatch.setattr(loop, 'MEASURED_BATCHES', 2)
    assert train(recipe, tmp_path) is not None
    assert train(Recipe.model_validate(recipe), tmp_path / 'unbroken') is not None
    resumed, unbroken = (load_file(folder / CHECKPOINT) for folder in (tmp_path, tmp_path / 'unbroken'))
    assert all(torch.equal(value, resumed[key]) for key, value in unbroken.items())


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    parts = {'teacher': losses(good=1.0, bad=float('nan'))}
    with pytest.raises(DiffkdError, match=r'1 of 2 tensors are not finite, such as teacher\.bad'):
        save_checkpoint(tmp_path / CHECKPOINT, small_recipe(), parts, Progress())
    assert not list(tmp_path.iterdir())
