# SPDX-License-Identifier: Apache-2.0
"""What an agent says of a sweep, and what a liar knows when it says something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.features import BevFeature

REPLAYED = 1.6
"""Seconds by which a replayed sweep is older than its stamp."""

Goal = Literal['spoof', 'removal']
"""Which loss an optimised map minimises, see `attacks.optimised`."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What an agent says of one sweep, before it is coded as a whole map, in layers or as boxes.

    Attributes:
        bev: its feature map.
        boxes: its detections with scores, in its LiDAR frame; None for those that its own network finds in
            `bev`.
        pose: (4, 4) map <- LiDAR.
        by_boxes: whether in layers no fine codes are sent of what differs from the honest map: the ego takes
            boxes from a neighbour only where it does not have the map itself.
    """

    bev: BevFeature
    boxes: Boxes3D | None
    pose: Matrix
    by_boxes: bool = False


class Optimiser(Protocol):
    """Computes maps by gradients through a model."""

    @property
    def identity(self) -> str:
        """Names the model, such as the hash of its file."""

    def prepare(self) -> None:
        """Open the model anew, on another machine or after an earlier run.

        Raises:
            DiffkdError: if it is another one.
        """

    def __call__(
        self,
        goal: Goal,
        statements: Sequence[Statement],
        targets: NDArray[np.float64],
        limits: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> BevFeature:
        """The liar's map after optimisation.

        Args:
            goal: which loss is minimised.
            statements: of the ego, of the liar, whose map is the start, and of other agents.
            targets: (n, 7) boxes that shall be found or missed, in the ego's LiDAR frame.
            limits: (channels, height, width) lowest and highest value of each cell.
        """


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a liar knows: more than a real one can, so that attacks are as strong as possible.

    Attributes:
        grid: of all maps.
        vehicles: (n, 7) true boxes of all other vehicles around, in the liar's LiDAR frame.
        ego_pose: (4, 4) map <- LiDAR of the ego.
        rng: generator for this liar, attack and seed.
        others: gives the honest statements of the other agents, the ego's first; none if the ego has no map.
        earlier: gives the liar's own honest statement of `REPLAYED` seconds before; None if there is none.
        elsewhere: gives an honest statement of another scenario.
        optimiser: None if there is no model to compute gradients of.
    """

    grid: BevGrid
    vehicles: NDArray[np.float64]
    ego_pose: Matrix
    rng: np.random.Generator
    others: Callable[[], Sequence[Statement]]
    earlier: Callable[[], Statement | None]
    elsewhere: Callable[[], Statement | None]
    optimiser: Optimiser | None = None
