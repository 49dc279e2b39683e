# SPDX-License-Identifier: Apache-2.0
"""Casts all rays of a spinning LiDAR against convex solids, round solids and the ground.

Every solid is first bounded in azimuth and elevation of the sensor, and only the rays within these bounds
are tested, nearest solid first. In the sensor frame the direction of a ray is a product of terms of its
column and its ring, which leaves two multiplications per face and ray.

A sensor and bodies that move during the turn are cast column by column: sensor and bodies move with constant
velocity, and the sensor turns with constant rate, which is the same as columns at other azimuths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.kernels import kernel
from diffkd_ros.sources.simulator.ground import HeightField
from diffkd_ros.sources.simulator.ground_rays import cast_level_ground, cast_relief

NOTHING = -2


@dataclass(frozen=True, slots=True)
class Solids:
    """Convex hexahedra and upright round bodies in the map frame, with their owners and materials.

    The first `len(planes)` rows of the common columns belong to the hexahedra, the rest to the round bodies.

    Attributes:
        planes: (h, 6, 4) float64; outward unit normal n and offset d of each face: inside is n . x <= d.
        rounds: (r, 6) float64; centre x, y, z, radius, half height, and 1 for an open upright cylinder or 0
            for an ellipsoid of revolution.
        corners: (h + r, 8, 3) float64; the corners of the hexahedron or of the box around the round body.
        owner: (h + r,) int64; index of the object a solid is a part of.
        reflectivity: (h + r,) float32 in [0, 1].
        roughness: (h + r,) float32; standard deviation of the surface along a ray, metres.
    """

    planes: NDArray[np.float64]
    rounds: NDArray[np.float64]
    corners: NDArray[np.float64]
    owner: NDArray[np.int64]
    reflectivity: NDArray[np.float32]
    roughness: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Motion:
    """How sensor and bodies move during a turn.

    Attributes:
        times: (columns,) float64 seconds relative to the pose's instant at which the columns fire.
        velocity: (3,) float64 of the sensor in the map, metres per second.
        yaw_rate: of the sensor, radians per second.
        bodies: (h + r, 3) float64 velocities of the solids in the map, metres per second.
    """

    times: NDArray[np.float64]
    velocity: NDArray[np.float64]
    yaw_rate: float
    bodies: NDArray[np.float64]


def face_planes(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Faces of hexahedra from their corners.

    Args:
        corners: (n, 8, 3); four of the bottom, counter-clockwise seen from above, then four of the top.

    Returns:
        (n, 6, 4) outward unit normals and offsets: bottom, top, then the sides from corner 0 on.
    """
    first = corners[:, [0, 4, 0, 1, 2, 3]]
    second = corners[:, [3, 5, 1, 2, 3, 0]]
    third = corners[:, [2, 6, 5, 6, 7, 4]]
    normals = np.cross(second - first, third - first)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    return np.concatenate([normals, (normals * first).sum(axis=2, keepdims=True)], axis=2)


def round_bounds(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 8, 3) corners of the upright boxes around (n, 6) round bodies."""
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    unit = np.concatenate([np.c_[square, -np.ones(4)], np.c_[square, np.ones(4)]])
    return rounds[:, None, :3] + unit * rounds[:, None, [3, 3, 4]]


def cast(
    pose: NDArray[np.float64],
    azimuth_start: float,
    columns: int,
    elevations: NDArray[np.float64],
    max_range: float,
    solids: Solids,
    ground: HeightField,
    skip: int = -2,
    motion: Motion | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """First hit of every ray.

    Args:
        pose: (4, 4) map <- sensor.
        azimuth_start: azimuth of column 0 in the sensor frame, radians; the columns follow counter-clockwise.
        columns: rays per ring.
        elevations: (rings,) float64 ascending, radians above the sensor's xy plane.
        max_range: metres.
        solids: the scene. A body is not hit by rays from inside it.
        ground: the ground.
        skip: owner whose solids are not hit.
        motion: during the turn; None if nothing moves.

    Returns:
        distance: (columns, rings) float32 metres along the ray, infinity where nothing was hit.
        hit: (columns, rings) int32 index of the solid, `GROUND`, `VERGE` (ground off the road, where the
            ground has verges) or `NOTHING`.
        incidence: (columns, rings) float32 cosine of the angle between ray and surface normal.
    """
    rotation, origin = np.ascontiguousarray(pose[:3, :3]), np.ascontiguousarray(pose[:3, 3])
    step = 2 * np.pi / columns
    azimuths = azimuth_start + step * np.arange(columns)
    bodies = len(solids.corners)
    # Sensor relative to body and sensor relative to map, metres per second.
    drift, velocity, times, seam = np.zeros((bodies, 3)), np.zeros(3), np.zeros(columns), 0
    if motion is not None:
        drift, velocity, times = motion.velocity - motion.bodies, motion.velocity, motion.times
        azimuths = azimuths + motion.yaw_rate * times
        # How far the columns at the ends of the turn are from those of a standing sensor.
        seam = 1 + int(abs(motion.yaw_rate) * np.ptp(times) / step)
    margin = np.abs(times).max(initial=0.0) * np.linalg.norm(drift, axis=1)
    rays = np.cos(azimuths), np.sin(azimuths), np.cos(elevations), np.sin(elevations)
    nearest, extent = np.empty(bodies), np.empty((bodies, 4))
    _bounds(solids.corners, rotation, origin, margin, nearest, extent)
    nearest[solids.owner == skip] = np.inf
    windows = np.empty((len(nearest), 4), np.int64)
    windows[:, 0] = np.ceil((extent[:, 0] - azimuth_start) / step - 1e-9)
    windows[:, 1] = np.floor((extent[:, 1] - azimuth_start) / step + 1e-9) - windows[:, 0] + 1
    windows[:, 0] -= seam
    windows[:, 1] = np.minimum(windows[:, 1] + 2 * seam, columns)
    windows[:, 2] = np.searchsorted(elevations, extent[:, 2] - 1e-9)
    windows[:, 3] = np.searchsorted(elevations, extent[:, 3] + 1e-9)

    distance = np.full((columns, len(elevations)), np.inf, np.float32)
    hit = np.full(distance.shape, NOTHING, np.int32)
    incidence = np.zeros(distance.shape, np.float32)
    order = np.argsort(nearest)
    order = order[nearest[order] <= max_range]
    _cast_solids(
        solids.planes, solids.rounds, order, nearest, windows, rotation, origin, drift, times, *rays,
        max_range, distance, hit, incidence,
    )  # fmt: skip
    if ground.verge is None:
        cast_level_ground(ground.heights, rotation, origin, *rays, max_range, distance, hit, incidence)
    else:
        cast_relief(
            ground.heights, ground.verge, rotation, origin, velocity, times, *rays, max_range, distance, hit,
            incidence,
        )  # fmt: skip
    return distance, hit, incidence


@kernel
def _bounds(
    corners: NDArray[np.float64],
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    margin: NDArray[np.float64],
    nearest: NDArray[np.float64],
    extent: NDArray[np.float64],
) -> None:
    """Bound (n, 8, 3) bodies, which may be `margin` (n,) metres off, in the sensor frame.

    Fills `nearest` (n,) with a lower bound of the distance in the sensor's xy plane, and `extent` (n, 4)
    with the lowest and highest azimuth, less than a turn apart, and the lowest and highest elevation.
    """
    local = np.empty((8, 3))
    for b in range(len(corners)):
        centre_x = centre_y = far = 0.0
        low, high = np.inf, -np.inf
        for k in range(8):
            dx = corners[b, k, 0] - origin[0]
            dy = corners[b, k, 1] - origin[1]
            dz = corners[b, k, 2] - origin[2]
            for axis in range(3):
                local[k, axis] = rotation[0, axis] * dx + rotation[1, axis] * dy + rotation[2, axis] * dz
            centre_x += local[k, 0] / 8
            centre_y += local[k, 1] / 8
            low = min(low, local[k, 2])
            high = max(high, local[k, 2])
            far = max(far, math.hypot(local[k, 0], local[k, 1]))
        # The separation along the body's own axes and along the line of sight to its centre.
        near = 0.0
        for candidate in range(3):
            if candidate == 0:
                ux, uy = centre_x, centre_y
            elif candidate == 1:
                ux, uy = local[1, 0] - local[0, 0], local[1, 1] - local[0, 1]
            else:
                ux, uy = local[3, 0] - local[0, 0], local[3, 1] - local[0, 1]
            norm = math.hypot(ux, uy)
            if norm < 1e-9:
                continue
            smallest, largest = np.inf, -np.inf
            for k in range(8):
                along = (local[k, 0] * ux + local[k, 1] * uy) / norm
                smallest = min(smallest, along)
                largest = max(largest, along)
            near = max(near, smallest, -largest)
        near -= margin[b]
        if near <= 1e-6:
            nearest[b] = 0.0
            # Assigning a whole row would take seconds to compile.
            extent[b, 0] = extent[b, 2] = -math.pi
            extent[b, 1] = extent[b, 3] = math.pi
            continue
        nearest[b] = near
        centre = math.atan2(centre_y, centre_x)
        left = right = 0.0
        for k in range(8):
            delta = math.atan2(local[k, 1], local[k, 0]) - centre
            if delta > math.pi:
                delta -= 2 * math.pi
            elif delta < -math.pi:
                delta += 2 * math.pi
            left = max(left, delta)
            right = min(right, delta)
        aside = math.asin(margin[b] / (near + margin[b]))
        low -= margin[b]
        high += margin[b]
        far += margin[b]
        extent[b, 0], extent[b, 1] = centre + right - aside, centre + left + aside
        extent[b, 2] = math.atan2(low, near if low < 0 else far)
        extent[b, 3] = math.atan2(high, near if high > 0 else far)


@kernel
def _cast_solids(
    planes: NDArray[np.float64],
    rounds: NDArray[np.float64],
    order: NDArray[np.int64],
    nearest: NDArray[np.float64],
    windows: NDArray[np.int64],
    rotation: NDArray[np.float64],
    origin: NDArray[np.float64],
    drift: NDArray[np.float64],
    times: NDArray[np.float64],
    cos_azimuth: NDArray[np.float64],
    sin_azimuth: NDArray[np.float64],
    cos_elevation: NDArray[np.float64],
    sin_elevation: NDArray[np.float64],
    max_range: float,
    distance: NDArray[np.float32],
    hit: NDArray[np.int32],
    incidence: NDArray[np.float32],
) -> None:
    """Enter the hits on all solids, in the given order, into `distance`, `hit` and `incidence`.

    `windows` (n, 4) holds first column, number of columns, first ring and end ring of the rays to test;
    `drift` (n, 3) the velocity of the sensor relative to the body in the map.
    """
    columns = len(cos_azimuth)
    hexahedra = len(planes)
    normals, offsets, across = np.empty((6, 3)), np.empty(6), np.empty(6)
    rates, now = np.empty(6), np.empty(6)
    for b in order:
        first_column, column_count, first_ring, end_ring = windows[b]
        if b < hexahedra:
            # Faces that face the sensor come first: a ray enters through those.
            front, back = 0, 5
            for f in range(6):
                offset, change = planes[b, f, 3], 0.0
                for axis in range(3):
                    offset -= planes[b, f, axis] * origin[axis]
                    change -= planes[b, f, axis] * drift[b, axis]
                if offset < 0:
                    slot = front
                    front += 1
                else:
                    slot = back
                    back -= 1
                offsets[slot], rates[slot] = offset, change
                for axis in range(3):
                    normals[slot, axis] = (
                        rotation[0, axis] * planes[b, f, 0]
                        + rotation[1, axis] * planes[b, f, 1]
                        + rotation[2, axis] * planes[b, f, 2]
                    )
            if front == 0:
                continue
            for k in range(column_count):
                c = (first_column + k) % columns
                for f in range(6):
                    across[f] = normals[f, 0] * cos_azimuth[c] + normals[f, 1] * sin_azimuth[c]
                    now[f] = offsets[f] + rates[f] * times[c]
                for r in range(first_ring, end_ring):
                    best = distance[c, r]
                    if best < nearest[b]:
                        continue
                    enter, slope, seen = 0.0, 0.0, True
                    for f in range(front):
                        rate = cos_elevation[r] * across[f] + sin_elevation[r] * normals[f, 2]
                        if rate >= 0:
                            seen = False
                            break
                        t = now[f] / rate
                        if t > enter:
                            enter = t
                            slope = rate
                    if not seen or enter >= best or enter > max_range:
                        continue
                    for f in range(front, 6):
                        rate = cos_elevation[r] * across[f] + sin_elevation[r] * normals[f, 2]
                        if enter * rate > now[f]:
                            seen = False
                            break
                    if seen:
                        distance[c, r] = enter
                        hit[c, r] = b
                        incidence[c, r] = -slope
        else:
            # |q + t d|^2 + stretch ((q + t d) . u)^2 = radius^2, where q leads from the body's centre to the
            # sensor and u points up: with stretch -1 an endless cylinder, otherwise an ellipsoid of
            # revolution.
            body = rounds[b - hexahedra]
            radius, half_height, cylinder = body[3], body[4], body[5] > 0
            stretch = -1.0 if cylinder else (radius / half_height) ** 2 - 1.0
            ux, uy, uz = rotation[2, 0], rotation[2, 1], rotation[2, 2]
            for k in range(column_count):
                c = (first_column + k) % columns
                gx = origin[0] - body[0] + drift[b, 0] * times[c]
                gy = origin[1] - body[1] + drift[b, 1] * times[c]
                gz = origin[2] - body[2] + drift[b, 2] * times[c]
                qx = rotation[0, 0] * gx + rotation[1, 0] * gy + rotation[2, 0] * gz
                qy = rotation[0, 1] * gx + rotation[1, 1] * gy + rotation[2, 1] * gz
                qz = rotation[0, 2] * gx + rotation[1, 2] * gy + rotation[2, 2] * gz
                qu = qx * ux + qy * uy + qz * uz
                constant = qx * qx + qy * qy + qz * qz + stretch * qu * qu - radius * radius
                if constant <= 0:
                    continue
                for r in range(first_ring, end_ring):
                    best = distance[c, r]
                    if best < nearest[b]:
                        continue
                    dx = cos_elevation[r] * cos_azimuth[c]
                    dy = cos_elevation[r] * sin_azimuth[c]
                    dz = sin_elevation[r]
                    du = dx * ux + dy * uy + dz * uz
                    linear = qx * dx + qy * dy + qz * dz + stretch * qu * du
                    square = 1.0 + stretch * du * du
                    root = linear * linear - square * constant
                    if root <= 0 or linear >= 0:
                        continue
                    t = (-linear - math.sqrt(root)) / square
                    if t >= best or t > max_range:
                        continue
                    hu = qu + t * du
                    if cylinder and abs(hu) > half_height:
                        continue
                    nx = qx + t * dx + stretch * hu * ux
                    ny = qy + t * dy + stretch * hu * uy
                    nz = qz + t * dz + stretch * hu * uz
                    distance[c, r] = t
                    hit[c, r] = b
                    incidence[c, r] = -(nx * dx + ny * dy + nz * dz) / math.sqrt(nx * nx + ny * ny + nz * nz)
