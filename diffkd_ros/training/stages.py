# SPDX-License-Identifier: Apache-2.0
"""The four stages: teacher, student, diffuser, joint. Each is a module whose call gives one step's losses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.fusion import warp
from diffkd_ros.model.restoration import TRAINING_STEPS
from diffkd_ros.model.student import Fusion, Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.data import Batch, Clouds
from diffkd_ros.training.losses import (
    detection_losses,
    feature_loss,
    prediction_loss,
    reliability_loss,
    weighted_square,
)

FOREGROUND_WEIGHT = 5.0
UNSEEN_WEIGHT = 0.25

Losses = dict[str, Tensor]
Taught = tuple[Tensor, Tensor, Tensor, Tensor]  # the teacher's feature, density, heat map, regression


def run_teacher(teacher: Teacher, unions: Clouds) -> Taught:
    """Feature, density, heat map and regression of the holistic view."""
    return teacher(unions.points, unions.index, unions.count)


class TeacherStage(nn.Module):
    """Detection on the union of all agents' clean clouds."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        _, _, heatmap, regression = run_teacher(self.teacher, batch.unions)
        return detection_losses(heatmap, regression, batch)


def copy_teacher(teacher: Teacher, student: Student) -> None:
    """Start the student where the teacher ended: same encoder, head and last modulation."""
    student.encoder.load_state_dict(teacher.encoder.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    student.fusion.fused.load_state_dict(teacher.modulation.state_dict())


@torch.no_grad()
def measure_teacher(teacher: Teacher, student: Student, batches: Iterator[Batch], count: int) -> None:
    """Store mean and deviation per channel of the teacher's feature over its covered cells in the student."""
    teacher.eval()
    total, squares = torch.zeros_like(student.restoration.mean), torch.zeros_like(student.restoration.mean)
    cells = torch.zeros(())
    for _ in range(count):
        feature, density, _, _ = run_teacher(teacher, next(batches).unions)
        covered = covered_cells(density)
        total = total + (feature * covered).sum(dim=(0, 2, 3), keepdim=True)
        squares = squares + (feature.square() * covered).sum(dim=(0, 2, 3), keepdim=True)
        cells = cells + covered.sum()
    mean = total / cells
    student.restoration.mean.copy_(mean)
    student.restoration.deviation.copy_((squares / cells - mean.square()).clamp(min=1e-6).sqrt())


def fuse_frames(
    student: Student, features: Tensor, restored: Tensor, density: Tensor, batch: Batch
) -> list[Fusion]:
    """Fuse each frame of a batch whose agents lie end to end."""
    parts = (t.split(batch.sizes) for t in (features, restored, density, batch.warps))
    return [student.fuse(*frame) for frame in zip(*parts, strict=True)]


def warp_to_agents(maps: Tensor, batch: Batch) -> Tensor:
    """Resample maps from each frame's ego grid to every agent's: (frames, ...) to (agents, ...)."""
    linear = torch.linalg.inv(batch.warps[:, :, :2])
    offset = -linear @ batch.warps[:, :, 2:]
    per_agent = torch.repeat_interleave(maps, torch.tensor(batch.sizes, device=maps.device), dim=0)
    return warp(per_agent, torch.cat((linear, offset), dim=2))


class _Distillation(nn.Module):
    """What the stages after the teacher share: a frozen teacher and the losses after fusion."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        super().__init__()
        self.student = student
        # Outside the module tree, so that train() and parameters() pass the teacher by.
        self._frozen = (teacher.eval().requires_grad_(False),)

    @torch.no_grad()
    def teach(self, batch: Batch) -> Taught:
        return run_teacher(self._frozen[0], batch.unions)

    def fusion_losses(
        self, features: Tensor, restored: Tensor, density: Tensor, batch: Batch, taught: Taught
    ) -> Losses:
        """Detection, PKD (b) and reliability of the fused frames; `taught` is what `teach` gave."""
        teacher, _, teacher_heatmap, teacher_regression = taught
        fusions = fuse_frames(self.student, features, restored, density, batch)
        fused = torch.cat([fusion.fused for fusion in fusions])
        heatmap, regression = self.student.head(fused)
        deviation = self.student.restoration.deviation
        ego = torch.cat([fusion.restored[:1] for fusion in fusions])
        reliability = torch.cat([fusion.reliability for fusion in fusions])
        return {
            **detection_losses(heatmap, regression, batch),
            'feature': feature_loss(fused, teacher, deviation, batch.foreground),
            'prediction': prediction_loss(heatmap, regression, teacher_heatmap, teacher_regression),
            'reliability': reliability_loss(reliability, ego, teacher, deviation),
        }


class StudentStage(_Distillation):
    """Encoder, fusion and head with the restoration left out, against ground truth and the teacher."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        super().__init__(teacher, student)
        student.requires_grad_(True)
        student.restoration.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        features, density = self.student.encoder(batch.agents.points, batch.agents.index, batch.agents.count)
        return self.fusion_losses(features, features, density, batch, self.teach(batch))


class _FrozenEncoder(_Distillation):
    """Stages that keep the encoder as it is: what vehicles already send stays what it was."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        super().__init__(teacher, student)
        student.requires_grad_(True)
        student.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> _FrozenEncoder:
        """As usual, but the encoder's batch norm stays fixed."""
        super().train(mode)
        self.student.encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.student.encoder(batch.agents.points, batch.agents.index, batch.agents.count)

    def diffusion_losses(self, features: Tensor, density: Tensor, batch: Batch, taught: Tensor) -> Losses:
        """PKD (a): x0-prediction toward the teacher's map as seen from each agent, and its latent."""
        restoration = self.student.restoration
        inside = torch.ones_like(batch.foreground)
        seen = warp_to_agents(torch.cat((taught, batch.foreground, inside), dim=1), batch)
        target = restoration.normalise(seen[:, :-2])
        weight = (1 + (FOREGROUND_WEIGHT - 1) * seen[:, -2:-1]) * (seen[:, -1:] > 0.99)
        covered = covered_cells(density)
        weight = weight * (covered + UNSEEN_WEIGHT * (1 - covered))
        coarse = nn.functional.avg_pool2d(weight, 2)

        latent = restoration.to_latent(target)
        decoded = restoration.from_latent(latent)
        clean = latent.detach()
        projected = restoration.project(restoration.normalise(features))
        t = torch.randint(TRAINING_STEPS, (len(features),), device=features.device)
        noisy = restoration.diffuse(clean, t, torch.randn_like(clean))
        predicted = restoration.denoiser(noisy, t, restoration.conditions(features, density))
        return {
            'diffusion': weighted_square(predicted - clean, coarse),
            'autoencoder': weighted_square(decoded - target, weight),
            'projection': weighted_square(projected - clean, coarse),
        }


class DiffuserStage(_FrozenEncoder):
    """The restoration alone, toward the teacher's feature."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        super().__init__(teacher, student)
        student.fusion.requires_grad_(False)
        student.head.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        features, density = self.encode(batch)
        return self.diffusion_losses(features, density, batch, self.teach(batch)[0])


class JointStage(_FrozenEncoder):
    """Restoration as it runs on the vehicle (sampler unrolled), gate, fusion and head together."""

    def forward(self, batch: Batch) -> Losses:
        """One step."""
        features, density = self.encode(batch)
        restored = self.student.restoration(features, density)
        taught = self.teach(batch)
        return {
            **self.fusion_losses(features, restored, density, batch, taught),
            **self.diffusion_losses(features, density, batch, taught[0]),
        }


STAGES: dict[str, type[nn.Module]] = {
    'teacher': TeacherStage,
    'student': StudentStage,
    'diffuser': DiffuserStage,
    'joint': JointStage,
}
