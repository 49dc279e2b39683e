# SPDX-License-Identifier: Apache-2.0
"""The ray caster against hand cases and a slow, differently built one."""

import numpy as np
import pytest

from diffkd_ros.geometry.poses import pose_from_euler
from diffkd_ros.sources.simulator.ground import HALF_EXTENT, HeightField
from diffkd_ros.sources.simulator.ground_rays import GROUND
from diffkd_ros.sources.simulator.raycast import NOTHING, Solids, cast, face_planes, round_bounds
from diffkd_ros.sources.simulator.shapes import frustum, upright_box

FLAT = HeightField(np.zeros((2, 2), np.float32))


def solids(hexahedra, rounds=(), owner=None):
    hexahedra = np.array(hexahedra, np.float64).reshape(-1, 8, 3)
    rounds = np.array(rounds, np.float64).reshape(-1, 6)
    count = len(hexahedra) + len(rounds)
    return Solids(
        face_planes(hexahedra),
        rounds,
        np.concatenate([hexahedra, round_bounds(rounds)]),
        np.arange(count) if owner is None else np.array(owner, np.int64),
        np.full(count, 0.5, np.float32),
        np.zeros(count, np.float32),
    )


def shoot(scene, pose, elevations, columns=360, skip=-1, ground=FLAT, max_range=100.0, start=-np.pi):
    return cast(pose, start, columns, np.asarray(elevations, np.float64), max_range, scene, ground, skip)


def test_box_straight_ahead():
    """A wall whose face lies 10 m ahead is hit at 10 m / cos(azimuth), square on in the middle."""
    scene = solids([upright_box((11.0, 0.0), 0.0, 2.0, 4.0, (0.0, 4.0))])
    distance, hit, incidence = shoot(scene, pose_from_euler([0, 0, 2.0]), [0.0])
    seen = np.flatnonzero(hit[:, 0] == 0) - 180
    # The near face spans y = +-2 at x = 10: atan(0.2) = 11.3 degrees to either side.
    assert seen.tolist() == list(range(-11, 12))
    assert distance[180, 0] == pytest.approx(10.0)
    assert incidence[180, 0] == pytest.approx(1.0)
    assert distance[190, 0] == pytest.approx(10 / np.cos(np.radians(10)))
    assert incidence[190, 0] == pytest.approx(np.cos(np.radians(10)))


def test_flat_ground_and_sky():
    """A ray 10 degrees down meets the ground at height / sin(10 degrees); one upwards meets nothing."""
    distance, hit, incidence = shoot(solids([]), pose_from_euler([3, -4, 2.0]), np.radians([-10.0, 5.0]))
    assert (hit[:, 0] == GROUND).all()
    np.testing.assert_allclose(distance[:, 0], 2 / np.sin(np.radians(10)), rtol=1e-6)
    np.testing.assert_allclose(incidence[:, 0], np.sin(np.radians(10)), rtol=1e-5)
    assert (hit[:, 1] == NOTHING).all()
    assert np.isinf(distance[:, 1]).all()


def test_nearest_wins_and_range_ends():
    near = upright_box((6.0, 0.0), 0.0, 2.0, 2.0, (0.0, 4.0))
    far = upright_box((20.0, 0.0), 0.0, 2.0, 30.0, (0.0, 4.0))
    for order in ([near, far], [far, near]):
        distance, hit, _ = shoot(solids(order), pose_from_euler([0, 0, 2.0]), [0.0])
        assert distance[180, 0] == pytest.approx(5.0)
        assert hit[180, 0] == (0 if order[0] is near else 1)
        assert distance[210, 0] == pytest.approx(19 / np.cos(np.radians(30)))
    _, hit, _ = shoot(solids([far]), pose_from_euler([0, 0, 2.0]), [0.0], max_range=15.0)
    assert (hit == NOTHING).all()


def test_own_vehicle_is_not_seen():
    scene = solids(
        [frustum((-2, 2), 1.8, (0.2, 1.5)), upright_box((8.0, 0.0), 0.0, 2.0, 2.0, (0.0, 4.0))], owner=[7, 8]
    )
    _, hit, _ = shoot(scene, pose_from_euler([0, 0, 1.6]), np.radians([-20.0, 0.0]), skip=7)
    assert not (hit == 0).any()
    assert hit[180, 1] == 1
    _, hit, _ = shoot(scene, pose_from_euler([0, 0, 1.6]), np.radians([-20.0, 0.0]))
    assert (hit == 0).any()


def test_pole_and_ball():
    """A pole of radius 0.5 is hit at its near side; an open cylinder ends at its height; a ball likewise."""
    scene = solids([], [[10, 0, 1.0, 0.5, 1.0, 1.0], [0, 10, 2.0, 1.0, 1.0, 0.0]])
    distance, hit, _ = shoot(scene, pose_from_euler([0, 0, 1.5]), np.radians([0.0, 8.0]))
    assert distance[180, 0] == pytest.approx(9.5)
    assert hit[180, 1] == NOTHING  # passes at 1.5 + 10 tan 8 = 2.9 m, above the pole's top at 2 m
    # The line of sight runs 0.5 m below the ball's centre: sqrt(1 - 0.25) short of 10 m.
    assert distance[270, 0] == pytest.approx(10 - np.sqrt(0.75), abs=1e-6)


def triangles_hit(corners, origin, directions):
    """Smallest positive ray parameter over the 12 triangles of each hexahedron (Moeller-Trumbore)."""
    quads = [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    best = np.full((len(corners), len(directions)), np.inf)
    for k, c in enumerate(corners):
        for a, b, d, e in quads:
            for tri in ((a, b, d), (a, d, e)):
                v0, e1, e2 = c[tri[0]], c[tri[1]] - c[tri[0]], c[tri[2]] - c[tri[0]]
                p = np.cross(directions, e2)
                det = p @ e1
                with np.errstate(divide='ignore', invalid='ignore'):
                    u = p @ (origin - v0) / det
                    q = np.cross(origin - v0, e1)
                    v = directions @ q / det
                    t = e2 @ q / det
                ok = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
                best[k][ok] = np.minimum(best[k][ok], t[ok])
    return best


def rounds_hit(rounds, origin, directions):
    """First entry into each round body in the map frame, by the textbook quadratics."""
    best = np.full((len(rounds), len(directions)), np.inf)
    for k, (x, y, z, radius, half, cylinder) in enumerate(rounds):
        scale = np.array([radius, radius, 1e9 if cylinder else half])
        o, d = (origin - [x, y, z]) / scale, directions / scale
        if cylinder:
            o, d = o * [1, 1, 0], d * [1, 1, 0]
        a, b, c = (d * d).sum(1), d @ o, o @ o - 1
        root = b * b - a * c
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        ok = (root > 0) & (t > 0)
        if cylinder:
            ok &= np.abs(origin[2] + t * directions[:, 2] - z) <= half
        best[k][ok] = t[ok]
    return best


def ground_hit(ground, origin, directions, limit):
    """First step of a fine march that lies below the ground."""
    steps = np.arange(0.5, limit, 0.1)
    result = np.full(len(directions), np.inf)
    for k, d in enumerate(directions):
        at = origin + steps[:, None] * d
        below = at[:, 2] < ground.at(at[:, 0], at[:, 1])
        if below.any():
            result[k] = steps[np.argmax(below)]
    return result


@pytest.mark.parametrize('seed', range(4))
def test_against_brute_force(seed):
    """Random scenes, tilted sensor: same distance and same body as testing every ray with everything."""
    rng = np.random.default_rng(seed)
    hexahedra = []
    for _ in range(40):
        centre, yaw = rng.uniform(-60, 60, 2), rng.uniform(-np.pi, np.pi)
        if rng.random() < 0.5:
            hexahedra.append(upright_box(centre, yaw, *rng.uniform(0.3, 25, 2), (-1.0, rng.uniform(0.5, 9))))
        else:
            part = np.array(frustum((-2.2, 2.2), 1.9, (0.2, 1.5), (-1.5, 1.0), 1.4))
            c, s = np.cos(yaw), np.sin(yaw)
            hexahedra.append(part @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + [*centre, 0])
    rounds = [
        [*rng.uniform(-40, 40, 2), rng.uniform(0, 3), rng.uniform(0.1, 2), rng.uniform(0.5, 3), float(k % 2)]
        for k in range(20)
    ]
    origin = np.array([*rng.uniform(-5, 5, 2), 2.0])
    # Keep bodies that the sensor is inside of out of the scene.
    scene = solids(hexahedra, rounds)
    outside = (scene.planes[..., :3] @ origin - scene.planes[..., 3]).max(axis=1) > 0.01
    kept = [r for r in rounds if np.hypot(r[0] - origin[0], r[1] - origin[1]) > r[3]]
    scene = solids(scene.corners[:40][outside], kept)
    pose = pose_from_euler(origin, *rng.normal(0, 0.03, 2), rng.uniform(-3, 3))
    metres = np.arange(-HALF_EXTENT, HALF_EXTENT + 1)
    wavy = np.add.outer(0.1 * np.sin(metres / 15), 0.08 * np.cos(metres / 10))
    ground = HeightField(wavy.astype(np.float32))
    elevations, columns, start = np.radians(np.linspace(-25, 12, 24)), 180, -np.pi + 0.007
    distance, hit, _ = shoot(scene, pose, elevations, columns, ground=ground, start=start, max_range=80.0)

    azimuth = start + np.arange(columns) * 2 * np.pi / columns
    local = np.stack(
        [
            np.cos(elevations) * np.cos(azimuth)[:, None],
            np.cos(elevations) * np.sin(azimuth)[:, None],
            np.broadcast_to(np.sin(elevations), (columns, len(elevations))),
        ],
        axis=-1,
    ).reshape(-1, 3)
    directions = local @ pose[:3, :3].T
    all_hits = np.concatenate(
        [
            triangles_hit(scene.corners[: len(scene.planes)], origin, directions),
            rounds_hit(scene.rounds, origin, directions),
        ]
    )
    body, nearest = all_hits.argmin(axis=0), all_hits.min(axis=0)
    soil = ground_hit(ground, origin, directions, 90.0)
    expected = np.minimum(nearest, soil)
    expected[expected > 80.0] = np.inf
    expected_hit = np.where(np.isinf(expected), NOTHING, np.where(nearest < soil, body, GROUND))
    distance, hit = distance.ravel(), hit.ravel()

    on_body = (expected_hit >= 0) & (hit >= 0)
    agree = hit == expected_hit
    # Rays that graze an edge may fall to either side of it, the march overshoots by up to a step, and where
    # the ground is nearly parallel to the ray it is found to a few centimetres of height only.
    assert agree.mean() > 0.995
    assert on_body.sum() > 500
    np.testing.assert_allclose(distance[on_body & agree], expected[on_body & agree], rtol=1e-5)
    soil_hit = agree & (hit == GROUND)
    assert soil_hit.sum() > 500
    at = origin + distance[soil_hit, None] * directions[soil_hit]
    assert np.abs(at[:, 2] - ground.at(at[:, 0], at[:, 1])).max() < 0.05
    steep = soil_hit & (directions[:, 2] < -0.08)
    assert np.abs(distance[steep] - expected[steep]).max() < 0.3
