# SPDX-License-Identifier: Apache-2.0
"""What else stands and walks at the roads of the world `varied`: barriers, signs, plants, pedestrians."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.sources.simulator.roads import RoadNetwork
from diffkd_ros.sources.simulator.shapes import PEDESTRIAN, Vehicle, draw_vehicle, strip
from diffkd_ros.sources.simulator.surroundings import PAVEMENT, Surroundings

_REACH = 150.0  # metres along an arm up to which barriers are built
_SEGMENT = 10.0  # metres of a barrier that are straight
_RETROREFLECTOR = 1.0


def add_clutter(scene: Surroundings, straight: bool) -> None:
    """Add what stands along the roads.

    Args:
        scene: of the buildings, which are complete.
        straight: whether the road leads straight through, without side roads.
    """
    rng, roads = scene.rng, scene.roads
    begin = 0.0 if straight else roads.stop_distance + 6.0
    if straight and rng.random() < 0.6:
        _barrier(scene, 0, 0.0, -_REACH, _REACH, rng.uniform(0.12, 0.25), rng.uniform(0.7, 1.1))
    for arm in range(len(roads.directions)):
        for side in (1.0, -1.0):
            if rng.random() < (0.4 if straight else 0.15):
                left = side * (roads.half_width + rng.uniform(0.3, 0.6))
                _barrier(scene, arm, left, begin, _REACH, 0.12, rng.uniform(0.6, 0.9))
            _furniture(scene, arm, side, begin)
    for _ in range(int(rng.integers(4, 30))):
        _bush(scene)
    for _ in range(int(rng.integers(0, 12))):
        _container(scene)


def _barrier(
    scene: Surroundings, arm: int, left: float, begin: float, end: float, width: float, height: float
) -> None:
    """A concrete barrier, guard rail or fence that follows the road and the slope."""
    marks = np.arange(begin, end + 0.1, _SEGMENT)
    ends = [scene.roads.place(arm, float(along), left) for along in marks]
    levels = [scene.ground.height(x, y) for x, y in ends]
    reflectivity = scene.rng.uniform(0.2, 0.7)
    for k in range(len(ends) - 1):
        corners = strip(ends[k], ends[k + 1], levels[k], levels[k + 1], width, height)
        scene.boxes.append((corners, reflectivity))


def _furniture(scene: Surroundings, arm: int, side: float, begin: float) -> None:
    """Signs, bins and bollards on the pavement, and hedges behind it."""
    rng, roads = scene.rng, scene.roads
    along = begin + rng.uniform(2.0, 15.0)
    while along < 100.0:
        x, y = roads.place(arm, along, side * (roads.half_width + rng.uniform(0.5, 1.6)))
        yaw, kind = roads.heading(arm, along), rng.random()
        z = scene.ground.height(x, y)
        if kind < 0.35:
            height, edge = rng.uniform(2.0, 3.2), rng.uniform(0.5, 1.0)
            scene.rounds.append(((x, y, z + height / 2, 0.04, height / 2 + 0.2, 1.0), 0.4, 0.0))
            scene.boxes.append((_plate(x, y, yaw, z + height, edge), _RETROREFLECTOR))
        elif kind < 0.6:
            length, width, height = rng.uniform(0.5, 1.4), rng.uniform(0.5, 0.9), rng.uniform(0.8, 1.4)
            scene.add_box(x, y, yaw, (length, width, height), rng.uniform(0.1, 0.6))
        elif kind < 0.8:
            half = rng.uniform(0.4, 0.55)
            scene.rounds.append(((x, y, z + half, rng.uniform(0.06, 0.2), half, 1.0), 0.5, 0.0))
        else:
            length, width = rng.uniform(4.0, 18.0), rng.uniform(0.5, 1.2)
            x, y = roads.place(
                arm, along + length / 2, side * (roads.half_width + PAVEMENT + 0.2 + width / 2)
            )
            yaw = roads.heading(arm, along + length / 2)
            if scene.claim(x, y, yaw, length, width):
                scene.add_box(x, y, yaw, (length, width, rng.uniform(0.7, 2.0)), 0.4)
            along += length
        along += rng.uniform(3.0, 16.0)


def _plate(x: float, y: float, yaw: float, z: float, edge: float) -> NDArray[np.float64]:
    """Corners (8, 3) of a square sign whose centre is at x, y, z and which faces along yaw."""
    thickness = 0.04
    dx, dy = 0.5 * thickness * np.cos(yaw), 0.5 * thickness * np.sin(yaw)
    bottom = z - edge / 2
    return strip((x - dx, y - dy), (x + dx, y + dy), bottom, bottom, edge, edge)


def _container(scene: Surroundings) -> None:
    """A skip, container or shed of about the size of a vehicle, off the roads."""
    rng, roads = scene.rng, scene.roads
    arm, side = int(rng.integers(len(roads.directions))), rng.choice((-1.0, 1.0))
    along = rng.uniform(0.0, 70.0)
    length, width, height = rng.uniform(2.0, 6.5), rng.uniform(1.4, 2.5), rng.uniform(1.0, 2.6)
    left = roads.half_width + PAVEMENT + width / 2 + rng.exponential(4.0)
    x, y = roads.place(arm, along, side * left)
    yaw = roads.heading(arm, along) + rng.choice((0.0, np.pi / 2)) + rng.normal(0.0, 0.1)
    if scene.claim(x, y, yaw, length, width):
        scene.add_box(x, y, yaw, (length, width, height), rng.uniform(0.1, 0.7))


def _bush(scene: Surroundings) -> None:
    """A bush somewhere off the roads."""
    rng, roads = scene.rng, scene.roads
    arm, side = int(rng.integers(len(roads.directions))), rng.choice((-1.0, 1.0))
    radius = rng.uniform(0.4, 1.4)
    x, y = roads.place(
        arm, rng.uniform(0.0, 80.0), side * (roads.half_width + PAVEMENT + rng.exponential(6.0))
    )
    if scene.claim(x, y, 0.0, 2 * radius, 2 * radius):
        half = radius * rng.uniform(0.5, 1.2)
        z = scene.ground.height(x, y)
        scene.rounds.append(((x, y, z + 0.7 * half, radius, half, 0.0), rng.uniform(0.2, 0.5), 0.15))


def draw_pedestrians(
    rng: np.random.Generator, roads: RoadNetwork, frames: int, rate: float
) -> tuple[tuple[Vehicle, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Draw up to 25 pedestrians who walk or stand on the pavements.

    Returns:
        Their shapes; (frames, n, 3) float64 map x, y and yaw; (frames, n) float64 metres per second.
    """
    count = int(rng.integers(0, 26))
    steps = max(frames - 1, 1)
    begin, end = np.empty((count, 2)), np.empty((count, 2))
    for k in range(count):
        arm, side = int(rng.integers(len(roads.directions))), rng.choice((-1.0, 1.0))
        pace = 0.0 if rng.random() < 0.3 else rng.choice((-1.0, 1.0)) * rng.uniform(0.6, 1.7)
        along = roads.stop_distance + 1.0 + rng.exponential(20.0)
        left = side * (roads.half_width + rng.uniform(0.7, 2.2))
        begin[k] = roads.place(arm, along, left)
        end[k] = roads.place(arm, max(along + pace * steps / rate, roads.stop_distance), left)
    moved = end - begin
    motion = np.empty((frames, count, 3))
    motion[..., :2] = begin + np.arange(frames)[:, None, None] / steps * moved
    heading = np.arctan2(moved[:, 1], moved[:, 0])
    motion[..., 2] = np.where(moved.any(axis=1), heading, rng.uniform(-np.pi, np.pi, count))
    speed = np.hypot(moved[:, 0], moved[:, 1]) * rate / steps
    shapes = tuple(draw_vehicle(rng, classes=(PEDESTRIAN,)) for _ in range(count))
    return shapes, motion, np.broadcast_to(speed, (frames, count))
