# SPDX-License-Identifier: Apache-2.0
"""Maps that are optimised by projected gradient descent (PGD) through a trained student, in torch.

With s the score of a cell and IoU the overlap of the box that is predicted there with the nearest target, the
losses are those of Tu et al. (Adversarial Attacks On Multi-Agent Communication, ICCV 2021), without their
weighting:

    spoof      sum IoU log(1 - s)
    removal    sum IoU log(s)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffkd_ros.attacks.statement import Goal, Statement
from diffkd_ros.geometry.grid import BevGrid, grid_warps
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.card import ModelCard, ModelError, sha256
from diffkd_ros.runtime.decoding import boxes_at
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.training.checkpoint import load_student

_STEPS = 10
_STRIDE = 0.1
"""Change of a value in a step, as a share of the range between its limits: ten steps reach all of it."""


@dataclass(frozen=True)
class CheckpointOptimiser:
    """An `Optimiser` through the student of a checkpoint, which may be another model than the ego's.

    Attributes:
        path: of the checkpoint.
        identity: SHA-256 of the file.
    """

    path: Path
    identity: str

    @classmethod
    def open(cls, path: Path, card: ModelCard) -> CheckpointOptimiser:
        """Open a checkpoint to attack the model of a card.

        Raises:
            CheckpointError: if the file is not a checkpoint.
            ModelError: if its maps have another shape or another range.
        """
        config, grid = _student(path).config, card.grid
        found = config.channels, config.height, config.width, *config.grid_range
        expected = card.channels, grid.height, grid.width, *grid.range
        if not np.allclose(found, expected):
            raise ModelError(
                f'{path} has maps of {found[:3]} channels, rows and columns in {found[3:]} m, those of '
                f'{card.name} are {expected[:3]} in {expected[3:]}'
            )
        return cls(path, sha256(path))

    def prepare(self) -> None:
        """See `Optimiser`."""
        _student.cache_clear()
        _student(self.path)
        if sha256(self.path) != self.identity:
            raise ModelError(f'{self.path} is another checkpoint than where the run was started')

    def __call__(
        self,
        goal: Goal,
        statements: Sequence[Statement],
        targets: NDArray[np.float64],
        limits: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> BevFeature:
        """See `Optimiser`. Returns the map with the lowest loss of all steps, the start included."""
        student = _student(self.path)
        config = student.config
        grid = BevGrid(*config.grid_range, config.height, config.width)
        ego, start, *others = (torch.from_numpy(each.bev.feature) for each in statements)
        density = torch.from_numpy(np.stack([each.bev.density for each in statements])[:, None])
        warps = torch.from_numpy(grid_warps([each.pose for each in statements], grid))
        low, high = (torch.from_numpy(limit) for limit in limits)

        def loss_of(feature: Tensor) -> Tensor:
            features = torch.stack([ego, feature, *others])
            heatmap, regression, _ = student(features, density, warps)
            overlap = torch.from_numpy(_overlaps(regression[0].detach().numpy(), targets, grid))
            sign = -1 if goal == 'spoof' else 1
            return (overlap * functional.logsigmoid(sign * heatmap[0, 0])).sum()

        best, lowest = start, float('inf')
        feature = torch.clamp(start, low, high)
        for _ in range(_STEPS):
            feature.requires_grad_(True)
            loss = loss_of(feature)
            (gradient,) = torch.autograd.grad(loss, feature)
            if (value := float(loss.detach())) < lowest:
                best, lowest = feature.detach(), value
            step = _STRIDE * (high - low) * gradient.sign()
            feature = torch.clamp(feature.detach() - step, low, high)
        with torch.no_grad():
            if float(loss_of(feature)) < lowest:
                best = feature
        return BevFeature(best.numpy(), statements[1].bev.density)


def _overlaps(
    regression: NDArray[np.float32], targets: NDArray[np.float64], grid: BevGrid
) -> NDArray[np.float32]:
    """Overlap (height, width) of the box that is predicted in each cell with the nearest target."""
    row, column = np.indices((grid.height, grid.width)).reshape(2, -1)
    boxes = boxes_at(row, column, regression, grid)
    return bev_iou(boxes, targets).max(axis=1).reshape(grid.height, grid.width).astype(np.float32)


@cache
def _student(path: Path) -> Student:
    torch.set_num_threads(1)  # an evaluation runs one process per core
    return load_student(path)[1].requires_grad_(False)
