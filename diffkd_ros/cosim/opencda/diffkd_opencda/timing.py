# SPDX-License-Identifier: Apache-2.0
"""Time OpenCDA's loop, with and without cooperative detections in turn.

    python -m diffkd_opencda.timing CHECKOUT --scenario opencda_scenario.yaml --vehicles 3 --out times.json

It runs OpenCDA's perception manager, behaviour agent and controller, for vehicles that stand on the road, in
OpenCDA's own interpreter. A gateway and the nodes must be running; `diffkd bench-opencda` starts them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .hub import Hub
from .installing import HOLDERS, install

PARTS = ('world', 'sweeps', 'gateway', 'perception', 'planner')
"""What a step consists of: the tick, the wait for the sweeps, the exchange with the gateway, the remaining
perception of all vehicles, and their planners and controllers."""
COOPERATIVE, SERVER = KINDS = 'cooperative', 'server'
# Steps with one way of perceiving before the other one's turn.
_TURN = 10
_AHEAD = 60.0  # metres from a vehicle to its destination


class TimingError(RuntimeError):
    """The loop cannot be timed."""


class Stopwatch:
    """Seconds that the parts of a step take."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part; a part inside of another one counts once, as itself."""
        before = sum(self.seconds.values())
        started = time.perf_counter()
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - before
            self.seconds[name] += time.perf_counter() - started - inside

    def timed(self, name: str, function: Any) -> Any:
        """The function, adding its time to a part."""

        def call(*args: Any) -> Any:
            with self.part(name):
                return function(*args)

        return call

    def read(self) -> dict:
        """Seconds of each part since the last call."""
        read, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return read


class Vehicle:
    """A connected vehicle: OpenCDA's perception, behaviour agent and controller.

    Args:
        actor: `carla.Vehicle`.
        holder: the module of OpenCDA that creates these objects for its vehicles.
        cav_world: OpenCDA's `CavWorld`.
        settings: `vehicle_base` of OpenCDA's scenario files.
    """

    def __init__(self, actor: Any, holder: Any, cav_world: Any, settings: Mapping) -> None:
        self._actor = actor
        given = {
            'vehicle': actor,
            'config_yaml': settings['sensing']['perception'],
            'cav_world': cav_world,
            'infra_id': actor.id,
        }
        # Versions of OpenCDA differ in the order of the arguments and in those that are not used here.
        own = inspect.signature(holder.PerceptionManager.__mro__[1]).parameters.values()
        needed = [each.name for each in own if each.name in given or each.default is each.empty]
        self.manager = holder.PerceptionManager(**{name: given.get(name) for name in needed})
        carla_map = actor.get_world().get_map()
        self._agent = holder.BehaviorAgent(actor, carla_map, settings['behavior'])
        self._controller = holder.ControlManager(settings['controller'])
        place = actor.get_transform().location
        ahead = carla_map.get_waypoint(place).next(_AHEAD)[0].transform.location
        self._agent.set_destination(place, ahead, clean=True)

    def perceive(self, cooperative: bool) -> dict:
        """The objects around the vehicle: those of the adapter, or the ground truth of the server."""
        self.manager.activate = cooperative
        return self.manager.detect(self._actor.get_transform())

    def plan(self, objects: Mapping) -> None:
        """Plan and control; the result is dropped, so that the vehicle stays where it is."""
        place, velocity = self._actor.get_transform(), self._actor.get_velocity()
        speed = 3.6 * float(np.linalg.norm([velocity.x, velocity.y, velocity.z]))
        self._agent.update_information(place, speed, objects)
        self._controller.update_info(place, speed)
        self._controller.run_step(*self._agent.run_step())


def time_loop(world: Any, vehicles: Sequence[Vehicle], hub: Hub, steps: int, warm_up: int) -> list:
    """Run the loop, with cooperative detections and with the server's ground truth in turn.

    Args:
        world: `carla.World` in synchronous mode.
        vehicles: of the hub, the ego first.
        hub: of the adapter.
        steps: timed steps of each kind.
        warm_up: steps of each kind before them.

    Returns:
        A dict per timed step: `objects` ('cooperative' or 'server'), the number of `vehicles` that the ego's
        planner got, and the seconds of each part.

    Raises:
        TimingError: if the gateway did not answer a timed step.
    """
    watch = Stopwatch()
    for owner, name, part in ((hub, 'gather', 'sweeps'), (hub.gateway, 'exchange', 'gateway')):
        setattr(owner, name, watch.timed(part, getattr(owner, name)))
    rows = []
    for kind in [*_turns(warm_up), *_turns(steps)]:
        failures = hub.failures
        with watch.part('world'):
            world.tick()
        with watch.part('perception'):
            found = [vehicle.perceive(kind == COOPERATIVE) for vehicle in vehicles]
        with watch.part('planner'):
            for vehicle, objects in zip(vehicles, found):  # noqa: B905
                vehicle.plan(objects)
        rows.append({'objects': kind, 'vehicles': len(found[0]['vehicles']), **watch.read()})
        if hub.failures > failures and len(rows) > 2 * warm_up:
            raise TimingError('the gateway did not answer a step')
    return rows[2 * warm_up :]


def _turns(steps: int) -> Iterator[str]:
    """The kinds of consecutive steps, `steps` of each."""
    for done in range(0, steps, _TURN):
        for kind in KINDS:
            yield from [kind] * min(_TURN, steps - done)


def summarise(rows: Sequence[Mapping], step: float) -> dict:
    """Medians of timed steps, for each kind of them.

    Args:
        rows: of `time_loop`.
        step: of the world, seconds.

    Returns:
        Kind -> number of `steps`, `milliseconds` of each part, `step_ms`, `steps_per_second`,
        `times_real_time` and the number of `vehicles` that the ego's planner got.
    """
    summary = {}
    for kind in KINDS:
        own = [row for row in rows if row['objects'] == kind]
        total = float(np.median([sum(row[part] for part in PARTS) for row in own]))
        summary[kind] = {
            'steps': len(own),
            'milliseconds': {part: 1e3 * float(np.median([row[part] for row in own])) for part in PARTS},
            'step_ms': 1e3 * total,
            'steps_per_second': 1.0 / total,
            'times_real_time': step / total,
            'vehicles': float(np.median([row['vehicles'] for row in own])),
        }
    return summary


def _merged(base: Any, over: Any) -> Any:
    """Two nested mappings; values of the second replace those of the first."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    return {key: _merged(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}


def _settings(checkout: str, scenario: str) -> tuple:
    """Step of the world (seconds) and `vehicle_base`, from OpenCDA's defaults and a scenario over them."""
    yaml = importlib.import_module('yaml')  # OpenCDA depends on it through OmegaConf
    texts = []
    for path in (os.path.join(checkout, 'opencda/scenario_testing/config_yaml/default.yaml'), scenario):
        with open(path) as file:
            texts.append(file.read())
    step = yaml.safe_load(texts[1])['world']['fixed_delta_seconds']
    reference = '${world.fixed_delta_seconds}'
    default, changed = (yaml.safe_load(text.replace(reference, str(step))) for text in texts)
    return step, _merged(default['vehicle_base'], changed['vehicle_base'])


@contextlib.contextmanager
def _synchronous(world: Any, step: float) -> Iterator[None]:
    """Make the world wait for ticks of `step` seconds."""
    before, settings = world.get_settings(), world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, step
    world.apply_settings(settings)
    try:
        yield
    finally:
        world.apply_settings(before)


@contextlib.contextmanager
def _actors(world: Any, carla: Any, count: int) -> Iterator[list]:
    """The server's vehicles cav_1, cav_2, ...; those missing stand at the map's spawn points meanwhile."""
    there = {actor.attributes.get('role_name'): actor for actor in world.get_actors().filter('vehicle.*')}
    blueprint = world.get_blueprint_library().filter('vehicle.lincoln.mkz*')[0]
    points = world.get_map().get_spawn_points()
    found, spawned = [], []
    try:
        for number in range(1, count + 1):
            actor = there.get(f'cav_{number}')
            while actor is None:
                if not points:
                    raise TimingError(f'the map has no free spawn points for {count} vehicles')
                actor = world.try_spawn_actor(blueprint, points.pop(0))
                spawned += [actor] if actor else []
            found.append(actor)
        world.tick()
        yield found
    finally:
        for actor in spawned:
            actor.destroy()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; writes a JSON file with the rows of `time_loop` and their summary."""
    parser = argparse.ArgumentParser(prog='python -m diffkd_opencda.timing')
    parser.add_argument('checkout', help='folder of OpenCDA')
    parser.add_argument('--scenario', required=True, help='scenario file over the defaults of OpenCDA')
    parser.add_argument('--vehicles', type=int, required=True, help='connected vehicles, first the ego')
    parser.add_argument('--gateway', required=True, help='host:port of the gateway')
    parser.add_argument('--host', default='127.0.0.1', help='of the CARLA server')
    parser.add_argument('--port', type=int, default=2000, help='of the CARLA server')
    parser.add_argument('--steps', type=int, default=100, help='timed steps of each kind')
    parser.add_argument('--warm-up', type=int, default=20, help='steps of each kind before')
    parser.add_argument('--out', required=True, help='file to write')
    given = parser.parse_args(arguments)
    sys.path.insert(0, os.path.abspath(given.checkout))
    carla = importlib.import_module('carla')
    step, settings = _settings(given.checkout, given.scenario)
    # A busy machine must not make a step fail.
    hub = install(given.gateway, timeout=120.0, sweep_timeout=30.0)
    holder = next(sys.modules[name] for name in HOLDERS if hasattr(sys.modules.get(name), 'BehaviorAgent'))
    cav_world = importlib.import_module('opencda.core.common.cav_world').CavWorld(False)
    client = carla.Client(given.host, given.port)
    client.set_timeout(60.0)
    world = client.get_world()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_synchronous(world, step))
        vehicles = []
        for actor in stack.enter_context(_actors(world, carla, given.vehicles)):
            vehicles.append(Vehicle(actor, holder, cav_world, settings))
            stack.callback(vehicles[-1].manager.destroy)
        loads = [os.getloadavg()]
        rows = time_loop(world, vehicles, hub, given.steps, given.warm_up)
        loads.append(os.getloadavg())
    hub.close()
    result = {'step_s': step, 'load_average': loads, 'processors': os.cpu_count(), **summarise(rows, step)}
    with open(given.out, 'w') as file:
        json.dump({**result, 'rows': rows}, file)


if __name__ == '__main__':
    main()
