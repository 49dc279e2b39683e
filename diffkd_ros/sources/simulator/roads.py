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

    def heading(self, arm: int, along: float) -> float:
        """Outward heading of an arm at that distance from the origin, radians."""
        return float(self.directions[arm] + self.curvatures[arm] * max(along - self.stop_distance, 0.0))

    def place(self, arm: int, along: float, left: float) -> tuple[float, float]:
        """Map x, y at `along` metres on the centre line of an arm and `left` of its outward heading."""
        return _place(self.directions[arm], self.curvatures[arm], self.stop_distance, along, left)


def make_roads(rng: np.random.Generator, layout: Layout) -> RoadNetwork:
    """Draw a road network of the given layout: arm angles, lane count and width."""
    nominal = {'four_way': [0.0, 90.0, 180.0, 270.0], 't_junction': [0.0, 90.0, 180.0], 'bend': [0.0, 125.0]}
    angles = np.array(nominal[layout])
    angles += rng.uniform(-17.0, 17.0, len(angles))
    directions = np.sort(np.mod(np.radians(angles) + rng.uniform(0, 2 * np.pi), 2 * np.pi))
    lanes = 1 if rng.random() < 0.75 else 2
    lane_width = float(rng.uniform(3.3, 3.6))
    half_width = lanes * lane_width + KERB_STRIP
    # All arms curve in the same direction, so they do not meet again farther out.
    curvatures = rng.choice([-1.0, 1.0]) * rng.uniform(0.0, MAX_CURVATURE, len(directions))
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
        np.array([_place(directions[k], curvatures[k], stop_distance, along, left) for along in outwards])
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
    result = np.empty(len(x))
    arms = len(directions)
    # cos and sin of the direction, the radius, and the squared distances from the centre of curvature between
    # which a point can be nearer than the limit: only there a square root is computed.
    arm_terms = np.empty((arms, 5))
    for arm in range(arms):
        radius = 1 / curvatures[arm] if abs(curvatures[arm]) > 1e-6 else 1e6
        arm_terms[arm, 0] = math.cos(directions[arm])
        arm_terms[arm, 1] = math.sin(directions[arm])
        arm_terms[arm, 2] = radius
        arm_terms[arm, 3] = max(abs(radius) - half_width - limit, 0.0) ** 2
        arm_terms[arm, 4] = (abs(radius) + half_width + limit) ** 2
    for k in range(len(x)):
        square = x[k] * x[k] + y[k] * y[k]
        distance = limit
        if square < (stop_distance + limit) ** 2:
            distance = min(limit, max(math.sqrt(square) - stop_distance, 0.0))
        for arm in range(arms):
            cos, sin, radius = arm_terms[arm, 0], arm_terms[arm, 1], arm_terms[arm, 2]
            ahead = x[k] * cos + y[k] * sin
            if ahead <= 0 or distance == 0.0:
                continue
            aside = y[k] * cos - x[k] * sin
            if ahead <= stop_distance:
                distance = min(distance, max(abs(aside) - half_width, 0.0))
                continue
            # Beyond the stop line the centre line is a circle with its centre to the side of the stop line.
            ahead -= stop_distance
            aside -= radius
            square = ahead * ahead + aside * aside
            if arm_terms[arm, 3] <= square <= arm_terms[arm, 4]:
                apart = abs(math.sqrt(square) - abs(radius))
                distance = min(distance, max(apart - half_width, 0.0))
        result[k] = distance
    return result
