# SPDX-License-Identifier: Apache-2.0
"""The classic design beside ours: a vehicle's encoding and the ego, in turns on the same clouds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.benchmark.clock import Clock, Job
from diffkd_ros.benchmark.simulation import AGENTS
from diffkd_ros.benchmark.vehicles import POINTS, Vehicles, agents_text, points_text, resampled
from diffkd_ros.geometry.grid import BevGrid

CLASSIC = 'classic design'
COMPARED_AGENTS = 3
ENCODE, EGO, WHOLE, RATIO = 'encode', f'ego, {COMPARED_AGENTS} agents', 'whole', 'classic design / this'


class Design(Protocol):
    """The parts of `benchmark.classic.ClassicDesign` that are timed. Its maps are passed on as they are."""

    def encode(self, points: NDArray[np.float32]) -> Any:
        """Map of a cloud (n, 4) of x, y, z in metres, intensity."""

    def detect(self, maps: Sequence[Any]) -> object:
        """What the ego detects in all agents' maps, its own first."""


Opener = Callable[[BevGrid, int], Design]
"""Makes the classic design for the grid of a model's feature map and a number of CPU threads.

It raises MissingExtra if torch is not installed."""


def row(design: str, part: str) -> str:
    """Name of a result: `part` is `ENCODE`, `EGO`, `WHOLE` or `RATIO`."""
    return f'in turns, {design}: {part}'


def classic_encoding(count: int) -> str:
    """Name of the row of the classic design's encoding of one of `POINTS`."""
    return f'{CLASSIC}, {points_text(count)}'


def classic_ego(count: int) -> str:
    """Name of the row of the classic design's ego with so many agents."""
    return f'{CLASSIC}, fuse and head: {agents_text(count)}'


def scale(classic: Design, vehicles: Vehicles, clock: Clock) -> dict[str, float]:
    """Milliseconds of the classic design over the number of points and of agents, by row."""
    maps = [classic.encode(points) for points in vehicles.clouds]
    encodings = {
        classic_encoding(count): clock.median_ms(
            partial(classic.encode, resampled(vehicles.clouds[0], count))
        )
        for count in POINTS
    }
    egos = {
        classic_ego(count): clock.median_ms(partial(classic.detect, maps[:count]))
        for count in range(1, AGENTS + 1)
    }
    return encodings | egos


def compare(classic: Design, vehicles: Vehicles, clock: Clock) -> dict[str, float]:
    """The classic design and ours, in turns, on the frame's first `COMPARED_AGENTS` clouds.

    Returns:
        By `row` of each design: milliseconds of one encoding, of the ego and of both, and the classic
        design's time for both over this.
    """
    maps = [classic.encode(points) for points in vehicles.clouds[:COMPARED_AGENTS]]
    egos: dict[str, Job] = {**vehicles.egos(COMPARED_AGENTS), CLASSIC: partial(classic.detect, maps)}
    encodings: dict[str, Job] = {
        'ours': vehicles.encode,
        CLASSIC: partial(classic.encode, vehicles.clouds[0]),
    }
    # All in the same turns: a machine that becomes busy changes no ratio.
    medians = clock.medians_ms(egos | {row(name, ENCODE): job for name, job in encodings.items()})
    results: dict[str, float] = {}
    for name in egos:
        encoding = medians[row(CLASSIC if name == CLASSIC else 'ours', ENCODE)]
        results[row(name, ENCODE)], results[row(name, EGO)] = encoding, medians[name]
        results[row(name, WHOLE)] = encoding + medians[name]
    for name in egos:
        results[row(name, RATIO)] = results[row(CLASSIC, WHOLE)] / results[row(name, WHOLE)]
    return results
