# SPDX-License-Identifier: Apache-2.0
"""Shapes as hexahedra: vehicles, riders and pedestrians, and boxes for buildings and walls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

_Corners = list[tuple[float, float, float]]
GROUND_CLEARANCE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class VehicleClass:
    """A class of vehicles.

    Attributes:
        name: unique among the classes.
        length: minimum and maximum, metres.
        width: minimum and maximum, metres.
        height: minimum and maximum, metres.
        share: relative frequency in traffic.
        agile: turns at junctions; others only go straight, as a long body would swing into the next lane.
        connects: can be a connected vehicle with a LiDAR on its roof.
        labelled: belongs to the ground truth.
        tows: pulls a trailer.
    """

    name: str
    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    share: float
    agile: bool = True
    connects: bool = False
    labelled: bool = True
    tows: bool = False


VEHICLE_CLASSES = (
    VehicleClass('compact', (3.6, 4.25), (1.62, 1.80), (1.42, 1.56), 0.22, connects=True),
    VehicleClass('sedan', (4.4, 5.05), (1.78, 1.92), (1.38, 1.50), 0.24, connects=True),
    VehicleClass('suv', (4.3, 5.0), (1.84, 2.02), (1.60, 1.82), 0.23, connects=True),
    VehicleClass('van', (5.0, 6.2), (1.95, 2.10), (2.00, 2.60), 0.17),
    VehicleClass('truck', (7.0, 10.0), (2.35, 2.50), (3.0, 3.7), 0.08, agile=False),
    VehicleClass('bus', (10.5, 12.5), (2.48, 2.55), (3.0, 3.3), 0.06, agile=False),
)

VARIED_CLASSES = (
    *(
        replace(each, share=share)
        for each, share in zip(VEHICLE_CLASSES, (0.17, 0.18, 0.18, 0.16, 0.09, 0.07), strict=True)
    ),
    VehicleClass('tractor', (5.6, 6.6), (2.45, 2.55), (3.3, 3.9), 0.05, agile=False, tows=True),
    VehicleClass('motorcycle', (2.0, 2.3), (0.7, 0.9), (1.45, 1.75), 0.06, labelled=False),
    VehicleClass('bicycle', (1.6, 1.9), (0.5, 0.65), (1.6, 1.85), 0.04, labelled=False),
)
"""Classes of the world `varied`, from which traffic and parked vehicles are drawn."""
TRAILER = VehicleClass('trailer', (8.0, 13.6), (2.48, 2.55), (3.4, 4.0), 0.0, agile=False)
PEDESTRIAN = VehicleClass('pedestrian', (0.3, 0.6), (0.4, 0.6), (1.2, 1.9), 0.0, labelled=False)


@dataclass(frozen=True, slots=True)
class Vehicle:
    """The shape of a vehicle, rider or pedestrian.

    Origin: centre of its footprint on the ground; x forward, y left, z up.

    Attributes:
        kind: vehicle class.
        corners: (parts, 8, 3) float64 corners of its convex parts, metres.
        size: (3,) float64 length, width and height of the bounding box of the parts, centred on x = y = 0.
        centre_z: height of the centre of that box above the ground, metres.
        reflectivity: (parts,) float32.
    """

    kind: VehicleClass
    corners: NDArray[np.float64]
    size: NDArray[np.float64]
    centre_z: float
    reflectivity: NDArray[np.float32]


def frustum(
    x: tuple[float, float],
    width: float,
    z: tuple[float, float],
    top_x: tuple[float, float] | None = None,
    top_width: float | None = None,
) -> _Corners:
    """The 8 corners of a body with a rectangular bottom and a rectangular top, equal by default.

    Args:
        x: rear and front end of the bottom, metres.
        width: of the bottom, centred on y = 0.
        z: bottom and top.
        top_x: rear and front end of the top.
        top_width: of the top.
    """
    corners = []
    for level, (rear, front), w in (
        (z[0], x, width),
        (z[1], top_x or x, width if top_width is None else top_width),
    ):
        half = w / 2
        corners += [(rear, -half, level), (front, -half, level), (front, half, level), (rear, half, level)]
    return corners


def upright_box(
    centre: tuple[float, float], yaw: float, length: float, width: float, z: tuple[float, float]
) -> NDArray[np.float64]:
    """(8, 3) corners of an upright box in the map."""
    c, s = 0.5 * math.cos(yaw), 0.5 * math.sin(yaw)
    x, y = centre
    footprint = [
        (x + a * length * c - b * width * s, y + a * length * s + b * width * c)
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    return np.array([(*corner, level) for level in z for corner in footprint])


def strip(
    a: tuple[float, float], b: tuple[float, float], z_a: float, z_b: float, width: float, height: float
) -> NDArray[np.float64]:
    """(8, 3) corners of an upright strip from a to b, whose foot has the heights z_a and z_b."""
    length = math.hypot(b[0] - a[0], b[1] - a[1])
    side_x, side_y = (a[1] - b[1]) / length * width / 2, (b[0] - a[0]) / length * width / 2
    foot = [
        (x + sign * side_x, y + sign * side_y, z)
        for (x, y), z, sign in ((a, z_a, -1), (b, z_b, -1), (b, z_b, 1), (a, z_a, 1))
    ]
    return np.array([(x, y, z + level) for level in (0.0, height) for x, y, z in foot])


def draw_vehicle(
    rng: np.random.Generator,
    longest: float = np.inf,
    classes: tuple[VehicleClass, ...] = VEHICLE_CLASSES,
) -> Vehicle:
    """Draw a vehicle of one of the classes that are at most `longest` metres long."""
    fitting, total = _fitting(classes, longest)
    pick, a, b, c, d, e, f = rng.random(7).tolist()
    pick *= total
    kind = fitting[-1]
    for each in fitting:
        if pick < each.share:
            kind = each
            break
        pick -= each.share
    length = kind.length[0] + a * (kind.length[1] - kind.length[0])
    width = kind.width[0] + b * (kind.width[1] - kind.width[0])
    height = kind.height[0] + c * (kind.height[1] - kind.height[0])
    parts = _PARTS[kind.name](length, width, height, d, e)
    paint = 0.08 + 0.72 * f * f
    reflectivity = np.full(len(parts), paint, np.float32)
    if len(parts) > 1 and kind.name in ('compact', 'sedan', 'suv'):
        reflectivity[1] = 0.5 * paint + 0.03  # mostly glass
    corners = np.fromiter(chain.from_iterable(chain.from_iterable(parts)), float, 24 * len(parts))
    corners = corners.reshape(-1, 8, 3)
    flat = corners.reshape(-1, 3)
    low, high = np.minimum.reduce(flat), np.maximum.reduce(flat)
    return Vehicle(kind, corners, high - low, float((low[2] + high[2]) / 2), reflectivity)


@lru_cache(maxsize=256)
def _fitting(classes: tuple[VehicleClass, ...], longest: float) -> tuple[list[VehicleClass], float]:
    """The classes that are at most `longest` metres long, and the sum of their shares."""
    fitting = [each for each in classes if each.length[1] <= longest]
    return fitting, sum(each.share for each in fitting)


def draw_train(rng: np.random.Generator, classes: tuple[VehicleClass, ...]) -> list[Vehicle]:
    """Draw a vehicle and, if it tows, its trailer."""
    vehicle = draw_vehicle(rng, classes=classes)
    return [vehicle, draw_vehicle(rng, classes=(TRAILER,))] if vehicle.kind.tows else [vehicle]


def _compact(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front, belt = -length / 2, length / 2, (0.54 + 0.06 * d) * height
    hood = (0.18 + 0.06 * e) * length
    return [
        frustum((rear, front), width, (GROUND_CLEARANCE, belt), (rear, front - 0.08), width - 0.06),
        frustum(
            (rear + 0.03, front - hood), width - 0.06, (belt, height),
            (rear + 0.3, front - hood - 0.55), width - 0.34,
        ),
    ]  # fmt: skip


def _sedan(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front, belt = -length / 2, length / 2, (0.56 + 0.06 * d) * height
    hood, boot = (0.23 + 0.05 * e) * length, (0.11 + 0.05 * d) * length
    return [
        frustum((rear, front), width, (GROUND_CLEARANCE, belt), (rear + 0.05, front - 0.12), width - 0.08),
        frustum(
            (rear + boot, front - hood), width - 0.08, (belt, height),
            (rear + boot + 0.55, front - hood - 0.7), width - 0.42,
        ),
    ]  # fmt: skip


def _suv(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front, belt = -length / 2, length / 2, (0.58 + 0.05 * d) * height
    hood = (0.20 + 0.05 * e) * length
    return [
        frustum((rear, front), width, (GROUND_CLEARANCE, belt), (rear, front - 0.06), width - 0.04),
        frustum(
            (rear + 0.02, front - hood), width - 0.04, (belt, height),
            (rear + 0.22, front - hood - 0.5), width - 0.3,
        ),
    ]  # fmt: skip


def _van(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front, bonnet = -length / 2, length / 2, (0.42 + 0.08 * d) * height
    nose = 0.5 + 0.5 * e
    return [
        frustum((rear, front), width, (GROUND_CLEARANCE, bonnet), (rear, front - 0.05), width - 0.02),
        frustum(
            (rear, front - nose),
            width - 0.02,
            (bonnet, height),
            (rear + 0.03, front - nose - 0.6),
            width - 0.16,
        ),
    ]


def _truck(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front = -length / 2, length / 2
    cab, cab_height = 1.8 + 0.5 * d, (0.72 + 0.13 * e) * height
    return [
        frustum(
            (front - cab, front), width - 0.1, (0.4, cab_height), (front - cab, front - 0.2), width - 0.2
        ),
        frustum((rear, front - cab - 0.25), width, (0.9, height)),
        frustum((rear + 0.3, front - 0.3), 0.9, (0.45, 0.9)),
    ]


def _bus(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front, roof = -length / 2, length / 2, height - 0.25
    unit = 0.2 + 0.2 * d
    return [
        frustum((rear, front), width, (0.3, roof), (rear + 0.05, front - 0.15), width - 0.08),
        frustum((rear + 0.5, rear + 0.5 + unit * length), width - (0.4 + 0.3 * e), (roof, height)),
    ]


def _tractor(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front = -length / 2, length / 2
    cab = 2.0 + 0.5 * d
    return [
        frustum(
            (front - cab, front), width, (0.4, height), (front - cab + 0.2 * e, front - 0.15), width - 0.15
        ),
        frustum((rear, front - cab), 0.9 * width, (0.35, 1.1)),
    ]


def _trailer(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front = -length / 2, length / 2
    # Boxes, tankers and flat beds: the load begins at 1.0 to 1.3 m and may be low.
    bed, top = 1.0 + 0.3 * d, height if e < 0.75 else 1.8
    return [
        frustum((rear, front), width, (bed, top), (rear, front), width if e < 0.5 else width - 0.5),
        frustum((rear + 0.4, rear + 0.35 * length), width, (0.25, bed)),
        frustum((rear + 0.35 * length, front), 0.8, (bed - 0.3, bed)),
    ]


def _rider(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    rear, front, seat = -length / 2, length / 2, 0.75 + 0.15 * d
    return [
        frustum((rear, front), 0.3 + 0.1 * e, (0.1, seat), (rear + 0.15, front - 0.25), 0.25),
        frustum((-0.25 - 0.1 * d, 0.2), width, (seat, height), (-0.1, 0.25), 0.3),
    ]


def _pedestrian(length: float, width: float, height: float, d: float, e: float) -> list[_Corners]:
    half, hip = length / 2, (0.48 + 0.04 * d) * height
    return [
        frustum((-half, half), 0.35, (0.0, hip), (-0.12, 0.12), 0.35),
        frustum((-0.14, 0.14), width, (hip, height), (-0.1, 0.1), 0.2),
    ]


_PARTS = {
    'compact': _compact,
    'sedan': _sedan,
    'suv': _suv,
    'van': _van,
    'truck': _truck,
    'bus': _bus,
    'tractor': _tractor,
    'trailer': _trailer,
    'motorcycle': _rider,
    'bicycle': _rider,
    'pedestrian': _pedestrian,
}
