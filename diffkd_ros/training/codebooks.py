# SPDX-License-Identifier: Apache-2.0
"""A vehicle's own detector and the codes of its maps, prepared before the stages of the link."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.codebook import RATE, TILE, bits_of, cells_of, means_of_tiles, nearest, over_tiles
from diffkd_ros.model.fusion import AdaptiveGatedFusion
from diffkd_ros.model.student import Student
from diffkd_ros.training.data import Batch

CELLS_OF_A_BATCH = 6000
TILES_OF_A_BATCH = 1000
ITERATIONS = 20
EVEN_WEIGHT = 0.1  # of a cell without evidence of a vehicle
EVIDENCE = 5  # cells along the edge of the area around a cell in which a score counts as its evidence


@torch.no_grad()
def prepare_sender(student: Student, batches: Iterable[Batch]) -> None:
    """Make the student's head and modulation the sender's detector, and fit the codes to its maps.

    Cells near evidence of a vehicle count most.

    Args:
        student: with a sender.
        batches: of frames with the corruptions of the training.
    """
    sender = student.sender
    assert sender is not None, 'Recipe checks this'
    assert isinstance(student.fusion, AdaptiveGatedFusion), 'Recipe checks this'
    sender.modulation.load_state_dict(student.fusion.fused.state_dict())
    sender.head.load_state_dict(student.head.state_dict())
    draw = torch.Generator().manual_seed(0)  # whatever the run's seed: several runs may share the codes
    maps = _gather(student.eval(), batches, draw)
    codec, rest = sender.codec, maps.cells
    for level in range(len(codec.fine_vectors)):
        first = int(level == 0)
        codes = codec.fine_vectors.shape[1] - first
        vectors, frequency = fit_codes(rest, maps.weights, codes, RATE, draw)
        rest = rest - vectors[nearest(rest, vectors, RATE * bits_of(frequency))]
        if level == 0:
            vectors, frequency = _with_empty(vectors, frequency, maps.empty_cells)
        codec.fine_vectors[level], codec.fine_frequency[level] = vectors, frequency
    vectors, _ = fit_codes(maps.tiles, maps.weights_of_tiles, len(codec.coarse_vectors) - 1, 0.0, draw)
    # Coarse codes are sent of all tiles.
    count = nearest(maps.tiles, vectors).bincount(minlength=len(vectors))
    coarse = _with_empty(vectors, count / len(maps.tiles), maps.empty_tiles)
    codec.coarse_vectors[:], codec.coarse_frequency[:] = coarse


class _Gathered(NamedTuple):
    """Samples of the maps that a student's encoder makes.

    Attributes:
        cells: (k, c) normalised features of cells that hold something.
        weights: (k,) of their errors.
        tiles: (m, c) mean features of tiles that hold something.
        weights_of_tiles: (m,).
        empty_cells: share of the empty ones in such tiles, by their weight.
        empty_tiles: share of the empty ones among all tiles.
    """

    cells: Tensor
    weights: Tensor
    tiles: Tensor
    weights_of_tiles: Tensor
    empty_cells: Tensor
    empty_tiles: Tensor


def _gather(student: Student, batches: Iterable[Batch], draw: torch.Generator) -> _Gathered:
    sender, scale = student.sender, student.restoration
    assert sender is not None
    samples, sums = [], []
    for batch in batches:
        features, density = student.encoder(batch.agents.points, batch.agents.index, batch.agents.count)
        normal, occupied = scale.normalise(features), covered_cells(density)
        score = torch.sigmoid(sender.detect(features)[0])
        weight = EVEN_WEIGHT + functional.max_pool2d(score, EVIDENCE, 1, EVIDENCE // 2)
        means, share = means_of_tiles(normal, occupied)
        weight_of_tile = functional.max_pool2d(weight, TILE)
        some = _some(occupied, CELLS_OF_A_BATCH, draw)
        of_cells = cells_of(normal)[some], cells_of(weight)[some, 0]
        some = _some(share, TILES_OF_A_BATCH, draw)
        samples.append((*of_cells, cells_of(means)[some], cells_of(weight_of_tile)[some, 0]))
        # Fine codes are sent of tiles that hold something.
        sent = over_tiles(weight_of_tile * (share > 0))
        empty = (sent * (1 - occupied)).sum(), (share == 0).sum()
        sums.append(torch.stack((*empty, sent.sum(), share.new_tensor(share.numel()))))
    empty_cells, empty_tiles, in_cells, in_tiles = torch.stack(sums).sum(dim=0)
    cells, weights, tiles, of_tiles = (torch.cat(parts) for parts in zip(*samples, strict=True))
    return _Gathered(cells, weights, tiles, of_tiles, empty_cells / in_cells, empty_tiles / in_tiles)


def copy_sender(source: Student, target: Student) -> None:
    """Give a student the detector and the codes of another one's sender."""
    assert source.sender is not None
    assert target.sender is not None
    for name in ('modulation', 'head', 'codec'):
        getattr(target.sender, name).load_state_dict(getattr(source.sender, name).state_dict())


def fit_codes(
    cells: Tensor, weight: Tensor, codes: int, rate: float, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vectors that code cells with the least error plus `rate` times the bits of the codes.

    By Lloyd's iterations with the cost of the bits in the choice of a code (Chou, Lookabaugh and Gray, 1989).

    Args:
        cells: (k, c).
        weight: (k,) of each cell's error.
        codes: number of vectors.
        rate: squared error of a cell that a bit may save.
        draw: of the cells from which the vectors start.

    Returns:
        (codes, c) vectors, and (codes,) their share of the weight.
    """
    vectors = cells[torch.randint(len(cells), (codes,), generator=draw).to(cells.device)]
    frequency = torch.full_like(vectors[:, 0], 1 / codes)
    for _ in range(ITERATIONS):
        chosen = nearest(cells, vectors, rate * bits_of(frequency))
        share = torch.zeros_like(frequency).index_add_(0, chosen, weight)
        sums = torch.zeros_like(vectors).index_add_(0, chosen, weight[:, None] * cells)
        vectors = torch.where(share[:, None] > 0, sums / share[:, None], vectors)
        frequency = share / share.sum()
    return vectors, frequency


def _some(occupied: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Numbers of some rows of which `occupied` (n, 1, h, w) is not 0."""
    rows = occupied.flatten().nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=draw).to(rows.device)[:most]]


def _with_empty(vectors: Tensor, frequency: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """With code 0 for what is empty, which is this frequent."""
    vectors = torch.cat((torch.zeros_like(vectors[:1]), vectors))
    return vectors, torch.cat((empty[None], (1 - empty) * frequency))
