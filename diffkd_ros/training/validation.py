# SPDX-License-Identifier: Apache-2.0
"""Average precision of networks in training, on held-out frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffkd_ros.evaluation.average_precision import AveragePrecision
from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.geometry.warp import grid_warps
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.runtime.decoding import decode_boxes
from diffkd_ros.runtime.grid import BevGrid
from diffkd_ros.training.data import Clouds, make_sample
from diffkd_ros.training.recipe import Recipe


def grid_of(recipe: Recipe) -> BevGrid:
    """The recipe's feature grid."""
    return BevGrid(*recipe.model.grid_range, recipe.model.height, recipe.model.width)


def _boxes(heatmap: Tensor, regression: Tensor, grid: BevGrid, min_score: float) -> Boxes3D:
    return decode_boxes(heatmap[0, 0].numpy(), regression[0].numpy(), grid, min_score, 0.15, 100)


@torch.no_grad()
def validate(
    recipe: Recipe, teacher: Teacher, student: Student, restore: bool, frames: Sequence[CoopFrame]
) -> dict[str, dict[str, float]]:
    """Score teacher, cooperative student and the student's ego alone on the same frames and truth.

    Returns:
        {'teacher' | 'cooperative' | 'ego_only': {'ap30', 'ap50', 'ap70'}}.
    """
    teacher.eval()
    student.eval()
    grid = grid_of(recipe)
    scores = {name: AveragePrecision() for name in ('teacher', 'cooperative', 'ego_only')}
    for frame in frames:
        truth = within(ground_truth_in(frame, frame.ego), grid.x_min, grid.y_min, grid.x_max, grid.y_max)
        sample = make_sample(frame, frame.ego, frame.neighbours, grid, recipe.data.min_points)
        union, clouds = Clouds.join([sample.union]), Clouds.join(sample.clouds)
        _, _, heatmap, regression = teacher(union.points, union.index, union.count)
        scores['teacher'].add(_boxes(heatmap, regression, grid, recipe.min_score), truth)
        features, density = student.encoder(clouds.points, clouds.index, clouds.count)
        restored = student.restoration(features, density) if restore else features
        poses = [frame.agents[agent].pose for agent in (frame.ego, *frame.neighbours)]
        warps = torch.from_numpy(grid_warps(poses, grid.x_min, grid.y_min, grid.x_max, grid.y_max))
        for name, count in (('cooperative', len(poses)), ('ego_only', 1)):
            fusion = student.fuse(features[:count], restored[:count], density[:count], warps[:count])
            heatmap, regression = student.head(fusion.fused)
            scores[name].add(_boxes(heatmap, regression, grid, recipe.min_score), truth)
    return {
        name: {
            f'ap{round(100 * iou)}': round(float(np.float64(ap)), 4) for iou, ap in score.compute().items()
        }
        for name, score in scores.items()
    }
