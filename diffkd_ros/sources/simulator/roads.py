# SPDX-License-Identifier: Apache-2.0
"""A junction with two to four arms, its lanes, and the routes through it. Traffic keeps to the right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.boxes import wrapped
from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.config import Layout

LANE_LENGTH = 170.0
KERB_STRIP = 2.5
CONFLICT_DISTANCE = 3.1
MAX_CURVATURE = 1 / 110
_ARMS: dict[Layout, list[float]] = {
    'four_way': [0.0, 90.0, 180.0, 270.0],
    't_junction': [0.0, 90.0, 180.0],
    'bend': [0.0, 125.0],
    'straight': [0.0, 180.0],
    'car_park': [0.0, 90.0, 180.0],
}
"""Outward headings of the arms before they are jittered, degrees."""
_BLOCK = 8  # nodes along a side of a block of a grid
_CONNECTOR_POINTS = 17
_LANE_POINTS = 41


@dataclass(frozen=True, slots=True)
class Route:
    """A route from an entry lane through the junction to an exit lane.

    Attributes:
        entry: index of the entry lane; the lanes of an arm have consecutive indices, the leftmost first.
        exit: index of the exit lane.
        turn: angle from the heading of the entry to that of the exit, radians, left positive.
        length: of the part inside the junction, metres.
        turn_speed: highest speed in the junction, metres per second.
        path: (n, 3); distance s along the route, 0 at the stop line and negative before, and map x, y.
    """

    entry: int
    exit: int
    turn: float
    length: float
    turn_speed: float
    path: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoadNetwork:
    """Arms that meet at the origin of the map: straight up to the stop line, then of constant curvature.

    Attributes:
        directions: (arms,) float64 outward headings at the origin, radians, ascending.
        curvatures: (arms,) float64 of the centre lines beyond the stop line, 1/m, positive to the left.
        lanes: driving lanes per direction, equal on every arm.
        half_width: from the centre line to the kerb: the driving lanes and a parking strip, metres.
        stop_distance: of the stop lines from the origin, metres.
        routes: all routes through the junction.
        conflicts: (routes, routes) bool; whether vehicles on the two routes might collide in the junction.
        phase: (routes,) int64; traffic-light group of a route; one group has green at a time.
    """

    directions: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    lanes: int
    half_width: float
    stop_distance: float
    routes: tuple[Route, ...]
    conflicts: NDArray[np.bool_]
    phase: NDArray[np.int64]

    def distance_outside(
        self, x: NDArray[np.float64], y: NDArray[np.float64], limit: float = np.inf
    ) -> NDArray[np.float64]:
        """Distances (n,) of points from the nearest carriageway, at most `limit`, metres; 0 on one."""
        return _distance_outside(
            self.directions, self.curvatures, self.half_width, self.stop_distance, limit, x, y
        )

    def nearer(self, x: NDArray[np.float64], y: NDArray[np.float64], clear: float) -> bool:
        """Whether one of the points (n,) is nearer than `clear` metres to a carriageway."""
        return _nearer(self.directions, self.curvatures, self.half_width, self.stop_distance, clear, x, y)

    def distance_grid(
        self, axis: NDArray[np.float64], limit: float, from_centre: bool = False
    ) -> NDArray[np.float64]:
        """Distances (n, n) of the nodes of a grid from the nearest carriageway or centre line.

        Args:
            axis: (n,) evenly spaced x of the columns and y of the rows, metres.
            limit: largest distance returned, metres.
            from_centre: measure from the centre lines; 0 within `stop_distance` of the origin.
        """
        half_width = 0.0 if from_centre else self.half_width
        return _distance_grid(self.directions, self.curvatures, half_width, self.stop_distance, limit, axis)

    def heading(self, arm: int, along: float) -> float:
        """Outward heading of an arm at that distance from the origin, radians."""
        return float(self.directions[arm] + self.curvatures[arm] * max(along - self.stop_distance, 0.0))

    def place(self, arm: int, along: float, left: float) -> tuple[float, float]:
        """Map x, y at `along` metres on the centre line of an arm and `left` of its outward heading."""
        return _place(self.directions[arm], self.curvatures[arm], self.stop_distance, along, left)


def make_roads(rng: np.random.Generator, layout: Layout) -> RoadNetwork:
    """Draw a road network of the given layout: arm angles, lane count and width."""
    straight_on = layout == 'straight'
    angles = np.array(_ARMS[layout])
    angles += rng.uniform(-17.0, 17.0, len(angles)) * (0.1 if straight_on else 1.0)
    directions = np.sort(np.mod(np.radians(angles) + rng.uniform(0, 2 * np.pi), 2 * np.pi))
    lanes = (1 if rng.random() < 0.75 else 2) + straight_on
    lane_width = float(rng.uniform(3.3, 3.6))
    half_width = lanes * lane_width + KERB_STRIP
    # All arms curve in the same direction, so they do not meet again farther out.
    curvatures = rng.choice([-1.0, 1.0]) * rng.uniform(0.0, MAX_CURVATURE, len(directions))
    if straight_on:
        curvatures *= 0.1
    gaps = np.diff(np.append(directions, directions[0] + 2 * np.pi))
    # The kerbs of two adjacent arms meet at half_width / tan(half the angle between them).
    stop_distance = float(max(half_width / np.tan(np.minimum(gaps, np.radians(150)) / 2).min(), 4.0) + 5.0)

    routes, phases = [], []
    for arm in range(len(directions)):
        for to in range(len(directions)):
            if to == arm:
                continue
            turn = float(wrapped(directions[to] - directions[arm] - np.pi))
            for lane in range(lanes):
                straight = abs(turn) < np.radians(45) or len(directions) == 2
                # Vehicles turn from the lane on the side of the turn into the lane on the same side.
                if not straight and lane != (0 if turn > 0 else lanes - 1):
                    continue
                path, length, turn_speed = _path(
                    directions, curvatures, arm, to, lane, lane_width, stop_distance
                )
                routes.append(Route(arm * lanes + lane, to * lanes + lane, turn, length, turn_speed, path))
                phases.append(arm % 2 if len(directions) > 2 else 0)
    return RoadNetwork(
        directions,
        curvatures,
        lanes,
        half_width,
        stop_distance,
        tuple(routes),
        _conflicts(routes),
        np.array(phases, np.int64),
    )


def _path(
    directions: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    arm: int,
    to: int,
    lane: int,
    lane_width: float,
    stop_distance: float,
) -> tuple[NDArray[np.float64], float, float]:
    """Path (n, 3) of s, x, y; length and highest speed in the junction."""
    offset = (lane + 0.5) * lane_width
    outwards = stop_distance + np.linspace(0.0, LANE_LENGTH, _LANE_POINTS)
    entry, leave = (
        _places(directions[k], curvatures[k], stop_distance, outwards, left)
        for k, left in ((arm, offset), (to, -offset))
    )
    entry = entry[::-1]
    # The exit continues straight beyond the lane's end, so that leaving vehicles always have a path.
    leave = np.concatenate([leave, leave[-1:] + 40.0 * (leave[-1:] - leave[-2:-1])])
    start, end = entry[-1], leave[0]
    out_in = np.array([np.cos(directions[arm]), np.sin(directions[arm])])
    out_to = np.array([np.cos(directions[to]), np.sin(directions[to])])
    # A cubic Bezier curve, tangential to the headings of entry and exit.
    reach = 0.4 * np.linalg.norm(end - start)
    u = np.linspace(0, 1, _CONNECTOR_POINTS)[:, None]
    control_in, control_to = start - reach * out_in, end - reach * out_to
    curve = (
        (1 - u) ** 3 * start
        + 3 * (1 - u) ** 2 * u * control_in
        + 3 * (1 - u) * u**2 * control_to
        + u**3 * end
    )
    steps = np.diff(curve, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    curvature = float(np.max(np.abs(np.diff(headings)) / lengths[1:]))
    turn_speed = float(np.sqrt(2.5 / max(curvature, 1e-3)))  # lateral acceleration of 2.5 m/s^2
    xy = np.concatenate([entry[:-1], curve, leave[1:]])
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    s -= s[len(entry) - 1]
    return np.column_stack([s, xy]), float(lengths.sum()), turn_speed


def _conflicts(routes: list[Route]) -> NDArray[np.bool_]:
    inside = slice(_LANE_POINTS - 1, _LANE_POINTS - 1 + _CONNECTOR_POINTS)
    curves = np.stack([route.path[inside, 1:] for route in routes])
    x, y = np.moveaxis(curves, 2, 0)
    gaps_x = x[:, None, :, None] - x[None, :, None, :]
    gaps_y = y[:, None, :, None] - y[None, :, None, :]
    near = np.sqrt((gaps_x * gaps_x + gaps_y * gaps_y).min(axis=(2, 3))) < CONFLICT_DISTANCE
    entries = np.array([route.entry for route in routes])
    # Vehicles from the same lane follow each other, whatever route they take.
    return near & (entries[:, None] != entries[None, :])


@kernel
def _place(
    direction: float, curvature: float, straight: float, along: float, left: float
) -> tuple[float, float]:
    """Map x, y at `along` metres on a centre line that curves after `straight`, and `left` of it."""
    turned = curvature * max(along - straight, 0.0)
    if abs(turned) < 1e-9:
        ahead, aside = along, 0.0
    else:
        ahead = straight + math.sin(turned) / curvature
        aside = (1 - math.cos(turned)) / curvature
    ahead -= left * math.sin(turned)
    aside += left * math.cos(turned)
    c, s = math.cos(direction), math.sin(direction)
    return c * ahead - s * aside, s * ahead + c * aside


@kernel
def _places(
    direction: float, curvature: float, straight: float, along: NDArray[np.float64], left: float
) -> NDArray[np.float64]:
    """`_place` of several (n,) distances: (n, 2)."""
    result = np.empty((len(along), 2))
    for k in range(len(along)):
        result[k] = _place(direction, curvature, straight, along[k], left)
    return result


@kernel
def _arm_terms(
    directions: NDArray[np.float64], curvatures: NDArray[np.float64], half_width: float, limit: float
) -> NDArray[np.float64]:
    """(arms, 5) cos and sin of the direction, the radius, and two squared distances.

    Between these from the centre of curvature a point can be nearer than the limit: only there a square root
    is computed.
    """
    terms = np.empty((len(directions), 5))
    for arm in range(len(directions)):
        radius = 1 / curvatures[arm] if abs(curvatures[arm]) > 1e-6 else 1e6
        terms[arm, 0] = math.cos(directions[arm])
        terms[arm, 1] = math.sin(directions[arm])
        terms[arm, 2] = radius
        terms[arm, 3] = max(abs(radius) - half_width - limit, 0.0) ** 2
        terms[arm, 4] = (abs(radius) + half_width + limit) ** 2
    return terms


@kernel(inline='always')
def _distance_at(
    terms: NDArray[np.float64], half_width: float, stop_distance: float, limit: float, x: float, y: float
) -> float:
    """Distance of one point from the nearest carriageway, at most `limit`; terms from `_arm_terms`."""
    square = x * x + y * y
    distance = limit
    if square < (stop_distance + limit) ** 2:
        distance = min(limit, max(math.sqrt(square) - stop_distance, 0.0))
    for arm in range(len(terms)):
        cos, sin, radius = terms[arm, 0], terms[arm, 1], terms[arm, 2]
        ahead = x * cos + y * sin
        if ahead <= 0 or distance == 0.0:
            continue
        aside = y * cos - x * sin
        if ahead <= stop_distance:
            distance = min(distance, max(abs(aside) - half_width, 0.0))
            continue
        # Beyond the stop line the centre line is a circle with its centre to the side of the stop line.
        ahead -= stop_distance
        aside -= radius
        square = ahead * ahead + aside * aside
        if terms[arm, 3] <= square <= terms[arm, 4]:
            apart = abs(math.sqrt(square) - abs(radius))
            distance = min(distance, max(apart - half_width, 0.0))
    return distance


@kernel
def _distance_outside(
    directions: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    half_width: float,
    stop_distance: float,
    limit: float,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`RoadNetwork.distance_outside`."""
    terms = _arm_terms(directions, curvatures, half_width, limit)
    result = np.empty(len(x))
    for k in range(len(x)):
        result[k] = _distance_at(terms, half_width, stop_distance, limit, x[k], y[k])
    return result


@kernel
def _nearer(
    directions: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    half_width: float,
    stop_distance: float,
    clear: float,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> bool:
    """`RoadNetwork.nearer`."""
    terms = _arm_terms(directions, curvatures, half_width, clear)
    for k in range(len(x)):
        if _distance_at(terms, half_width, stop_distance, clear, x[k], y[k]) < clear:
            return True
    return False


@kernel
def _distance_grid(
    directions: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    half_width: float,
    stop_distance: float,
    limit: float,
    axis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`RoadNetwork.distance_grid`, with nodes computed only in blocks whose centre is near enough."""
    n, size = len(axis), _BLOCK
    result = np.full((n, n), limit)
    terms = _arm_terms(directions, curvatures, half_width, limit)
    # The corners of a block are at most this far from its centre.
    reach = limit + 0.75 * size * (axis[1] - axis[0])
    far_terms = _arm_terms(directions, curvatures, half_width, reach)
    for top in range(0, n, size):
        y = axis[min(top + size // 2, n - 1)]
        for left in range(0, n, size):
            x = axis[min(left + size // 2, n - 1)]
            if _distance_at(far_terms, half_width, stop_distance, reach, x, y) == reach:
                continue
            for j in range(top, min(top + size, n)):
                for i in range(left, min(left + size, n)):
                    result[j, i] = _distance_at(terms, half_width, stop_distance, limit, axis[i], axis[j])
    return result
