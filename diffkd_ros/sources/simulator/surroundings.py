# SPDX-License-Identifier: Apache-2.0
"""Parking places, buildings, walls, poles and trees along the roads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.raycast import Solids, face_planes, round_bounds
from diffkd_ros.sources.simulator.roads import KERB_STRIP, RoadNetwork
from diffkd_ros.sources.simulator.separation import overlap
from diffkd_ros.sources.simulator.shapes import upright_box

PAVEMENT = 2.5
_REACH = 115.0  # metres along an arm up to which it is built up
_KERB_SLOT = 7.2
_LOT_SLOT = 2.9


@dataclass(frozen=True, slots=True)
class Style:
    """How the sides of the roads are built up.

    Attributes:
        corner_houses: whether buildings stand close to the junction's corners.
        houses: share of the plots with a building.
        lots: share of the plots with a parking lot.
        no_parking: share of the kerbs where parking is forbidden.
        fences: share of the parking lots with a low fence or hedge towards the road.
    """

    corner_houses: bool = True
    houses: float = 0.62
    lots: float = 0.28
    no_parking: float = 0.4
    fences: float = 0.0


@dataclass(slots=True)
class Surroundings:
    """The static objects of a scene, placed one after the other.

    A position is given by the arm, the side (1 left, -1 right, looking outwards) and the distance along the
    arm at which the object begins.

    Attributes:
        rng: draws everything.
        roads: the road network.
        ground: the ground.
        style: how the sides of the roads are built up.
        slots: parking places: map x, y, yaw and the length of the longest vehicle that fits, metres.
        boxes: corners (8, 3) and reflectivity of the box-shaped solids.
        rounds: rows as in `Solids.rounds`, reflectivity and roughness of the round solids.
    """

    rng: np.random.Generator
    roads: RoadNetwork
    ground: HeightField
    style: Style
    slots: list[tuple[float, float, float, float]] = field(default_factory=list)
    boxes: list[tuple[NDArray[np.float64], float]] = field(default_factory=list)
    rounds: list[tuple[tuple[float, ...], float, float]] = field(default_factory=list)
    # x, y, yaw, length and depth of the occupied areas.
    _taken: NDArray[np.float64] = field(default_factory=lambda: np.empty((64, 5)))
    _claims: int = 0

    def solids(self) -> Solids:
        """All objects as solids without owner (-1)."""
        corners = np.stack([c for c, _ in self.boxes]) if self.boxes else np.zeros((0, 8, 3))
        rounds = np.array([r for r, _, _ in self.rounds]).reshape(-1, 6)
        count = len(corners) + len(rounds)
        return Solids(
            face_planes(corners),
            rounds,
            np.concatenate([corners, round_bounds(rounds)]),
            np.full(count, -1, np.int64),
            np.array([r for _, r in self.boxes] + [r for _, r, _ in self.rounds], np.float32),
            np.array([0.0] * len(self.boxes) + [s for _, _, s in self.rounds], np.float32),
        )

    def mark_kerb(self, arm: int, side: float) -> None:
        """Add the parking places along a kerb; at some kerbs parking is forbidden."""
        rng, roads = self.rng, self.roads
        if rng.random() < self.style.no_parking:
            return
        left = side * (roads.half_width - KERB_STRIP / 2 + 0.1)
        along = roads.stop_distance + 3.0
        while along < 95.0:
            # Some are bus stops or loading bays of double length.
            places = 2 if rng.random() < 0.12 else 1
            middle = along + places * _KERB_SLOT / 2 + rng.uniform(-0.2, 0.2)
            x, y = roads.place(arm, middle, left + rng.uniform(-0.06, 0.06))
            # Traffic keeps right: on the left of the outward direction it drives inwards.
            yaw = roads.heading(arm, middle) + (np.pi if side > 0 else 0.0)
            turned = np.pi if rng.random() < 0.05 else 0.0
            # Inside a bend the kerb is shorter than the centre line, on which `along` is measured.
            longest = places * _KERB_SLOT * min(1.0, 1.0 - roads.curvatures[arm] * left) - 0.4
            self.slots.append((x, y, yaw + turned + rng.normal(0, 0.012), longest))
            along += places * _KERB_SLOT

    def line_pavement(self, arm: int, side: float) -> None:
        """Put poles, cabinets and, in some streets, trees on a pavement, close to the kerb."""
        rng, roads = self.rng, self.roads
        trees = rng.random() < 0.6
        spacing = rng.uniform(9.0, 16.0)
        along = roads.stop_distance + rng.uniform(1.0, 4.0)
        pole = True
        while along < _REACH - 10.0:
            x, y = roads.place(arm, along, side * (roads.half_width + rng.uniform(0.6, 0.9)))
            if roads.distance_outside(np.array([x]), np.array([y]))[0] > 0.4:
                if pole or not trees:
                    self._pole(x, y)
                else:
                    self._tree(x, y)
                if rng.random() < 0.15:
                    self._cabinet(x, y, roads.heading(arm, along))
            pole = not pole
            along += spacing * rng.uniform(0.8, 1.3)

    def fill_plot(self, arm: int, side: float, along: float) -> float:
        """Put a building, a parking lot, a wall or trees on a plot; returns where the next plot begins."""
        kind = self.rng.random()
        if kind < self.style.houses:
            return self.build_house(arm, side, along) or along + 4.0
        if kind < self.style.houses + self.style.lots:
            return self._lot(arm, side, along) or along + 4.0
        length = self.rng.uniform(8.0, 22.0)
        if self.rng.random() < 0.5:
            self._wall(arm, side, along, length)
        else:
            for _ in range(int(self.rng.integers(1, 4))):
                out = along + self.rng.uniform(0, length)
                x, y = self.roads.place(arm, out, side * (self._building_line + self.rng.uniform(1.0, 9.0)))
                if self.claim(x, y, 0.0, 1.0, 1.0):
                    self._tree(x, y)
        return along + length + 1.0

    def build_house(self, arm: int, side: float, along: float) -> float | None:
        """Add a building, perhaps with a wall; returns the start of the next plot, None if it cannot fit."""
        rng = self.rng
        length, depth = rng.uniform(10.0, 30.0), rng.uniform(9.0, 16.0)
        left = side * (self._building_line + rng.exponential(0.8) + depth / 2)
        x, y = self.roads.place(arm, along + length / 2, left)
        yaw = self.roads.heading(arm, along + length / 2)
        if not self.claim(x, y, yaw, length, depth):
            return None
        z = self.ground.height(x, y)
        corners = upright_box((x, y), yaw, length, depth, (z - 1.0, z + rng.uniform(5.0, 20.0)))
        self.boxes.append((corners, rng.uniform(0.2, 0.6)))
        gap = rng.uniform(0.5, 9.0)
        if gap > 2.5 and rng.random() < 0.6:
            self._wall(arm, side, along + length, gap)
        return along + length + gap

    @property
    def _building_line(self) -> float:
        """Distance from the centre line of an arm beyond which buildings are allowed."""
        return self.roads.half_width + PAVEMENT

    def _lot(self, arm: int, side: float, along: float) -> float | None:
        """Add a parking lot of two or four rows along the road; returns the same as `build_house`."""
        rng = self.rng
        columns = int(rng.integers(4, 9))
        rows = [(3.0, 0.0), (14.5, np.pi), (20.0, 0.0), (31.5, np.pi)][: 2 if rng.random() < 0.5 else 4]
        length, depth = columns * _LOT_SLOT, rows[-1][0] + 3.0
        x, y = self.roads.place(arm, along + length / 2, side * (self._building_line + 0.5 + depth / 2))
        yaw = self.roads.heading(arm, along + length / 2)
        if not self.claim(x, y, yaw, length, depth):
            return None
        if self.style.fences and rng.random() < self.style.fences:
            edge = self.roads.place(arm, along + length / 2, side * (self._building_line + 0.6))
            self.add_box(*edge, yaw, (length, 0.3, rng.uniform(0.7, 1.6)), 0.4)
        c, s = np.cos(yaw), np.sin(yaw)
        for column in range(columns):
            for row, turned in rows:
                ahead = (column + 0.5) * _LOT_SLOT - length / 2
                aside = side * (row - depth / 2 + rng.uniform(-0.2, 0.2))
                nose = yaw + side * np.pi / 2 + turned + (np.pi if rng.random() < 0.5 else 0.0)
                self.slots.append(
                    (x + ahead * c - aside * s, y + ahead * s + aside * c, nose + rng.normal(0, 0.02), 5.3)
                )
        return along + length + 2.0

    def _wall(self, arm: int, side: float, along: float, length: float) -> None:
        left = side * (self._building_line + self.rng.uniform(0.2, 1.5))
        x, y = self.roads.place(arm, along + length / 2, left)
        yaw = self.roads.heading(arm, along + length / 2)
        if self.claim(x, y, yaw, length, 0.3):
            z = self.ground.height(x, y)
            height = self.rng.uniform(0.8, 2.4)
            corners = upright_box((x, y), yaw, length, 0.25, (z - 0.5, z + height))
            self.boxes.append((corners, self.rng.uniform(0.2, 0.5)))

    def _pole(self, x: float, y: float) -> None:
        z, half = self.ground.height(x, y), self.rng.uniform(1.5, 4.0)
        radius = self.rng.uniform(0.05, 0.12)
        self.rounds.append(((x, y, z + half - 0.2, radius, half + 0.2, 1.0), 0.45, 0.0))

    def _tree(self, x: float, y: float) -> None:
        z = self.ground.height(x, y)
        trunk, radius = self.rng.uniform(2.0, 3.0), self.rng.uniform(1.0, 2.2)
        half = radius * self.rng.uniform(0.8, 1.4)
        thickness = self.rng.uniform(0.1, 0.25)
        self.rounds.append(((x, y, z + trunk / 2, thickness, trunk / 2 + 0.3, 1.0), 0.25, 0.02))
        self.rounds.append(((x, y, z + trunk + half * 0.9, radius, half, 0.0), 0.4, 0.25))

    def _cabinet(self, x: float, y: float, yaw: float) -> None:
        """Add a street cabinet, a little farther along the pavement than x, y."""
        rng, z = self.rng, self.ground.height(x, y)
        length, width, height = rng.uniform(0.6, 1.6), rng.uniform(0.35, 0.7), rng.uniform(0.9, 1.5)
        shift = rng.uniform(1.2, 2.0)
        centre = (x + shift * np.cos(yaw), y + shift * np.sin(yaw))
        corners = upright_box(centre, yaw, length, width, (z - 0.2, z + height))
        self.boxes.append((corners, rng.uniform(0.2, 0.6)))

    def add_box(
        self, x: float, y: float, yaw: float, size: tuple[float, float, float], reflectivity: float
    ) -> None:
        """Add an upright box of that length, width and height on the ground."""
        z = self.ground.height(x, y)
        corners = upright_box((x, y), yaw, size[0], size[1], (z - 0.3, z + size[2]))
        self.boxes.append((corners, reflectivity))

    def claim(self, x: float, y: float, yaw: float, length: float, depth: float) -> bool:
        """Occupy a footprint, unless it overlaps a road, its pavement or an occupied footprint."""
        outline_x, outline_y = _outline(x, y, yaw, length, depth)
        if self.roads.nearer(outline_x, outline_y, PAVEMENT - 1.0):
            return False
        if _meets_any(x, y, yaw, length, depth, self._taken[: self._claims]):
            return False
        if self._claims == len(self._taken):
            self._taken = np.concatenate([self._taken, np.empty_like(self._taken)])
        self._taken[self._claims] = x, y, yaw, length, depth
        self._claims += 1
        return True


def make_surroundings(
    rng: np.random.Generator, roads: RoadNetwork, ground: HeightField, style: Style
) -> Surroundings:
    """Build up both sides of every arm: kerb, pavement, then buildings, parking lots or open ground."""
    scene = Surroundings(rng, roads, ground, style)
    sides = [(arm, side) for arm in range(len(roads.directions)) for side in (1.0, -1.0)]
    for arm, side in sides:
        scene.mark_kerb(arm, side)
        scene.line_pavement(arm, side)
    # Junction corners come first: buildings there hide the cross traffic.
    next_plot = {}
    for arm, side in sides:
        along = roads.stop_distance - 6.0 + rng.exponential(1.5)
        next_plot[arm, side] = along
        while style.corner_houses and along < roads.stop_distance + 12.0:
            end = scene.build_house(arm, side, along)
            if end is not None:
                next_plot[arm, side] = end
                break
            along += 1.5
    for (arm, side), along in next_plot.items():
        while along < _REACH:
            along = scene.fill_plot(arm, side, along)
    return scene


@kernel
def _outline(
    x: float, y: float, yaw: float, length: float, depth: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map x and y of 28 points on the edge of a rectangle."""
    xs, ys = np.empty(28), np.empty(28)
    c, s = np.cos(yaw), np.sin(yaw)
    for k in range(28):
        share = (k // 4) / 6 - 0.5
        side = 0.5 if k % 2 else -0.5
        ahead, left = (share * length, side * depth) if k % 4 < 2 else (side * length, share * depth)
        xs[k] = x + c * ahead - s * left
        ys[k] = y + s * ahead + c * left
    return xs, ys


@kernel
def _meets_any(
    x: float, y: float, yaw: float, length: float, depth: float, taken: NDArray[np.float64]
) -> bool:
    """Whether a rectangle overlaps any of (n, 5) x, y, yaw, length, depth."""
    for k in range(len(taken)):
        if overlap(
            taken[k, 0] - x, taken[k, 1] - y, yaw, length, depth, taken[k, 2], taken[k, 3], taken[k, 4]
        ):
            return True
    return False
