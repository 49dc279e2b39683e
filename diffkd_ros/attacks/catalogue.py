# SPDX-License-Identifier: Apache-2.0
"""The attacks by name. All act on a `Statement`, so on whole maps, layered messages and boxes alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.attacks.maps import Patch, cells_of, erased, honest_range, pasted, patches
from diffkd_ros.attacks.statement import Goal, Knowledge, Statement
from diffkd_ros.corruptions.pose import displaced
from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.boxes import transform_boxes, widened
from diffkd_ros.geometry.overlap import bev_iou
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.runtime.features import BevFeature

GHOSTS = 10
"""Vehicles that a spoofing liar invents in each sweep."""
SCORE = 0.95
"""Of the boxes of invented vehicles."""
NAMES = 4
"""Names under which a liar sends, each as a participant of its own."""
SCALE = 10.0

_AHEAD, _ASIDE = 40.0, 20.0  # metres around the ego in which vehicles are invented
_ATTEMPTS = 200
_APART = 1.0  # metres between an invented vehicle and others, to each side
_OWN_SPACE = 5.0  # metres around the LiDARs of the ego and of the liar without invented vehicles
_BEST = 3  # vehicles of which copies are made
_REACH = 2.0  # metres around targets, to each side, in which cells are optimised

Lie = Callable[[Statement, Knowledge], Statement | None]


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack.

    Attributes:
        name: on the command line.
        lie: what a liar says, from what it would say honestly and what it knows; None for nothing.
        names: number of names under which it says so.
        steady: whether the random draws are the same in all sweeps of a drive.
        optimised: whether an `Optimiser` is needed.
    """

    name: str
    lie: Lie
    names: int = 1
    steady: bool = True
    optimised: bool = False


def _ghosts(honest: Statement, known: Knowledge) -> tuple[list[tuple[Patch, int, int]], NDArray[np.float64]]:
    """Where copies of real vehicles are put around the ego: the moves and the boxes (n, 7).

    A copy keeps its heading, as cells cannot be turned. The places are drawn in the ego's frame, so that they
    are about the same in successive sweeps.
    """
    grid = known.grid
    sources = patches(honest.bev, known.vehicles, grid)[:_BEST]
    moves: list[tuple[Patch, int, int]] = []
    taken = known.vehicles
    boxes = np.zeros((0, 7))
    to_liar = inverse(honest.pose) @ known.ego_pose
    drawn = known.rng.uniform(-1, 1, (_ATTEMPTS, 3)) * [_AHEAD, _ASIDE, 0]
    places = transform_points(to_liar, drawn)
    for number, place in enumerate(places):
        patch = sources[number % len(sources)]
        right, down = np.rint((place[:2] - patch.box[:2]) / grid.cell).astype(int)
        box = patch.moved(down, right, grid)
        wide = widened(box[None], _APART)
        reach = 0.5 * float(np.hypot(*wide[0, 3:5]))
        inside = (
            grid.x_min + reach <= box[0] < grid.x_max - reach
            and grid.y_min + reach <= box[1] < grid.y_max - reach
        )
        lidars = np.array([[0.0, 0.0], to_liar[:2, 3]])
        away = np.linalg.norm(lidars - box[:2], axis=1).min() > _OWN_SPACE
        if inside and away and not bev_iou(wide, taken).any():
            moves.append((patch, int(down), int(right)))
            taken, boxes = np.vstack((taken, box)), np.vstack((boxes, box))
        if len(boxes) == GHOSTS:
            break
    return moves, boxes


def _with_ghosts(honest: Boxes3D | None, ghosts: NDArray[np.float64]) -> Boxes3D:
    honest = honest or Boxes3D.empty()
    assert honest.scores is not None
    scores = np.concatenate((np.full(len(ghosts), SCORE, np.float32), honest.scores))
    order = np.argsort(-scores, kind='stable')
    return Boxes3D(np.vstack((ghosts, honest.boxes)), scores=scores)[order]


def spoof(honest: Statement, known: Knowledge) -> Statement:
    """Add `GHOSTS` vehicles that do not exist, as boxes and as features copied from real vehicles."""
    moves, ghosts = _ghosts(honest, known)
    bev = pasted(honest.bev, moves, known.grid)
    return replace(honest, bev=bev, boxes=_with_ghosts(honest.boxes, ghosts), by_boxes=True)


def removal(honest: Statement, known: Knowledge) -> Statement:
    """Erase all vehicles from the map, and send no box."""
    return replace(honest, bev=erased(honest.bev, known.vehicles, known.grid), boxes=Boxes3D.empty())


def _everywhere(honest: Statement, feature: NDArray[np.float32]) -> Statement:
    """A map of which every cell is observed."""
    density = np.full_like(honest.bev.density, honest.bev.density.max())
    return replace(honest, bev=BevFeature(feature, density), boxes=None)


def noise(honest: Statement, known: Knowledge) -> Statement:
    """Send uniform noise in the honest range of each channel, everywhere."""
    low, high = honest_range(honest.bev)
    return _everywhere(honest, known.rng.uniform(low, high, honest.bev.feature.shape).astype(np.float32))


def saturation(honest: Statement, known: Knowledge) -> Statement:
    """Send the honest maximum of each channel everywhere."""
    high = honest_range(honest.bev)[1]
    return _everywhere(honest, np.broadcast_to(high, honest.bev.feature.shape).copy())


def scale(honest: Statement, known: Knowledge) -> Statement:
    """Multiply all values."""
    return replace(honest, bev=BevFeature(SCALE * honest.bev.feature, honest.bev.density), boxes=None)


def paste(honest: Statement, known: Knowledge) -> Statement:
    """Copy a real vehicle to every place of a lattice over the whole grid, as boxes, too.

    Copies do not touch, however the vehicle is turned. Those nearest to the ego come first, as all scores are
    equal and the ego takes a limited number of boxes.
    """
    grid = known.grid
    source = patches(honest.bev, known.vehicles, grid)[0]
    step = float(np.hypot(*source.box[3:5])) + 2 * _APART
    x, y = np.arange(grid.x_min, grid.x_max, step), np.arange(grid.y_min, grid.y_max, step)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    ego = (inverse(honest.pose) @ known.ego_pose)[:2, 3]
    places = places[np.argsort(np.linalg.norm(places - ego, axis=1), kind='stable')]
    shifts = np.rint((places - source.box[:2]) / grid.cell).astype(int)
    moves = [(source, int(down), int(right)) for right, down in shifts]
    ghosts = np.array([source.moved(down, right, grid) for _, down, right in moves])
    return replace(
        honest, bev=pasted(honest.bev, moves, grid), boxes=_with_ghosts(None, ghosts), by_boxes=True
    )


def noise_on_vehicles(honest: Statement, known: Knowledge) -> Statement:
    """Send noise in the honest range in the cells of all vehicles, and the rest as it is."""
    return _on_vehicles(honest, known, noise(honest, known).bev)


def maximum_on_vehicles(honest: Statement, known: Knowledge) -> Statement:
    """Send the honest maximum of each channel in the cells of all vehicles, and the rest as it is."""
    return _on_vehicles(honest, known, saturation(honest, known).bev)


def _on_vehicles(honest: Statement, known: Knowledge, there: BevFeature) -> Statement:
    vehicles = cells_of(known.vehicles, known.grid)
    feature = np.where(vehicles, there.feature, honest.bev.feature)
    density = np.where(vehicles, there.density, honest.bev.density)
    return replace(honest, bev=BevFeature(feature, density), boxes=None)


def moved(honest: Statement, known: Knowledge, metres: float) -> Statement:
    """State a pose that is off in a random direction."""
    angle = known.rng.uniform(-np.pi, np.pi)
    offset = [metres * np.cos(angle), metres * np.sin(angle), 0.0]
    return replace(honest, pose=displaced(honest.pose, offset, 0.0))


def turned(honest: Statement, known: Knowledge, degrees: float) -> Statement:
    """State a pose that is turned in place, to a random side."""
    turn = np.radians(degrees) * known.rng.choice([-1.0, 1.0])
    return replace(honest, pose=displaced(honest.pose, [0.0, 0.0, 0.0], float(turn)))


def other_place(honest: Statement, known: Knowledge) -> Statement | None:
    """Send what an agent senses in another scenario, at the own pose."""
    elsewhere = known.elsewhere()
    return None if elsewhere is None else replace(elsewhere, pose=honest.pose)


def replay(honest: Statement, known: Knowledge) -> Statement | None:
    """Send an earlier sweep, with its pose, under the stamp of the present one."""
    return known.earlier()


def sybil(honest: Statement, known: Knowledge) -> Statement:
    """Send a map of a single cell from the ego's position: an empty one would not get a place."""
    density = np.zeros_like(honest.bev.density)
    feature = np.zeros_like(honest.bev.feature)
    cell = np.unravel_index(np.argmax(honest.bev.density), density.shape)
    density[cell] = honest.bev.density[cell]
    feature[:, cell[0], cell[1]] = honest.bev.feature[:, cell[0], cell[1]]
    return Statement(BevFeature(feature, density), Boxes3D.empty(), known.ego_pose)


def optimised(honest: Statement, known: Knowledge, goal: Goal) -> Statement:
    """Change the map by gradients through the ego's model, starting from `spoof` or from the honest map.

    Only cells around the targets that are not empty change, as empty ones are not sent and a layered message
    has few fine codes. Values stay within the honest range of each channel. The boxes sent are those that the
    liar's network finds in the map; none for the removal.
    """
    assert known.optimiser is not None, 'checked before the run'
    if goal == 'spoof':
        moves, targets = _ghosts(honest, known)
        start = replace(honest, bev=pasted(honest.bev, moves, known.grid), boxes=None)
    else:
        targets, start = known.vehicles, replace(honest, boxes=Boxes3D.empty())
    others = known.others()
    if not (len(targets) and others):
        return start
    cells = cells_of(widened(targets, _REACH), known.grid) & (start.bev.density > 0)
    low, high = (np.where(cells, limit, start.bev.feature) for limit in honest_range(honest.bev))
    statements = [others[0], start, *others[1:]]
    in_ego = transform_boxes(inverse(known.ego_pose) @ honest.pose, targets)
    return replace(start, bev=known.optimiser(goal, statements, in_ego, (low, high)))


_ALL = (
    Attack('spoof', spoof),
    Attack('removal', removal),
    Attack('noise', noise, steady=False),
    Attack('saturation', saturation),
    Attack('scale', scale),
    Attack('paste', paste),
    Attack('noise_on_vehicles', noise_on_vehicles, steady=False),
    Attack('maximum_on_vehicles', maximum_on_vehicles),
    Attack('pose_5m', partial(moved, metres=5.0)),
    Attack('pose_30deg', partial(turned, degrees=30.0)),
    Attack('other_place', other_place),
    Attack('replay', replay),
    Attack('sybils', sybil, names=NAMES),
    Attack('pgd_spoof', partial(optimised, goal='spoof'), optimised=True),
    Attack('pgd_removal', partial(optimised, goal='removal'), optimised=True),
)

ATTACKS: Mapping[str, Attack] = {attack.name: attack for attack in _ALL}
ABSENT = Attack('absent', lambda *_: None)
"""Nothing is sent: the reference that an attack is compared with."""
