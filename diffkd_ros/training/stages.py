# SPDX-License-Identifier: Apache-2.0
"""The stages of a training with whole maps. Each is a module that maps a batch to its losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.fusion import AdaptiveGatedFusion, by_frame, warp
from diffkd_ros.model.restoration import Restoration
from diffkd_ros.model.student import Fusion, Student, StudentConfig
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.data import Batch, Clouds
from diffkd_ros.training.frozen import Frozen
from diffkd_ros.training.link import (
    in_slots,
)
from diffkd_ros.training.losses import (
    detection_losses,
    feature_loss,
    prediction_loss,
    reliability_loss,
    restoration_losses,
    squared_distance,
)

FOREGROUND_WEIGHT = 5.0  # of a cell inside a vehicle, relative to the background
DISTANCE_MOMENTUM = 0.02
FULL_CELL = 0.99  # coverage of a resampled cell that counts as full; 1 would lose cells to rounding

Losses = dict[str, Tensor]
Freeze = Callable[[nn.Module], Frozen]
Target = Literal['global', 'local']
TeacherOutput = tuple[Tensor, Tensor, Tensor, Tensor]  # feature, density, heat map, regression


def run_teacher(teacher: Teacher, unions: Clouds) -> TeacherOutput:
    """Feature, density, heat map and regression of the holistic view; shapes as in `Teacher.forward`."""
    return teacher(unions.points, unions.index, unions.count)


class TeacherStage(nn.Module):
    """Train the teacher to detect on the union of all agents' clean clouds.

    Some frames are encoded on a rotated grid and resampled, so that features do not depend on the pose of the
    grid and a neighbour's map remains valid in the ego's grid.
    """

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, batch: Batch) -> Losses:
        """Losses of one step."""
        unions, views = batch.unions, batch.views
        _, _, heatmap, regression = self.teacher(unions.points, unions.index, unions.count, views)
        if views is not None:
            inside = (warp(torch.ones_like(batch.counted), views) > FULL_CELL).to(batch.counted.dtype)
            within = {name: getattr(batch, name) * inside for name in ('heatmap', 'regressed', 'counted')}
            batch = replace(batch, **within)
        return detection_losses(heatmap, regression, batch)


def teacher_as_student(teacher: Teacher, config: StudentConfig) -> Student:
    """A student that computes the same as the teacher for one agent, with no restoration."""
    student = Student(replace(config, restoration='none', fusion='adaptive', modulation=True))
    copy_teacher(teacher, student)
    return student


def copy_teacher(teacher: Teacher, student: Student) -> None:
    """Initialise the student's encoder, head and, in AGF, last modulation from the teacher."""
    student.encoder.load_state_dict(teacher.encoder.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    if student.config.fusion == 'adaptive' and student.config.modulation:
        student.fusion.fused.load_state_dict(teacher.modulation.state_dict())  # type: ignore[union-attr]


@torch.no_grad()
def measure_teacher(teacher: Teacher, student: Student, batches: Iterable[Batch]) -> None:
    """Store in the student the mean and deviation per channel of the teacher's feature over covered cells."""
    teacher.eval()
    scale = student.restoration
    total, squares = torch.zeros_like(scale.mean), torch.zeros_like(scale.mean)
    cells = torch.zeros((), device=scale.mean.device)
    for batch in batches:
        feature, density, _, _ = run_teacher(teacher, batch.unions)
        covered = covered_cells(density)
        total = total + (feature * covered).sum(dim=(0, 2, 3), keepdim=True)
        squares = squares + (feature.square() * covered).sum(dim=(0, 2, 3), keepdim=True)
        cells = cells + covered.sum()
    mean = total / cells
    scale.mean.copy_(mean)
    scale.deviation.copy_((squares / cells - mean.square()).clamp(min=1e-6).sqrt())


def warp_to_agents(maps: Tensor, batch: Batch, vectors: int = 0) -> Tensor:
    """Resample maps from each frame's ego grid to every agent's: (frames, c, h, w) to (agents, c, h, w)."""
    # Without the check for singular matrices, which waits for the device.
    linear = torch.linalg.inv_ex(batch.warps[:, :, :2]).inverse
    # Not a matrix product, see `warp`.
    offset = -(linear * batch.warps[:, None, :, 2]).sum(dim=2, keepdim=True)
    return warp(maps.index_select(0, batch.frame), torch.cat((linear, offset), dim=2), vectors)


def fuse_frames(
    student: Student, features: Tensor, restored: Tensor, density: Tensor, batch: Batch
) -> Fusion:
    """Fuse all frames of a batch at once, as `Student.fuse` does it for frames of equally many agents.

    Args:
        student: which fuses.
        features: (agents, c, h, w) as encoded, each in its agent's grid, frame by frame.
        restored: (agents, c, h, w) the same after restoration.
        density: (agents, 1, h, w).
        batch: of these agents.
    """
    (features, restored, density), warps = in_slots((features, restored, density), batch)
    return student.fuse(features, restored, density, warps, len(batch.sizes))


def _cell_weight(foreground: Tensor) -> Tensor:
    """Weight of each cell, given the share of it that is inside a vehicle."""
    return 1 + (FOREGROUND_WEIGHT - 1) * foreground


class Distillation(nn.Module):
    """Base of the stages after the teacher's: a frozen teacher and the losses of the fused frames."""

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__()
        self.student = student
        self._target = target
        self._teacher = freeze(teacher)

    def teacher_output(self, batch: Batch) -> TeacherOutput:
        """Output of the frozen teacher on the unions of the clouds."""
        return self._teacher(batch.unions)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every agent's feature and density, without the cells lost on the link."""
        clouds = batch.agents
        return _arrived(batch, *self.student.encoder(clouds.points, clouds.index, clouds.count))

    def fusion_losses(
        self, features: Tensor, restored: Tensor, density: Tensor, batch: Batch, output: TeacherOutput
    ) -> Losses:
        """Losses of detection, PKD (b) and reliability, given maps of all agents as encoded and restored."""
        teacher, seen, teacher_heatmap, teacher_regression = output
        fusion = fuse_frames(self.student, features, restored, density, batch)
        heatmap, regression = self.student.head(fusion.fused)
        deviation = self.student.restoration.deviation
        losses = {
            **detection_losses(heatmap, regression, batch),
            'feature': feature_loss(fusion.fused, teacher, deviation, batch.foreground),
            'prediction': prediction_loss(heatmap, regression, teacher_heatmap, teacher_regression),
        }
        if isinstance(self.student.fusion, AdaptiveGatedFusion):
            ego = by_frame(fusion.restored, len(teacher))[:, 0]
            distance = squared_distance(ego, teacher, deviation)
            # Only cells that some agent covers: elsewhere no neighbour can replace the ego.
            covered = covered_cells(seen)
            unit = self._unit(self.student.fusion, distance.float().where(covered > 0, torch.nan))
            weight = covered * _cell_weight(batch.foreground)
            losses['reliability'] = reliability_loss(fusion.reliability, distance, unit, weight)
        return losses

    @torch.no_grad()
    def _unit(self, fusion: AdaptiveGatedFusion, distance: Tensor) -> Tensor:
        """Running median of the distance, which does not depend on the corruptions of a single batch.

        Cells with NaN are left out, not indexed by a mask: its size would have to be read from the device.
        """
        if self.training:
            median = distance.nanmedian().to(fusion.distance.dtype)
            momentum = torch.where(fusion.distance > 0, DISTANCE_MOMENTUM, 1.0)
            moved = torch.lerp(fusion.distance, median, momentum)
            fusion.distance.copy_(torch.where(median.isnan(), fusion.distance, moved))
        return fusion.distance.clamp(min=1e-6)


def _arrived(batch: Batch, features: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """Features and densities without the cells lost on the link."""
    # Contiguous: the fusion reduces over agents and channels, which is slow in the convolutions' layout.
    return features.contiguous() * batch.arriving, density * batch.arriving


class StudentStage(Distillation):
    """Train encoder, fusion and head without restoration, on ground truth and the teacher's output."""

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__(teacher, student, target, freeze)
        student.requires_grad_(True)
        student.restoration.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """Losses of one step."""
        features, density = self.encode(batch)
        return self.fusion_losses(features, features, density, batch, self.teacher_output(batch))


class FrozenEncoderStage(Distillation):
    """Base of the stages that do not change the encoder, so that the shared features stay the same."""

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__(teacher, student, target, freeze)
        student.requires_grad_(True)
        student.encoder.requires_grad_(False)
        self.frozen_encoder = freeze(student.encoder)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `Distillation.encode`, with the frozen encoder."""
        return _arrived(batch, *self.frozen_encoder(batch.agents))

    @torch.no_grad()
    def targets(self, batch: Batch, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's feature for every agent (n, c, h, w), and the weight of each cell (n, 1, h, w)."""
        inside = torch.ones_like(batch.foreground)
        seen = warp_to_agents(
            torch.cat((teacher, batch.foreground, inside), dim=1), batch, self.student.config.vectors
        )
        weight = _cell_weight(seen[:, -2:-1]) * (seen[:, -1:] > FULL_CELL)
        if self._target == 'global':
            return seen[:, :-2], weight
        assert batch.clean is not None, 'asked for by the loop for this target'
        return self._teacher(batch.clean)[0], weight

    def restoration_losses(
        self, restoration: Restoration, features: Tensor, density: Tensor, batch: Batch, teacher: Tensor
    ) -> Losses:
        """PKD (a): losses of the predicted clean latent, the autoencoder and the projection.

        Given features (n, c, h, w) and densities (n, 1, h, w) of all agents, as encoded, and the teacher's
        feature (frames, c, h, w).
        """
        return restoration_losses(restoration, features, density, *self.targets(batch, teacher))


class DiffuserStage(FrozenEncoderStage):
    """Train the restoration only, toward the teacher's feature."""

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__(teacher, student, target, freeze)
        assert isinstance(student.restoration, Restoration), 'Recipe checks this'
        student.fusion.requires_grad_(False)
        student.head.requires_grad_(False)
        self._restoration = (student.restoration,)

    def forward(self, batch: Batch) -> Losses:
        """Losses of one step."""
        features, density = self.encode(batch)
        teacher = self.teacher_output(batch)[0]
        return self.restoration_losses(self._restoration[0], features, density, batch, teacher)


class JointStage(FrozenEncoderStage):
    """Train fusion, head and, if there is one, the restoration with its sampler unrolled as at inference."""

    def forward(self, batch: Batch) -> Losses:
        """Losses of one step."""
        features, density = self.encode(batch)
        restoration = self.student.restoration
        output = self.teacher_output(batch)
        losses = self.fusion_losses(features, restoration(features, density), density, batch, output)
        if isinstance(restoration, Restoration):
            losses |= self.restoration_losses(restoration, features, density, batch, output[0])
        return losses
