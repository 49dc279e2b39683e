# SPDX-License-Identifier: Apache-2.0
"""The link in training: feature maps sent as layers of codes, of which a part arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.codebook import Coded, over_tiles
from diffkd_ros.model.context import Context, last_of, pooled, views_of, with_egos
from diffkd_ros.model.fusion import ABSENT, by_frame
from diffkd_ros.model.restoration import Restoration, TeacherScale
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.link.packing import REPEATED_SCORE
from diffkd_ros.runtime.link.tables import sending_order
from diffkd_ros.training.data import Batch

FEWEST = 0.01  # smallest share of tiles that is drawn to be sent
CHUNK = 25  # tiles in a chunk, about
FORGOTTEN = 0.4  # probability that nothing is remembered of an agent
# Probabilities of what a sample is trained on.
ALL_SENT, NO_TILES, UNRANKED, CHUNKS_LOST, COARSE_LOST, BOXES_LOST = 0.1, 0.1, 0.2, 0.5, 0.1, 0.05
# Of the sender's boxes, of which a vehicle sends what `decoding.decode_boxes` finds.
MIN_BOX_SCORE = 0.1
BOX_PEAK = 5  # cells along the edge of the area in which a box has the highest score
BOX_RETURNS = 5  # cells along the edge of the area around a box's centre in which there must be a return


@dataclass(frozen=True)
class Arrival:
    """Which parts of n agents' maps arrive.

    Attributes:
        levels: (n, levels, h / 4, w / 4) 1 for the tiles whose codes of a level arrive, else 0.
        coarse: (n, 1, h / 4, w / 4) the same for the codes of tiles.
        least_score: (n, 1, 1, 1) of the boxes that arrive; above 1 if none does.
    """

    levels: Tensor
    coarse: Tensor
    least_score: Tensor


def ranks(order: Tensor) -> Tensor:
    """Share of the tiles that rank above each tile of `order` (n, 1, h, w), in [0, 1)."""
    flat = order.flatten(1)
    place = flat.argsort(dim=1, descending=True).argsort(dim=1)
    return (place / flat.shape[1]).view_as(order)


def best_tiles(order: Tensor, share: float, levels: int) -> Arrival:
    """The first tiles in their order, with all levels and layers; `share` is of all tiles."""
    sent = (ranks(order) < share).to(order.dtype)
    return Arrival(
        sent.expand(-1, levels, -1, -1), torch.ones_like(order), torch.zeros_like(order[:, :, :1, :1])
    )


def random_arrival(order: Tensor, levels: int) -> Arrival:
    """Draw for each agent how much it sends, in which order, and which chunks of it are lost.

    As `runtime.link.packing` does with more than two chunks, the chosen tiles are sent in `sending_order`,
    the first chunk has the boxes and the coarse codes, and all others have the likely boxes.

    Args:
        order: (n, 1, h / 4, w / 4) benefit of the tiles.
        levels: of the cells' codes.
    """
    n, device = len(order), order.device

    def drawn(probability: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=device) < probability

    share = FEWEST ** torch.rand(n, 1, 1, 1, device=device)
    share = torch.where(drawn(ALL_SENT), 1.0, torch.where(drawn(NO_TILES), 0.0, share))
    rank = ranks(torch.where(drawn(UNRANKED), torch.rand_like(order), order))
    places = _sending_order(*order.shape[2:], device)
    chosen = (rank < share).flatten(1)[:, places].long()
    before = chosen.cumsum(dim=1) - chosen
    chunk = torch.empty_like(before).index_copy_(1, places, before // CHUNK).view_as(rank)
    loss = torch.where(drawn(CHUNKS_LOST), torch.rand(n, 1, 1, 1, device=device), 0.0)
    kept = torch.rand(n, rank[0].numel() // CHUNK + 1, 1, 1, device=device) >= loss
    arrived = kept.flatten(1).gather(1, chunk.flatten(1)).view_as(rank)
    # Each level is sent for a part of the tiles that the level before is sent for.
    parts, reach = [], share
    for _ in range(levels):
        parts.append(((rank < reach) & arrived).to(order.dtype))
        reach = reach * torch.rand(n, 1, 1, 1, device=device)
    last = (chosen.sum(dim=1) - 1).clamp(min=0) // CHUNK
    sent = (torch.arange(kept.shape[1], device=device) <= last[:, None])[..., None, None]
    first, some = kept[:, :1], (kept & sent).any(dim=1, keepdim=True)
    coarse = (first & ~drawn(COARSE_LOST)).to(order.dtype)
    least = torch.where(first, 0.0, REPEATED_SCORE)
    least = torch.where(some & ~drawn(BOXES_LOST), least, 2.0).to(order.dtype)
    return Arrival(torch.cat(parts, dim=1), coarse.expand_as(order), least)


@cache
def _sending_order(rows: int, columns: int, device: torch.device) -> Tensor:
    """`sending_order` on a device, to which it is copied once."""
    return torch.from_numpy(sending_order(rows, columns)).to(device)


def random_before(order: Tensor, levels: int) -> tuple[Arrival, Tensor]:
    """As `random_arrival`, for earlier sweeps, and which agents' are remembered: `kept` of `Before`."""
    kept = torch.rand(len(order), 1, 1, 1, device=order.device) >= FORGOTTEN
    return random_arrival(order, levels), kept.to(order.dtype)


def boxes_of(heatmap: Tensor, regression: Tensor, density: Tensor) -> Tensor:
    """`BOX_MAPS` (n, 9, h, w) of own detections, drawn in the cells of their centres.

    About what `decoding.decode_boxes` finds and `runtime.link.boxes.draw_boxes` draws, without waiting for
    the device: the peak of an area takes the place of non-maximum suppression.

    Args:
        heatmap: (n, 1, h, w) logits.
        regression: (n, 8, h, w).
        density: (n, 1, h, w), above 0 where there were returns.
    """
    height, width = heatmap.shape[2:]
    score = torch.sigmoid(heatmap)
    returns = functional.max_pool2d((density > 0).to(score.dtype), BOX_RETURNS, 1, BOX_RETURNS // 2)
    peak = score == functional.max_pool2d(score, BOX_PEAK, 1, BOX_PEAK // 2)
    # The centre may lie in a cell next to the peak's.
    whole = regression[:, :2].floor()
    column = torch.arange(width, device=score.device) + whole[:, :1]
    row = torch.arange(height, device=score.device)[:, None] + whole[:, 1:]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    score = score * (peak & (score >= MIN_BOX_SCORE) & (returns > 0) & inside)
    cell = torch.where(inside, row * width + column, 0).long().flatten(2)
    angle = functional.normalize(regression[:, 6:], dim=1)
    values = torch.cat((score, regression[:, :2] - whole, regression[:, 2:6], angle), dim=1).flatten(2)
    # Of several in a cell, the one with the highest score.
    score = score.flatten(2)
    best = torch.zeros_like(score).scatter_reduce(2, cell, score, 'amax').gather(2, cell)
    drawn = values * ((score > 0) & (score == best))
    maps = torch.zeros_like(drawn).scatter_add(2, cell.expand_as(drawn), drawn)
    return maps.unflatten(2, (height, width))


@dataclass(frozen=True)
class Received:
    """Maps as the ego has received them, its own complete; n agents, each in its own grid.

    Attributes:
        features: (n, c, h, w) decoded, 0 where nothing arrived.
        density: (n, 1, h, w) the ego's; a neighbour's is 1 in cells that may hold something, else 0.
        context: for the restoration.
    """

    features: Tensor
    density: Tensor
    context: Context


class Sent(NamedTuple):
    """What n agents compute in order to send, each in its own grid.

    Attributes:
        features: (n, c, h, w) as encoded.
        density: (n, 1, h, w).
        coded: the features as coded.
        heatmap: (n, 1, h, w) logits of the agents' own detections.
        boxes: (n, 9, h, w) of `boxes_of`.
        order: (n, 1, h / 4, w / 4) benefit of the tiles.
    """

    features: Tensor
    density: Tensor
    coded: Coded
    heatmap: Tensor
    boxes: Tensor
    order: Tensor


class Sending(nn.Module):
    """A student's encoder and sender as one network.

    Args:
        student: with a sender.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        assert student.sender is not None, 'Recipe checks this'
        self.encoder, self.sender = student.encoder, student.sender
        self.scale = TeacherScale(student.config.channels)
        self.scale.mean.copy_(student.restoration.mean)
        self.scale.deviation.copy_(student.restoration.deviation)

    def forward(self, points: Tensor, cloud: Tensor, clouds: int) -> Sent:
        """Encode several clouds; arguments as for `Encoder.forward`."""
        features, density = self.encoder(points, cloud, clouds)
        normal, occupied = self.scale.normalise(features), covered_cells(density)
        heatmap, regression, coded, benefit = self.sender(features, normal, occupied)
        return Sent(features, density, coded, heatmap, boxes_of(heatmap, regression, density), benefit)


class Before(NamedTuple):
    """What the egos remember of earlier sweeps.

    Attributes:
        sent: what all agents computed then.
        arrival: what arrived of it.
        kept: (n, 1, 1, 1) 1 for agents whose earlier sweep is remembered, else 0.
    """

    sent: Sent
    arrival: Arrival
    kept: Tensor


class Decoded(NamedTuple):
    """Maps of n agents as decoded from what arrived, the egos' own complete.

    Attributes:
        features: (n, c, h, w), 0 where nothing arrived.
        level: (n, 1, h, w) of `Context`.
        seen: (n, 1, h, w) 1 where something of a neighbour's map arrived or the ego's holds something.
        known_empty: (n, 1, h, w) 1 in a neighbour's cells that are known to hold nothing, else 0.
        missing: (n, 1, h, w) of `Context`.
    """

    features: Tensor
    level: Tensor
    seen: Tensor
    known_empty: Tensor
    missing: Tensor


def decode(sent: Sent, arrival: Arrival, batch: Batch, scale: TeacherScale) -> Decoded:
    """Decode what arrives of the neighbours' maps.

    Args:
        sent: of all agents of a batch.
        arrival: what arrives of each.
        batch: of these agents.
        scale: of the normalised features.
    """
    features, density, coded = sent.features, sent.density, sent.coded
    is_ego = egos(batch, features)
    level = over_tiles(arrival.levels).cumprod(dim=1)  # a level is of use with those before it
    fine, tile = level[:, :1], over_tiles(arrival.coarse)
    empty_tile = over_tiles((coded.codes.coarse == 0).to(features.dtype)[:, None])
    empty_cell = (coded.codes.fine[:, :1] == 0).to(features.dtype)
    known_empty = torch.maximum(fine * empty_cell, tile * empty_tile)
    normal = (coded.fine * level[:, :, None]).sum(dim=1) + (1 - fine) * tile * coded.coarse
    occupied = torch.maximum(fine, tile) * (1 - known_empty)
    decoded = (normal * scale.deviation + scale.mean) * occupied
    own = is_ego > 0
    return Decoded(
        features=torch.where(own, features, decoded),
        level=torch.where(own, 1.0, torch.maximum(torch.maximum(fine, 0.5 * tile), known_empty)),
        seen=torch.where(own, covered_cells(density), torch.maximum(fine, tile)),
        known_empty=known_empty,
        missing=(1 - fine) * (1 - known_empty) * (1 - is_ego),
    )


def receive(
    sent: Sent, arrival: Arrival, batch: Batch, student: Student, before: Before | None = None
) -> Received:
    """What the egos know of their neighbours' maps.

    Args:
        sent: of all agents of a batch.
        arrival: what arrives of each.
        batch: of these agents.
        student: the receiver.
        before: of the batch's earlier sweeps; None if nothing is remembered.
    """
    scale, vectors = student.restoration, student.config.vectors
    own = egos(batch, sent.features) > 0
    now = decode(sent, arrival, batch, scale)
    last = None
    remembered = torch.zeros_like(now.known_empty) if student.config.memory else None
    density = 1 - now.known_empty
    if before is not None:
        assert batch.earlier is not None
        then = decode(before.sent, before.arrival, batch, scale)
        occupied = then.seen * (1 - torch.where(own, 0.0, then.known_empty)) * before.kept
        last, remembered = last_of(
            scale.normalise(then.features), occupied, batch.earlier.age, batch.earlier.warps, vectors
        )
        density = torch.maximum(density, remembered)
    context = Context(
        missing=now.missing,
        level=now.level,
        boxes=sent.boxes * (sent.boxes[:, :1] >= arrival.least_score) * ~own,
        **_views(now.features, now.seen, batch, scale, vectors),
        last=last,
        remembered=remembered,
    )
    return Received(now.features, torch.where(own, sent.density, density), context)


def restored_agents(batch: Batch, student: Student) -> Tensor:
    """(k,) int64 indices of the agents whose maps are restored: with a memory also the egos."""
    if student.config.memory:
        return torch.arange(len(batch.frame), device=batch.frame.device)
    return batch.neighbours


def restored_maps(received: Received, batch: Batch, student: Student) -> Tensor:
    """Features (n, c, h, w) after restoration."""
    restoration = student.restoration
    chosen = restored_agents(batch, student)
    if not isinstance(restoration, Restoration) or not len(chosen):
        return received.features
    features, density, context = rows(received, chosen)
    return received.features.index_copy(0, chosen, restoration(features, density, context))


def rows(received: Received, chosen: Tensor) -> tuple[Tensor, Tensor, Context]:
    """Features, density and context of some agents."""
    parts = received.context._asdict().items()
    some = {name: part.index_select(0, chosen) for name, part in parts if part is not None}
    context = received.context._replace(**some)
    return received.features.index_select(0, chosen), received.density.index_select(0, chosen), context


def egos(batch: Batch, like: Tensor) -> Tensor:
    """(n, 1, 1, 1) 1 for the egos, else 0."""
    egos = torch.ones(len(batch.frame), 1, 1, 1, dtype=like.dtype, device=like.device)
    return egos.index_fill(0, batch.neighbours, 0)


def _views(
    received: Tensor, seen: Tensor, batch: Batch, scale: TeacherScale, vectors: int
) -> dict[str, Tensor]:
    (normal, seen), warps = in_slots((scale.normalise(received), seen), batch)
    frames = len(batch.sizes)
    maps, warps = by_frame(pooled(normal, seen), frames), by_frame(warps, frames)[:, 1:].flatten(0, 1)
    views = (with_egos(view, frames) for view in views_of(maps[:, 0], maps[:, 1:], warps, vectors))
    most = max(batch.sizes)
    slots = [frame * most + place for frame, size in enumerate(batch.sizes) for place in range(size)]
    present = torch.tensor(slots, device=received.device)
    return {name: view.index_select(0, present) for name, view in zip(('ego', 'others'), views, strict=True)}


def in_slots(maps: Sequence[Tensor], batch: Batch) -> tuple[list[Tensor], Tensor]:
    """Maps of all agents, and their warps, with as many in each frame as in the largest.

    Agents that fill a frame cover nothing.
    """
    warps = batch.warps
    if len(batch.slots) == len(warps):
        return list(maps), warps
    filled = torch.where(batch.absent, warps.new_tensor(ABSENT), warps.index_select(0, batch.slots))
    return [part.index_select(0, batch.slots) for part in maps], filled
