# SPDX-License-Identifier: Apache-2.0
"""Average precision of networks in training, on held-out frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix, pose_from_euler
from diffkd_ros.metrics.average_precision import AveragePrecision
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.runtime.decoding import decode_boxes, observed_cells
from diffkd_ros.runtime.neighbours import choose_neighbours
from diffkd_ros.training.augmentation import corrupt_clouds, draw_corruptions
from diffkd_ros.training.data import Batch, collate, make_sample
from diffkd_ros.training.frames import held_out_frames
from diffkd_ros.training.link import Sending, best_tiles, receive, restored_maps
from diffkd_ros.training.recipe import Recipe

Scores = dict[str, dict[str, float]]
"""{'teacher', 'cooperative', 'ego_only', ...: {'ap30', 'ap50', 'ap70'}}."""
_DATA = {
    'validation', 'simulator', 'validation_seed', 'validation_scenarios', 'validation_frames', 'max_agents',
    'min_points', 'augmentation',
}  # fmt: skip

SENT = 0.1
"""Share of the tiles whose cells a neighbour sends in a validation of the layered link."""


def grid_of(recipe: Recipe) -> BevGrid:
    """The recipe's feature grid."""
    return BevGrid(*recipe.model.grid_range, recipe.model.height, recipe.model.width)


class Validation:
    """Held-out frames: clean and, with augmentation, corrupted the same way every time.

    Args:
        recipe: gives frames, augmentation and detection thresholds.
        device: of the networks.

    Raises:
        DatasetError: if a data set cannot be read.
    """

    @staticmethod
    def key(recipe: Recipe) -> str:
        """What the frames and their scores depend on; recipes with equal keys can share a `Validation`."""
        data = recipe.data.model_dump_json(include=_DATA)
        rest = recipe.model_dump_json(include={'seed', 'min_score', 'nms_iou', 'max_boxes'})
        about = recipe.model.grid_range, recipe.model.pillar_cell, bool(recipe.model.vectors)
        return f'{data} {rest} {about}'

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe, self._device, self._grid = recipe, device, grid_of(recipe)
        data = recipe.data
        frames = held_out_frames(data)
        self._clean = [self._prepare(frame, frame) for frame in frames]
        self._corrupted: list[tuple[Batch, Boxes3D]] = []
        if data.augmentation is not None:
            always = data.augmentation.model_copy(update={'probability': 1.0})
            self._corrupted = [
                self._prepare(
                    frame,
                    corrupt_clouds(
                        frame,
                        draw_corruptions(frame.agents, always, np.random.default_rng((recipe.seed, i))),
                    ),
                )
                for i, frame in enumerate(frames)
            ]
        self._turned: list[tuple[Batch, Boxes3D]] = []
        if recipe.model.vectors:
            about = pose_from_euler([self._grid.cell / 2, self._grid.cell / 2, 0.0], 0.0, 0.0, np.pi)
            self._turned = [self._prepare(frame, frame, about) for frame in frames]
        kind = 'simulated' if data.validation.kind == 'sim' else data.validation.kind
        self.description = f'{len(frames)} held-out {kind} frames'

    def _prepare(
        self, frame: CoopFrame, sensed: CoopFrame, view: Matrix | None = None
    ) -> tuple[Batch, Boxes3D]:
        recipe, grid = self._recipe, self._grid
        poses = {agent: frame.agents[agent].pose for agent in frame.neighbours}
        nearest = choose_neighbours(
            frame.agents[frame.ego].pose, poses, sensed.agents.get, recipe.data.max_agents
        )
        agents = [frame.ego, *sorted(nearest.chosen)]
        frame = replace(frame, agents={agent: frame.agents[agent] for agent in agents})
        truth = within(ground_truth_in(frame, frame.ego), *grid.area)
        sample = make_sample(frame, sensed, agents, grid, recipe.data.min_points, view=view)
        return collate([sample], grid, clean=False).to(self._device), truth

    @torch.no_grad()
    def teacher(self, teacher: Teacher) -> Scores:
        """Score a teacher on the clean holistic view.

        If its map has directions, also with the map encoded on a grid rotated by 180 degrees and shifted by
        half a cell, then resampled: this measures how well maps transfer between grids.
        """
        teacher.eval()
        scores = {}
        for who, frames in (('teacher', self._clean), ('turned', self._turned)):
            score = self._score()
            for batch, truth in frames:
                union = batch.unions
                _, density, heatmap, regression = teacher(union.points, union.index, union.count, batch.views)
                # The maps lie in the ego's grid.
                score.add(self._boxes(heatmap, regression, density, batch.warps[:1]), truth)
            if frames:
                scores[who] = _figures(score)
        return scores

    @torch.no_grad()
    def student(self, student: Student, restore: bool) -> Scores:
        """Score a student with its neighbours, alone, and, with augmentation, under corruption.

        Args:
            student: set to evaluation mode and scored.
            restore: whether to restore features, which needs a trained restoration.
        """
        student.eval()
        cooperative, alone = self._run(student, self._clean, restore)
        scores = {'cooperative': cooperative, 'ego_only': alone}
        if self._corrupted:
            scores['corrupted'], _ = self._run(student, self._corrupted, restore)
        return scores

    @torch.no_grad()
    def largest_feature(self, student: Student) -> float:
        """Largest absolute value in the maps that a student in evaluation mode shares, of all clouds."""
        clouds = [batch.agents for batch, _ in (*self._clean, *self._corrupted)]
        features = (student.encoder(each.points, each.index, each.count)[0] for each in clouds)
        return round(max(float(feature.abs().max()) for feature in features), 2)

    def _run(
        self, student: Student, frames: Sequence[tuple[Batch, Boxes3D]], restore: bool
    ) -> tuple[dict[str, float], dict[str, float]]:
        together, alone = self._score(), self._score()
        for batch, truth in frames:
            features, restored, density = self._maps(student, batch, restore)
            for score, count in ((together, len(features)), (alone, 1)):
                fusion = student.fuse(
                    features[:count], restored[:count], density[:count], batch.warps[:count]
                )
                heatmap, regression = student.head(fusion.fused)
                score.add(self._boxes(heatmap, regression, density[:count], batch.warps[:count]), truth)
        return _figures(together), _figures(alone)

    def _maps(self, student: Student, batch: Batch, restore: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Features as the ego has them, the same after restoration, and densities."""
        clouds = batch.agents
        if restore and student.config.link:
            sent = Sending(student)(clouds.points, clouds.index, clouds.count)
            received = receive(sent, best_tiles(sent.order, SENT, student.config.levels), batch, student)
            return received.features, restored_maps(received, batch, student), received.density
        features, density = student.encoder(clouds.points, clouds.index, clouds.count)
        return features, student.restoration(features, density) if restore else features, density

    def _score(self) -> AveragePrecision:
        return AveragePrecision(min_points=self._recipe.data.min_points)

    def _boxes(self, heatmap: Tensor, regression: Tensor, density: Tensor, warps: Tensor) -> Boxes3D:
        recipe, grid = self._recipe, self._grid
        maps = heatmap[0, 0].cpu().numpy(), regression[0].cpu().numpy()
        observed = observed_cells(density[:, 0].cpu().numpy(), warps.cpu().numpy(), grid)
        return decode_boxes(*maps, observed, grid, recipe.decoding)


def _figures(score: AveragePrecision) -> dict[str, float]:
    return {f'ap{round(100 * iou)}': round(float(ap), 4) for iou, ap in score.compute().items()}
