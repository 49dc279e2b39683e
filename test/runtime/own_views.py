# SPDX-License-Identifier: Apache-2.0
"""Views made by hand: ground with returns everywhere, and vehicles in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import flattened, points_in_boxes
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.plausibility.evidence import Said
from diffkd_ros.runtime.plausibility.view import View

GRID = BevGrid(-40.0, -20.0, -3.0, 40.0, 20.0, 1.0, height=50, width=100)


def cars(*places: Sequence[float], score: float = 0.9) -> Boxes3D:
    """Cars of 4.5 x 1.9 m with their centres at x, y, all heading along x."""
    values = np.array([[x, y, -1.0, 4.5, 1.9, 1.5, 0.0] for x, y in places]).reshape(-1, 7)
    return Boxes3D(values, scores=np.full(len(values), score, np.float32))


def view_of(*places: Sequence[float], hidden: Sequence[Sequence[float]] = ()) -> View:
    """What an agent sees that finds these cars; around the hidden places, 6 x 6 m, it has no return."""
    found, centres = cars(*places), GRID.centres()
    warm = points_in_boxes(centres, flattened(found.boxes)) >= 0
    holes = np.array([[x, y, 0.0, 6.0, 6.0, 1.0, 0.0] for x, y in hidden]).reshape(-1, 7)
    seen = points_in_boxes(centres, holes) < 0
    heatmap = np.where(warm, 2.0, -6.0).reshape(GRID.height, GRID.width).astype(np.float32)
    return View.of_map(found, seen.reshape(GRID.height, GRID.width), heatmap, GRID)


def at(x: float, y: float, z: float = 0.0) -> Matrix:
    """A pose without rotation."""
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def said_by(
    name: str, pose: Matrix, boxes: Boxes3D | None, view: View | None = None, age: float = 0.0
) -> Said:
    """What a neighbour says that has the returns of its view, else none."""
    return Said(name, pose, boxes, np.zeros((0, 3)) if view is None else view.returns, age, view)
