# SPDX-License-Identifier: Apache-2.0
"""What an agent sees by itself, and whether a vehicle can be where another one says it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import count_points, widened
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.overlap import bev_iou

RETURNS = 4
"""Cells with returns on a box from which on the place counts as seen."""
SAME = 0.3
"""IoU in the bird's-eye view of two boxes of the same vehicle."""
OWN = 2.5
"""Metres around a LiDAR in which its own vehicle is."""
SURE = 0.5
"""Score from which on a vehicle is surely seen."""

_WARM = float(np.log(0.05 / 0.95))  # logit of the score from which on a cell may hold a vehicle
_AROUND = 0.4  # metres to each side of a box in which returns are counted
_NEAR = 1.2  # metres to each side of a box in which a vehicle may be seen instead
_WELL_SEEN = 8  # cells with returns on a vehicle


@dataclass(frozen=True)
class View:
    """What the network finds in the map of one agent alone, in the frame of its LiDAR.

    Attributes:
        boxes: detections with scores.
        returns: (n, 3) centres of the cells with a return, z = 0.
        warm: (m, 3) centres of the cells that may hold a vehicle, z = 0.
        grid: of the map.
    """

    boxes: Boxes3D
    returns: NDArray[np.float64]
    warm: NDArray[np.float64]
    grid: BevGrid

    @classmethod
    def of_map(
        cls, boxes: Boxes3D, occupied: NDArray[np.bool_], heatmap: NDArray[np.float32], grid: BevGrid
    ) -> View:
        """From detections, cells with a return (height, width), and heat map logits (height, width)."""
        return cls(boxes, grid.centres_of(occupied), grid.centres_of(heatmap >= _WARM), grid)

    @cached_property
    def sure(self) -> Boxes3D:
        """The vehicles that are surely seen."""
        return self.boxes[from_score(SURE, self.boxes)]

    @cached_property
    def well_seen(self) -> NDArray[np.float64]:
        """(n, 7) those with so many returns that others with returns there must find them, too."""
        boxes = self.sure.boxes
        return boxes[cells_on(boxes, self.returns) >= _WELL_SEEN]

    def contradicts(
        self, boxes: NDArray[np.float64], least: int = RETURNS, moved: float = 0.0
    ) -> NDArray[np.bool_]:
        """Whether there is no vehicle in places that are seen.

        A place counts as seen if there are returns on it, of the ground for example. Boxes around the own
        LiDAR or outside the grid are not contradicted.

        Args:
            boxes: (n, 7) in the frame of the view.
            least: cells with returns.
            moved: metres that the vehicles may have moved since.
        """
        grid = self.grid
        x, y = boxes[:, 0], boxes[:, 1]
        inside = (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
        judged = inside & (np.hypot(x, y) >= OWN)
        seen = cells_on(boxes, self.returns) >= least
        return judged & seen & (count_points(self.warm, widened(boxes, _NEAR + moved)) == 0)


def cells_on(boxes: NDArray[np.float64], cells: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of cells, of which centres (k, 3) are given, on or next to each of the boxes (n, 7)."""
    return count_points(cells, widened(boxes, _AROUND))


def overlapping(boxes: NDArray[np.float64], others: NDArray[np.float64], iou: float) -> NDArray[np.bool_]:
    """Whether each box (n, 7) has an IoU of at least `iou` with one of the others (m, 7)."""
    return np.asarray((bev_iou(boxes, others) >= iou).any(axis=1))


def from_score(score: float, boxes: Boxes3D) -> NDArray[np.bool_]:
    """Mask of the boxes with at least this score."""
    assert boxes.scores is not None, 'detections have scores'
    return boxes.scores >= score
