# SPDX-License-Identifier: Apache-2.0
"""The four stages: teacher, student, diffuser, joint. Each is a module whose call gives one step's losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.fusion import AdaptiveGatedFusion, warp
from diffkd_ros.model.restoration import Restoration
from diffkd_ros.model.student import Fusion, Student, StudentConfig
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.data import Batch, Clouds
from diffkd_ros.training.losses import (
    detection_losses,
    feature_loss,
    prediction_loss,
    reliability_loss,
    squared_distance,
    weighted_square,
)

FOREGROUND_WEIGHT = 5.0
UNSEEN_WEIGHT = 0.25
DISTANCE_MOMENTUM = 0.02
WHOLLY = 0.99  # of a resampled cell, so that rounding does not lose it

Losses = dict[str, Tensor]
Target = Literal['global', 'local']
Taught = tuple[Tensor, Tensor, Tensor, Tensor]  # the teacher's feature, density, heat map, regression


def run_teacher(teacher: Teacher, unions: Clouds) -> Taught:
    """Feature, density, heat map and regression of the holistic view."""
    return teacher(unions.points, unions.index, unions.count)


class TeacherStage(nn.Module):
    """Detection on the union of all agents' clean clouds.

    Some of them are encoded on a turned grid and resampled: what a map says of a place must not depend on how
    the grid lies there, or neighbours' maps cannot be read in the ego's grid.
    """

    def __init__(self, teacher: Teacher, student: Student, target: Target) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        unions, views = batch.unions, batch.views
        _, _, heatmap, regression = self.teacher(unions.points, unions.index, unions.count, views)
        if views is not None:
            inside = (warp(torch.ones_like(batch.counted), views) > WHOLLY).to(batch.counted.dtype)
            within = {name: getattr(batch, name) * inside for name in ('heatmap', 'regressed', 'counted')}
            batch = replace(batch, **within)
        return detection_losses(heatmap, regression, batch)


def lone_student(teacher: Teacher, config: StudentConfig) -> Student:
    """A student that computes what the teacher does: alone, with nothing to restore or to fuse."""
    student = Student(replace(config, restoration='none', fusion='adaptive', modulation=True))
    copy_teacher(teacher, student)
    return student


def copy_teacher(teacher: Teacher, student: Student) -> None:
    """Start the student where the teacher ended: same encoder, head and, in AGF, last modulation."""
    student.encoder.load_state_dict(teacher.encoder.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    if student.config.fusion == 'adaptive' and student.config.modulation:
        student.fusion.fused.load_state_dict(teacher.modulation.state_dict())  # type: ignore[union-attr]


@torch.no_grad()
def measure_teacher(teacher: Teacher, student: Student, batches: Iterable[Batch]) -> None:
    """Store mean and deviation per channel of the teacher's feature over its covered cells in the student."""
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


def fuse_frames(
    student: Student, features: Tensor, restored: Tensor, density: Tensor, batch: Batch
) -> list[Fusion]:
    """Fuse each frame of a batch whose agents lie end to end."""
    parts = (t.split(batch.sizes) for t in (features, restored, density, batch.warps))
    return [student.fuse(*frame) for frame in zip(*parts, strict=True)]


def warp_to_agents(maps: Tensor, batch: Batch, vectors: int = 0) -> Tensor:
    """Resample maps from each frame's ego grid to every agent's: (frames, ...) to (agents, ...)."""
    linear = torch.linalg.inv(batch.warps[:, :, :2])
    # Not as a matrix product, see `warp`.
    offset = -(linear * batch.warps[:, None, :, 2]).sum(dim=2, keepdim=True)
    per_agent = torch.repeat_interleave(maps, torch.tensor(batch.sizes, device=maps.device), dim=0)
    return warp(per_agent, torch.cat((linear, offset), dim=2), vectors)


def _emphasis(foreground: Tensor) -> Tensor:
    """What a cell counts, from how much of it lies inside a vehicle."""
    return 1 + (FOREGROUND_WEIGHT - 1) * foreground


class _Distillation(nn.Module):
    """What the stages after the teacher share: a frozen teacher and the losses after fusion.

    Args:
        teacher: trained; it receives no gradient.
        student: to be trained.
        target: what restoration is drawn to, see `Recipe.target`.
    """

    def __init__(self, teacher: Teacher, student: Student, target: Target) -> None:
        super().__init__()
        self.student = student
        self._target = target
        # Outside the module tree, so that train() and parameters() pass the teacher by.
        self._frozen = (teacher.eval().requires_grad_(False),)

    @torch.no_grad()
    def teach(self, batch: Batch) -> Taught:
        return run_teacher(self._frozen[0], batch.unions)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every agent's feature and density as they arrive at the ego."""
        features, density = self.student.encoder(batch.agents.points, batch.agents.index, batch.agents.count)
        return features * batch.arriving, density * batch.arriving

    def fusion_losses(
        self, features: Tensor, restored: Tensor, density: Tensor, batch: Batch, taught: Taught
    ) -> Losses:
        """Detection, PKD (b) and reliability of the fused frames; `taught` is what `teach` gave."""
        teacher, seen, teacher_heatmap, teacher_regression = taught
        fusions = fuse_frames(self.student, features, restored, density, batch)
        fused = torch.cat([fusion.fused for fusion in fusions])
        heatmap, regression = self.student.head(fused)
        deviation = self.student.restoration.deviation
        losses = {
            **detection_losses(heatmap, regression, batch),
            'feature': feature_loss(fused, teacher, deviation, batch.foreground),
            'prediction': prediction_loss(heatmap, regression, teacher_heatmap, teacher_regression),
        }
        if isinstance(self.student.fusion, AdaptiveGatedFusion):
            ego = torch.cat([fusion.restored[:1] for fusion in fusions])
            distance = squared_distance(ego, teacher, deviation)
            # Where nobody saw anything there is nobody to rely on instead.
            anyone = covered_cells(seen)
            unit = self._unit(self.student.fusion, distance[anyone > 0])
            reliability = torch.cat([fusion.reliability for fusion in fusions])
            weight = anyone * _emphasis(batch.foreground)
            losses['reliability'] = reliability_loss(reliability, distance, unit, weight)
        return losses

    @torch.no_grad()
    def _unit(self, fusion: AdaptiveGatedFusion, distance: Tensor) -> Tensor:
        """The running median of the distance: a unit that does not move with one batch's corruptions."""
        if self.training and distance.numel():
            median = distance.median().to(fusion.distance.dtype)
            momentum = torch.where(fusion.distance > 0, DISTANCE_MOMENTUM, 1.0)
            fusion.distance.lerp_(median, momentum)
        return fusion.distance.clamp(min=1e-6)


class StudentStage(_Distillation):
    """Encoder, fusion and head with the restoration left out, against ground truth and the teacher."""

    def __init__(self, teacher: Teacher, student: Student, target: Target) -> None:
        super().__init__(teacher, student, target)
        student.requires_grad_(True)
        student.restoration.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        features, density = self.encode(batch)
        return self.fusion_losses(features, features, density, batch, self.teach(batch))


class _FrozenEncoder(_Distillation):
    """Stages that keep the encoder as it is: what vehicles already send stays what it was."""

    def __init__(self, teacher: Teacher, student: Student, target: Target) -> None:
        super().__init__(teacher, student, target)
        student.requires_grad_(True)
        student.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> _FrozenEncoder:
        """As usual, but the encoder's batch norm stays fixed."""
        super().train(mode)
        self.student.encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return super().encode(batch)

    @torch.no_grad()
    def _targets(self, batch: Batch, taught: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's feature for every agent (n, c, h, w), and what each cell counts (n, 1, h, w)."""
        inside = torch.ones_like(batch.foreground)
        seen = warp_to_agents(
            torch.cat((taught, batch.foreground, inside), dim=1), batch, self.student.config.vectors
        )
        weight = _emphasis(seen[:, -2:-1]) * (seen[:, -1:] > WHOLLY)
        if self._target == 'global':
            return seen[:, :-2], weight
        return run_teacher(self._frozen[0], batch.clean)[0], weight

    def restoration_losses(
        self, restoration: Restoration, features: Tensor, density: Tensor, batch: Batch, taught: Tensor
    ) -> Losses:
        """PKD (a): each agent's clean latent, the autoencoder it lives in, and the projection into it."""
        wanted, weight = self._targets(batch, taught)
        target = restoration.normalise(wanted)
        covered = covered_cells(density)
        weight = weight * (covered + UNSEEN_WEIGHT * (1 - covered))

        latent = restoration.to_latent(target)
        decoded = restoration.from_latent(latent)
        clean = latent.detach()
        coarse = nn.functional.avg_pool2d(weight, weight.shape[-1] // clean.shape[-1])
        projected = restoration.project(restoration.normalise(features))
        predicted = restoration.predict(clean, projected, restoration.conditions(features, density))
        return {
            'restoration': weighted_square(predicted - clean, coarse),
            'autoencoder': weighted_square(decoded - target, weight),
            'projection': weighted_square(projected - clean, coarse),
        }


class DiffuserStage(_FrozenEncoder):
    """The restoration alone, toward the teacher's feature."""

    def __init__(self, teacher: Teacher, student: Student, target: Target) -> None:
        super().__init__(teacher, student, target)
        assert isinstance(student.restoration, Restoration), 'the recipe has made sure'
        student.fusion.requires_grad_(False)
        student.head.requires_grad_(False)
        self._restoration = (student.restoration,)

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        features, density = self.encode(batch)
        return self.restoration_losses(self._restoration[0], features, density, batch, self.teach(batch)[0])


class JointStage(_FrozenEncoder):
    """Restoration as it runs on the vehicle (sampler unrolled), gate, fusion and head together.

    Without a restoration, fusion and head alone.
    """

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        features, density = self.encode(batch)
        restoration = self.student.restoration
        taught = self.teach(batch)
        losses = self.fusion_losses(features, restoration(features, density), density, batch, taught)
        if isinstance(restoration, Restoration):
            losses |= self.restoration_losses(restoration, features, density, batch, taught[0])
        return losses


STAGES: dict[str, Callable[[Teacher, Student, Target], nn.Module]] = {
    'teacher': TeacherStage,
    'student': StudentStage,
    'diffuser': DiffuserStage,
    'joint': JointStage,
}
