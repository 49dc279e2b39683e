# SPDX-License-Identifier: Apache-2.0
"""Traffic: vehicles follow lanes, keep their distance and cross the junction in turn.

Longitudinal motion follows the Intelligent Driver Model (Treiber, Hennecke, Helbing, 2000). A vehicle may
pass its stop line if its light is green and no vehicle on a conflicting route is in the junction; otherwise
the stop line acts as a standing obstacle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.roads import LANE_LENGTH, RoadNetwork

COUPLING = 0.6  # metres between a vehicle and its trailer
WARM_UP = 8.0  # seconds simulated before frame 0, for queues to form
_MAX_STEP = 0.1
_STANDSTILL_GAP = 2.0
_HEADWAY = 1.2
_ACCELERATION = 1.8
_BRAKING = 2.2
_HARDEST_BRAKING = 7.0


@dataclass(frozen=True, slots=True)
class Flow:
    """How dense and fast traffic is. Pairs are minimum and maximum.

    Attributes:
        speed: desired speed, metres per second.
        gap: mean gap between vehicles beyond the smallest one, metres.
        leaving: share of the vehicles that start beyond the junction.
    """

    speed: tuple[float, float] = (6.0, 11.0)
    gap: tuple[float, float] = (2.0, 10.0)
    leaving: float = 0.2


def simulate_traffic(
    rng: np.random.Generator,
    roads: RoadNetwork,
    flow: Flow,
    bodies: Sequence[Sequence[float]],
    agile: NDArray[np.bool_],
    frames: int,
    rate: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Drive the moving vehicles of a scene.

    Args:
        rng: draws initial positions, routes, desired speeds and the timing of the lights.
        roads: the road network.
        flow: of the traffic.
        bodies: lengths of each vehicle's rigid bodies, the front one first, metres.
        agile: (n,) whether a vehicle may turn at the junction; others go straight.
        frames: number of frames.
        rate: frames per second.

    Returns:
        kept: (m,) indices of the vehicles that fit on a lane, m <= n.
        motion: (frames, b, 3) float64 map x, y of the centre and yaw of each body of those vehicles in turn.
        speed: (frames, b) float64 metres per second.
    """
    lengths = np.array([sum(each) + COUPLING * (len(each) - 1) for each in bodies])
    kept, route, start, speed, desired = _place(rng, roads, flow, lengths, agile)
    routes = roads.routes
    entry, exit_lane, way, turn_speed = (
        np.array([getattr(routes[r], name) for r in route])
        for name in ('entry', 'exit', 'length', 'turn_speed')
    )
    substeps = int(np.ceil(1 / rate / _MAX_STEP - 1e-9))
    period = rng.uniform(16.0, 30.0)
    s, v = _drive(
        start,
        speed,
        lengths[kept],
        desired,
        entry,
        exit_lane,
        way,
        turn_speed,
        roads.conflicts[np.ix_(route, route)],
        roads.phase[route],
        len(roads.directions) > 2,
        period,
        rng.uniform(0, 2 * period),
        round(WARM_UP * rate),
        frames,
        substeps,
        1 / rate / substeps,
    )
    aside = rng.normal(0, 0.12, len(kept)).clip(-0.25, 0.25)
    paths = np.stack([each.path for each in routes])
    # The bodies one after the other, each with its own axles on the path.
    vehicle = np.repeat(np.arange(len(kept)), [len(bodies[k]) for k in kept])
    body_lengths, centres = [], []
    for k in kept:
        end = lengths[k] / 2
        for length in bodies[k]:
            body_lengths.append(length)
            centres.append(end - length / 2 if len(bodies[k]) > 1 else 0.0)
            end -= length + COUPLING
    # Indexing would give a single frame another layout, for which `_poses` would be compiled again.
    along = np.take(s, vehicle, axis=1) + np.array(centres)
    motion = _poses(along, paths[route[vehicle]], 0.3 * np.array(body_lengths), aside[vehicle])
    return kept, motion, v[:, vehicle]


def _place(
    rng: np.random.Generator,
    roads: RoadNetwork,
    flow: Flow,
    lengths: NDArray[np.float64],
    agile: NDArray[np.bool_],
) -> tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]:
    """Place vehicles on lanes, one behind the other: index, route, s of the centre, speed, desired speed."""
    lane_count = len(roads.directions) * roads.lanes
    turns_off = [abs(route.turn) >= np.radians(45) for route in roads.routes]
    # End of the last vehicle on each lane: backwards from the stop line, or forwards from the exit.
    entry_tail = -rng.uniform(1.0, 15.0, lane_count)
    exit_head = rng.uniform(6.0, 60.0, lane_count)
    flow_speed = rng.uniform(*flow.speed)
    mean_gap = rng.uniform(*flow.gap)
    kept, route, start, speed, desired = [], [], [], [], []
    for vehicle, length in enumerate(lengths):
        own_speed = flow_speed * rng.uniform(0.8, 1.15)
        gap = _STANDSTILL_GAP + 1.0 + rng.exponential(mean_gap)
        leaving = rng.random() < flow.leaving
        lane = int(rng.integers(lane_count))
        lanes = (route.exit if leaving else route.entry for route in roads.routes)
        choices = [
            r for r, other in enumerate(lanes) if other == lane and (agile[vehicle] or not turns_off[r])
        ]
        if not choices:
            continue
        # Going straight is as common as all turns together.
        turns = [r for r in choices if turns_off[r]]
        straight_on = [r for r in choices if not turns_off[r]]
        if turns and straight_on:
            choices = turns if rng.random() < 0.5 else straight_on
        chosen = choices[int(rng.random() * len(choices))]
        if leaving:
            centre = exit_head[lane] + gap + length / 2
            exit_head[lane] = centre + length / 2
            centre += roads.routes[chosen].length
        else:
            centre = entry_tail[lane] - gap - length / 2
            entry_tail[lane] = centre - length / 2
            if centre < -LANE_LENGTH + length:
                continue
        kept.append(vehicle)
        route.append(chosen)
        start.append(centre)
        speed.append(own_speed if leaving else min(own_speed, gap / _HEADWAY))
        desired.append(own_speed)
    return (
        np.array(kept, np.int64),
        np.array(route, np.int64),
        np.array(start),
        np.array(speed),
        np.array(desired),
    )


@kernel
def _drive(
    start: NDArray[np.float64],
    start_speed: NDArray[np.float64],
    length: NDArray[np.float64],
    desired: NDArray[np.float64],
    entry: NDArray[np.int64],
    exit_lane: NDArray[np.int64],
    way: NDArray[np.float64],
    turn_speed: NDArray[np.float64],
    conflicts: NDArray[np.bool_],
    phase: NDArray[np.int64],
    lights: bool,
    period: float,
    lights_offset: float,
    warm_up: int,
    frames: int,
    substeps: int,
    step: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step the vehicles along their routes; returns s and speed, (frames, n) each."""
    n = len(start)
    s = start.copy()
    v = start_speed.copy()
    acceleration = np.zeros(n)
    # inside: has passed the stop line, or may, and has not left the junction.
    inside = np.zeros(n, np.bool_)
    for i in range(n):
        inside[i] = s[i] + length[i] / 2 > 0 and s[i] - length[i] / 2 < way[i]
    # Vehicles that may matter to a vehicle: on its lanes, or on a conflicting route.
    related = np.empty((n, n), np.int64)
    count = np.zeros(n, np.int64)
    for i in range(n):
        for j in range(n):
            if j != i and (entry[j] == entry[i] or exit_lane[j] == exit_lane[i] or conflicts[i, j]):
                related[i, count[i]] = j
                count[i] += 1
    result_s = np.empty((frames, n))
    result_v = np.empty((frames, n))
    time = lights_offset
    for frame in range(-warm_up, frames):
        for _ in range(substeps):
            green = int(time // period) % 2
            clearing = period - time % period < 3.0  # amber and all-red before a change
            for i in range(n):
                front = s[i] + length[i] / 2
                if inside[i] and s[i] - length[i] / 2 > way[i] + 1.0:
                    inside[i] = False
                if not inside[i] and front <= 0 and -front < v[i] * v[i] / 4 + 8.0:
                    grant = not lights or (phase[i] == green and not clearing)
                    for j in related[i, : count[i]]:
                        if inside[j] and conflicts[i, j]:
                            grant = False
                        if (
                            entry[j] == entry[i]
                            and s[j] > s[i]
                            and s[j] + length[j] / 2 <= 0
                            and not inside[j]
                        ):
                            grant = False
                    inside[i] = grant
            for i in range(n):
                front = s[i] + length[i] / 2
                past = front > 0 or inside[i]
                # Brake in time for the curve in the junction.
                limit = desired[i]
                if s[i] - length[i] / 2 < way[i]:
                    ahead = max(-s[i], 0.0)
                    limit = min(limit, np.sqrt(turn_speed[i] ** 2 + 2 * 1.5 * ahead))
                free = 1 - (v[i] / limit) ** 4
                hold = 0.0
                if not past:
                    gap = max(-front - 0.5, 0.1)
                    wish = _STANDSTILL_GAP * 0.25 + v[i] * v[i] / (2 * np.sqrt(_ACCELERATION * _BRAKING))
                    hold = max(hold, (wish / gap) ** 2)
                for j in related[i, : count[i]]:
                    gap = np.inf
                    if entry[j] == entry[i] and s[j] > s[i] and s[j] - length[j] / 2 < way[j] + 1.0:
                        gap = s[j] - s[i] - (length[i] + length[j]) / 2
                    if exit_lane[j] == exit_lane[i] and past:
                        lead = (s[j] - way[j]) - (s[i] - way[i])
                        if lead > 0 and (inside[j] or s[j] + length[j] / 2 > 0):
                            gap = min(gap, lead - (length[i] + length[j]) / 2)
                    if gap < 80.0:
                        closing = v[i] * (v[i] - v[j]) / (2 * np.sqrt(_ACCELERATION * _BRAKING))
                        wish = _STANDSTILL_GAP + max(v[i] * _HEADWAY + closing, 0.0)
                        hold = max(hold, (wish / max(gap, 0.1)) ** 2)
                acceleration[i] = max(_ACCELERATION * (max(free, -2.0) - hold), -_HARDEST_BRAKING)
            for i in range(n):
                v[i] = max(v[i] + acceleration[i] * step, 0.0)
                s[i] += v[i] * step
            time += step
        if frame >= 0:
            # Assigning whole rows would take seconds to compile.
            for i in range(n):
                result_s[frame, i], result_v[frame, i] = s[i], v[i]
    return result_s, result_v


@kernel
def _poses(
    s: NDArray[np.float64],
    paths: NDArray[np.float64],
    half_base: NDArray[np.float64],
    aside: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Map x, y, yaw of vehicles at s (frames, n), metres along their paths.

    The axles, `half_base` from the centre, are on the path, so the centre cuts corners as that of a real
    vehicle. `aside` (n,) shifts a vehicle to the left.
    """
    frames, n = s.shape
    result = np.empty((frames, n, 3))
    axles = np.empty((2, 2))
    for k in range(n):
        path = paths[k]
        places = [0, 0]  # vehicles never drive backwards
        for frame in range(frames):
            for axle in range(2):
                at = s[frame, k] + (half_base[k] if axle else -half_base[k])
                p = places[axle]
                while p < len(path) - 2 and path[p + 1, 0] < at:
                    p += 1
                places[axle] = p
                share = (at - path[p, 0]) / (path[p + 1, 0] - path[p, 0])
                for axis in range(2):
                    begin, end = path[p, 1 + axis], path[p + 1, 1 + axis]
                    axles[axle, axis] = begin + share * (end - begin)
            yaw = np.arctan2(axles[1, 1] - axles[0, 1], axles[1, 0] - axles[0, 0])
            result[frame, k, 0] = (axles[0, 0] + axles[1, 0]) / 2 - aside[k] * np.sin(yaw)
            result[frame, k, 1] = (axles[0, 1] + axles[1, 1]) / 2 + aside[k] * np.cos(yaw)
            result[frame, k, 2] = yaw
    return result
