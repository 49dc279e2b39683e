# SPDX-License-Identifier: Apache-2.0
"""Checks what the co-simulation needs of a CARLA server, and prints PASS or FAIL for each item.

    ros2 run diffkd_ros cosim_smoke --host 192.168.1.7 --port 2000

It spawns two vehicles and ticks the server for a few seconds. Do not run it while another client ticks. It
needs no ROS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffkd_ros.cosim.client import carla_module, connect
from diffkd_ros.cosim.errors import CosimError
from diffkd_ros.cosim.session import CarlaSession
from diffkd_ros.cosim.settings import LidarSettings, SessionSettings
from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import CoopFrame

_FRAMES = 20
_STEP = 0.1
_ROLES = {1: 'diffkd_smoke_1', 2: 'diffkd_smoke_2'}


class CheckError(DiffkdError):
    """A check failed; the message says what was found."""


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise CheckError(found)


@dataclass
class _Run:
    """Results of the checks that later checks use."""

    host: str
    port: int
    timeout: float
    source_build: bool
    frames: list[CoopFrame] = field(default_factory=list)
    copies: list[np.ndarray] = field(default_factory=list)
    before: tuple[set[int], bool] = field(default_factory=lambda: (set(), False))
    places: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def _client(run: _Run) -> str:
    return f'{carla_module().__name__} imported'


def _server(run: _Run) -> str:
    client, world = connect(run.host, run.port, run.timeout, run.source_build)
    run.before = _state(world)
    return f'{client.get_server_version()}, map {world.get_map().name}'


def _state(world: object) -> tuple[set[int], bool]:
    """Ids of all vehicles and sensors, and whether the world is synchronous."""
    actors = world.get_actors()  # type: ignore[attr-defined]
    kinds = ('vehicle.', 'sensor.')
    ids = {actor.id for actor in actors if actor.type_id.startswith(kinds)}
    return ids, world.get_settings().synchronous_mode  # type: ignore[attr-defined]


def _session(run: _Run) -> str:
    settings = SessionSettings(
        _ROLES, 1, run.host, run.port, run.timeout, source_build=run.source_build, step=_STEP
    )
    with CarlaSession(settings) as session:
        for _ in range(_FRAMES):
            frame = session.next_frame()
            run.frames.append(frame)
            run.copies.append(frame.agents[1].points.copy())
            run.places.append((frame.agents[1].pose, session.vehicle_matrix(1)))
    return f'{len(run.frames)} frames of {len(run.frames[0].agents)} vehicles'


def _stamps(run: _Run) -> str:
    steps = np.diff([frame.stamp for frame in run.frames])
    _require(set(steps) == {round(_STEP * 1e9)}, f'the stamps step by {sorted(set(steps))} ns')
    _require(
        all(sorted(frame.agents) == [1, 2] for frame in run.frames),
        f'vehicles of the frames: {[sorted(frame.agents) for frame in run.frames]}',
    )
    return f'every step is {_STEP} s, every frame has both sweeps'


def _turn(run: _Run) -> str:
    points = run.frames[-1].agents[1].points
    _require(len(points) > 500, f'{len(points)} points')
    azimuth = np.sort(np.arctan2(points[:, 1], points[:, 0]))
    gap = np.degrees(max(np.diff(azimuth).max(), 2 * np.pi - azimuth[-1] + azimuth[0]))
    _require(gap < 60.0, f'no return in {gap:.0f} degrees: the sweep is not a whole turn')
    return f'{len(points)} points, largest gap {gap:.1f} degrees'


def _ground(run: _Run) -> str:
    sweep = run.frames[-1].agents[1]
    near = sweep.points[np.hypot(sweep.points[:, 0], sweep.points[:, 1]) < 15.0]
    low = float(np.percentile(near[:, 2], 10)) if len(near) else float('nan')
    height = LidarSettings().height
    _require(abs(low + height) < 0.5, f'the ground is at z = {low:.2f} m, expected {-height:.2f}')
    return f'z points up: the ground is at {low:.2f} m'


def _handedness(run: _Run) -> str:
    mirror = np.diag((1.0, -1.0, 1.0, 1.0))
    worst = max(
        float(np.abs(pose - mirror @ matrix @ mirror @ LidarSettings().mount).max())
        for pose, matrix in run.places
    )
    _require(worst < 0.01, f'poses differ from the mirror image of CARLA by {worst:.3f}')
    return f'poses are the mirror image of CARLA, to {worst:.1e}'


def _seen(run: _Run) -> str:
    """The box of the other vehicle holds its returns; with a wrong sign of y it would be empty."""
    truth = run.frames[-1].ground_truth
    assert truth is not None
    assert truth.num_points is not None
    assert truth.track_ids is not None
    count = int(truth.num_points[truth.track_ids == 2].sum())
    _require(
        count >= 5, f'{count} returns in the box of the other vehicle, unless it is hidden from the first'
    )
    return f'{count} returns in the box of the other vehicle'


def _memory(run: _Run) -> str:
    changed = sum(
        not np.array_equal(frame.agents[1].points, copy)
        for frame, copy in zip(run.frames, run.copies, strict=True)
    )
    _require(changed == 0, f'{changed} sweeps were changed later')
    return 'no sweep was changed later'


def _left(run: _Run) -> str:
    _, world = connect(run.host, run.port, run.timeout, run.source_build)
    actors, synchronous = _state(world)
    extra = actors - run.before[0]
    _require(not extra, f'left behind: {sorted(extra)}')
    _require(synchronous == run.before[1], f'synchronous is {synchronous}, was {run.before[1]}')
    return 'actors and settings as before'


# Name of the item, its check, and the check that must have passed before.
CHECKS: tuple[tuple[str, Callable[[_Run], str], Callable[[_Run], str] | None], ...] = (
    ('the CARLA client is installed', _client, None),
    ('the server answers and is of the same release', _server, _client),
    ('vehicles and LiDARs in synchronous mode', _session, _server),
    ('stamps', _stamps, _session),
    ('whole turns', _turn, _session),
    ('ground', _ground, _session),
    ('right-handed poses', _handedness, _session),
    ('right-handed boxes', _seen, _session),
    ('sweeps keep their memory', _memory, _session),
    ('the world is left as it was', _left, _server),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns 0 if all items passed, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=2000)
    parser.add_argument('--timeout', type=float, default=10.0, help='longest wait for the server, seconds')
    parser.add_argument(
        '--source-build',
        action='store_true',
        help='connect although the versions differ, if server or client were built from source',
    )
    given = parser.parse_args(arguments)
    run = _Run(given.host, given.port, given.timeout, given.source_build)
    passed: set[Callable[[_Run], str] | None] = {None}
    for name, check, needed in CHECKS:
        result, said = _result(check, run) if needed in passed else ('SKIP', 'an item it depends on failed')
        if result == 'PASS':
            passed.add(check)
        print(f'{result}  {name}: {said}', flush=True)
    return int(len(passed) <= len(CHECKS))


def _result(check: Callable[[_Run], str], run: _Run) -> tuple[str, str]:
    try:
        return 'PASS', check(run)
    except (CheckError, CosimError) as error:
        return 'FAIL', f'{type(error).__name__}: {error}'


if __name__ == '__main__':
    sys.exit(main())
