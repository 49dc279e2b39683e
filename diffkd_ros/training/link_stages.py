# SPDX-License-Identifier: Apache-2.0
"""The stages of a training with layered messages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.codebook import TILE
from diffkd_ros.model.restoration import Restoration
from diffkd_ros.model.student import Student
from diffkd_ros.model.teacher import Teacher
from diffkd_ros.training.data import Batch, Clouds
from diffkd_ros.training.frozen import Frozen, frozen
from diffkd_ros.training.link import (
    Arrival,
    Before,
    Received,
    Sending,
    Sent,
    egos,
    random_arrival,
    random_before,
    receive,
    restored_agents,
    restored_maps,
    rows,
)
from diffkd_ros.training.losses import detection_losses, restoration_losses, weighted_square
from diffkd_ros.training.stages import Freeze, FrozenEncoderStage, Losses, Target, fuse_frames

LARGEST_WORTH = 50.0  # of a tile, in units of the mean: single gradients must not dominate


class LinkStage(FrozenEncoderStage):
    """Train restoration, fusion and head on maps that were sent as codes and arrived in part."""

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__(teacher, student, target, freeze)
        assert student.sender is not None, 'Recipe checks this'
        student.sender.requires_grad_(False)
        self._sending = freeze(Sending(student))

    def forward(self, batch: Batch) -> Losses:
        """Losses of one step."""
        student, output = self.student, self.teacher_output(batch)
        sent = self._sending(batch.agents)
        arrival = random_arrival(sent.order, student.config.levels)
        received = receive(sent, arrival, batch, student, _before(self._sending, batch, student))
        restored = restored_maps(received, batch, student)
        losses = self.fusion_losses(received.features, restored, received.density, batch, output)
        chosen = restored_agents(batch, student)
        if isinstance(student.restoration, Restoration) and len(chosen):
            features, density, context = rows(received, chosen)
            wanted, weight = (part.index_select(0, chosen) for part in self.targets(batch, output[0]))
            losses |= restoration_losses(student.restoration, features, density, wanted, weight, context)
        return losses


class RankStage(FrozenEncoderStage):
    """Train the sender's ranking toward what the codes of a tile that did not arrive would be worth.

    A tile that the receiver can restore, from boxes or from its own map, is worth little.
    """

    def __init__(self, teacher: Teacher, student: Student, target: Target, freeze: Freeze = Frozen) -> None:
        super().__init__(teacher, student, target, freeze)
        assert student.sender is not None, 'Recipe checks this'
        student.requires_grad_(False)
        student.sender.ranking.requires_grad_(True)
        self._sending = freeze(Sending(student))
        self._whole = frozen(student)

    def forward(self, batch: Batch) -> Losses:
        """Losses of one step."""
        sender, scale = self.student.sender, self.student.restoration
        assert sender is not None
        sent = self._sent(batch.agents)
        arrival = random_arrival(sent.order, self.student.config.levels)
        worth = worth_of_tiles(self._whole, sent, arrival, batch, _before(self._sent, batch, self._whole))
        occupied = covered_cells(sent.density)
        ranked = sender.ranking(scale.normalise(sent.features), occupied, sent.heatmap)
        # Tiles of neighbours that hold something and did not arrive.
        asked = (
            (1 - arrival.levels[:, :1]) * functional.max_pool2d(occupied, TILE) * (1 - egos(batch, occupied))
        )
        # In units that do not depend on the scale of the loss.
        unit = (worth.abs() * asked).sum() / asked.sum().clamp(min=1)
        goal = (worth / unit.clamp(min=1e-12)).clamp(-LARGEST_WORTH, LARGEST_WORTH)
        return {'rank': weighted_square(ranked - goal, asked)}

    def _sent(self, clouds: Clouds) -> Sent:
        """What agents compute, with tiles in random order.

        The frozen ranking is untrained at the start of the stage and half-trained where it is continued.
        """
        sent: Sent = self._sending(clouds)
        return sent._replace(order=torch.rand_like(sent.order))


def _before(sending: Callable[[Clouds], Sent], batch: Batch, student: Student) -> Before | None:
    """Draw what is remembered of a batch's earlier sweeps."""
    if batch.earlier is None or not student.config.memory:
        return None
    sent = sending(batch.earlier.agents)
    return Before(sent, *random_before(sent.order, student.config.levels))


def worth_of_tiles(
    student: Student, sent: Sent, arrival: Arrival, batch: Batch, before: Before | None = None
) -> Tensor:
    """What the codes of each tile would change in addition to what arrived.

    The decrease of the receiver's detection loss, to first order at the middle between the maps as restored
    and as coded: over all tiles, the sum is about the whole difference of the loss.

    Returns:
        (n, 1, h / 4, w / 4), 0 for egos and for tiles whose codes arrived.
    """
    with torch.no_grad():
        received = receive(sent, arrival, batch, student, before)
        restored = restored_maps(received, batch, student)
        change = torch.where(egos(batch, restored) > 0, 0, coded_maps(sent, student) - restored)
    with torch.enable_grad():
        middle = (restored + change / 2).requires_grad_(True)
        (slope,) = torch.autograd.grad(receiver_loss(student, received, middle, batch), middle)
    return functional.avg_pool2d(-(slope * change).sum(dim=1, keepdim=True), TILE, divisor_override=1)


def coded_maps(sent: Sent, student: Student) -> Tensor:
    """Feature maps (n, c, h, w) as decoded from all of their codes."""
    scale = student.restoration
    decoded = sent.coded.fine.sum(dim=1) * scale.deviation + scale.mean
    return decoded * covered_cells(sent.density)


def receiver_loss(student: Student, received: Received, maps: Tensor, batch: Batch) -> Tensor:
    """Detection loss of the egos, given what they received and the maps (n, c, h, w) that they fuse."""
    fusion = fuse_frames(student, received.features, maps, received.density, batch)
    heatmap, regression = student.head(fusion.fused)
    return torch.stack([*detection_losses(heatmap, regression, batch).values()]).sum()
