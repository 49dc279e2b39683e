# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a CARLA 0.9.16 server that implements what the unmodified `carla` client needs for LiDARs.

It supports connecting, settings, actors, spawning, ticks, map changes and LiDAR streams. There is no physics,
rendering or traffic: vehicles keep their velocity, or follow a recorded or simulated drive. Unknown calls are
refused as rpclib does, and counted. It must run in its own process: the client holds Python's global lock
while it waits in `get_world`, so a server in the same process could never answer.

    python -m diffkd_ros.cosim.testing.carla_stand_in --port 2000 --source sim
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from diffkd_ros.cosim.testing.rpc import DONE, CallError, Method, RpcServer, StreamServer, value
from diffkd_ros.cosim.testing.scene import PlayedDrive
from diffkd_ros.cosim.testing.street import street
from diffkd_ros.cosim.testing.world import Actor, World
from diffkd_ros.errors import DiffkdError
from diffkd_ros.sources.source import DEFAULT_SEED, Source

VERSION = '0.9.16'
_OBSERVER_STREAM = 1
_VEHICLE_EXTENT = (2.4, 0.95, 0.75)
_FREE_RUNNING = 0.05  # seconds between steps while the world is not in synchronous mode
_SPAWN_POINTS = 8
# Attribute types: bool 1, int 2, float 3, string 4, colour 5.
_VEHICLE = {'role_name': (4, 'autopilot'), 'number_of_wheels': (2, '4'), 'ros_name': (4, '')}
_LIDAR = {
    'role_name': (4, 'front'),
    'ros_name': (4, ''),
    'range': (3, '10.0'),
    'channels': (2, '32'),
    'points_per_second': (2, '56000'),
    'rotation_frequency': (3, '10.0'),
    'upper_fov': (3, '10.0'),
    'lower_fov': (3, '-30.0'),
    'atmosphere_attenuation_rate': (3, '0.004'),
    'sensor_tick': (3, '0.0'),
    'dropoff_general_rate': (3, '0.45'),
    'dropoff_intensity_limit': (3, '0.8'),
    'dropoff_zero_intensity': (3, '0.4'),
    'noise_stddev': (3, '0.0'),
}
_BLUEPRINTS = {
    'vehicle.tesla.model3': _VEHICLE,
    'vehicle.lincoln.mkz_2020': _VEHICLE,
    'sensor.lidar.ray_cast': _LIDAR,
}


def _road(number: int, start: float, length: float, link: str, contact: str) -> str:
    """A straight road along x with one driving lane."""
    mark = '<roadMark sOffset="0.0" type="solid" weight="standard" color="standard" width="0.1"/>'
    return f"""<road name="street" length="{length}" id="{number}" junction="-1">
    <link><{link} elementType="road" elementId="{3 - number}" contactPoint="{contact}"/></link>
    <planView><geometry s="0.0" x="{start}" y="0.0" hdg="0.0" length="{length}"><line/></geometry></planView>
    <elevationProfile><elevation s="0.0" a="0.0" b="0.0" c="0.0" d="0.0"/></elevationProfile>
    <lanes><laneSection s="0.0">
      <center><lane id="0" type="none" level="false">{mark}</lane></center>
      <right><lane id="-1" type="driving" level="false">
        <link><{link} id="-1"/></link>
        <width sOffset="0.0" a="3.5" b="0.0" c="0.0" d="0.0"/>
        {mark}
      </lane></right>
    </laneSection></lanes>
  </road>"""


# One straight road with a second one behind it: the client has no topology, and so no routes, without a link.
_ROADS = f"""<?xml version="1.0"?>
<OpenDRIVE>
  <header revMajor="1" revMinor="4" name="stand-in"/>
  {_road(1, -100.0, 200.0, 'successor', 'start')}
  {_road(2, 100.0, 10.0, 'predecessor', 'end')}
</OpenDRIVE>"""
# Synchronous, no rendering, fixed step (optional), substepping, substep, substeps, culling, ragdoll, tile,
# active distance, spectator as ego.
_SETTINGS = [False, False, [False], True, 0.01, 10, 0.0, False, 3000.0, 2000.0, True]


class CarlaStandIn:
    """The server: world, calls and streams.

    Args:
        host: address to listen on.
        port: RPC port; 0: any free one. The streams always use a free port.
        version: version that the server reports.
        open_world: returns the drive that is played in the given world; None: the world is empty.
    """

    def __init__(
        self,
        host: str = '127.0.0.1',
        port: int = 2000,
        version: str = VERSION,
        open_world: Callable[[World], PlayedDrive] | None = None,
    ) -> None:
        self._version = version
        self._world = World()
        self._lock = threading.RLock()
        self._settings = list(_SETTINGS)
        self._spectator = self._world.add('spectator', [], (0.0,) * 6)
        self._drive = None if open_world is None else open_world(self._world)
        self._muted: set[int] = set()
        self._methods: dict[str, Method] = {
            'version': lambda: value(self._version),
            'get_episode_info': lambda: value([self._world.episode, [self._streams.token(_OBSERVER_STREAM)]]),
            'get_sensor_token': lambda stream: value([self._streams.token(stream)]),
            'get_episode_settings': lambda: value(self._settings),
            'set_episode_settings': self._set_settings,
            'tick_cue': self._tick,
            'load_new_episode': self._load_map,
            'get_actors_by_id': self._get_actors,
            'get_spectator': lambda: value(self._described(self._spectator)),
            'get_required_files': lambda folder='', download=False: value([]),
            'get_map_info': self._get_map,
            'get_map_data': lambda: value(_ROADS),
            'get_actor_definitions': self._get_definitions,
            'query_lights_state': lambda client: value([]),
            'spawn_actor': self._spawn,
            'spawn_actor_with_parent': self._spawn,
            'destroy_actor': self._destroy,
            'set_actor_transform': self._set_transform,
            'set_actor_target_velocity': self._set_velocity,
            'get_actor_bounding_box': lambda number: value(self._bounding_box(self._actor(number))),
            'enable_sensor_for_ros': self._enable_for_ros,
            # Not part of CARLA; for tests.
            'stand_in_report': self._report,
            'stand_in_forget': self._forget,
            'stand_in_mute': self._muted.add,  # number of a sensor; 0: all
            'stand_in_sense': self.sense,
            'stand_in_clear': self._clear,
        }
        self._forgotten: dict[str, Method] = {}
        self._enabled_for_ros: list[int] = []
        self._streams = StreamServer(host)
        self._calls = RpcServer(host, port, self._methods)
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """RPC port."""
        return self._calls.port

    def start(self) -> None:
        """Start to answer, in threads."""
        self._streams.start()
        self._calls.start()
        threading.Thread(target=self._run_freely, daemon=True).start()

    def _run_freely(self) -> None:
        while not self._stopping.wait(_FREE_RUNNING):
            if not self._settings[0]:
                with self._lock:
                    self._step()

    def _step(self) -> int:
        world = self._world
        world.advance()
        if self._drive is not None and self._settings[0]:
            self._drive.advance()
        for actor in list(world.actors.values()):
            if self._muted & {0, actor.number}:
                continue
            if actor.stream and self._streams.wanted(actor.stream):
                self._streams.send(actor.stream, world.measurement(actor))
        self._streams.send(_OBSERVER_STREAM, world.snapshot())
        return world.frame

    def _tick(self) -> list:
        with self._lock:
            return value(self._step())

    def _set_settings(self, settings: list) -> list:
        """Apply settings. The client waits for one step, which does not advance the drive."""
        with self._lock:
            self._settings = [False, *settings[1:]]
            if len(settings[2]) == 2:
                self._world.step = settings[2][1]
            frame = self._step()
            self._settings = settings
            return value(frame)

    def _load_map(self, name: str, reset_settings: bool = True, layers: int = 0) -> list:
        """Begin a new episode on the same map, whatever the name."""
        with self._lock:
            self._world.begin_episode()
            self._spectator = self._world.add('spectator', [], (0.0,) * 6)
            if reset_settings:
                self._settings = list(_SETTINGS)
        return DONE

    def _actor(self, number: int) -> Actor:
        actor = self._world.actors.get(number)
        if actor is None:
            raise CallError(f'unable to find actor {number}')
        return actor

    def _described(self, actor: Actor) -> list:
        token = self._streams.token(actor.stream) if actor.stream else b''
        kind = [actor.number, actor.type_id, [list(attribute) for attribute in actor.attributes]]
        tags = bytes([14] if actor.is_vehicle else [])
        return [actor.number, actor.parent, kind, self._bounding_box(actor), tags, token]

    @staticmethod
    def _bounding_box(actor: Actor) -> list:
        return [[0.0, 0.0, actor.extent[2]], list(actor.extent), [0.0, 0.0, 0.0], actor.number]

    def _get_actors(self, numbers: list[int]) -> list:
        with self._lock:
            actors = self._world.actors
            return value([self._described(actors[number]) for number in numbers if number in actors])

    @staticmethod
    def _get_map() -> list:
        points = [[[12.0 * i, -3.5 * (i % 2), 0.0], [0.0, 0.0, 0.0]] for i in range(_SPAWN_POINTS)]
        return value(['Carla/Maps/StandIn', points])

    @staticmethod
    def _get_definitions() -> list:
        return value(
            [
                [
                    number,
                    name,
                    name.replace('.', ','),
                    [[key, kind, default, [], True, False] for key, (kind, default) in attributes.items()],
                ]
                for number, (name, attributes) in enumerate(_BLUEPRINTS.items(), 1)
            ]
        )

    def _spawn(
        self, description: list, transform: list, parent: int = 0, attachment: int = 0, socket: str = ''
    ) -> list:
        (x, y, z), (pitch, yaw, roll) = transform
        _, type_id, attributes = description
        with self._lock:
            vehicle = type_id.startswith('vehicle.')
            if vehicle and any(
                actor.is_vehicle and abs(actor.transform[0] - x) < 4.0 and abs(actor.transform[1] - y) < 2.0
                for actor in self._world.actors.values()
            ):
                raise CallError('failed to spawn actor: collision at spawn position')
            actor = self._world.add(
                type_id,
                [tuple(attribute) for attribute in attributes],
                (x, y, z, pitch, yaw, roll),
                parent,
                _VEHICLE_EXTENT if vehicle else (0.0, 0.0, 0.0),
            )
            if self._drive is not None:
                self._drive.aim()
            return value(self._described(actor))

    def _destroy(self, number: int) -> list:
        with self._lock:
            return value(self._world.remove(number))

    def _set_transform(self, number: int, transform: list) -> list:
        (x, y, z), (pitch, yaw, roll) = transform
        with self._lock:
            self._actor(number).transform = (x, y, z, pitch, yaw, roll)
        return DONE

    def _set_velocity(self, number: int, velocity: list[float]) -> list:
        x, y, z = velocity
        with self._lock:
            self._actor(number).velocity = (x, y, z)
        return DONE

    def _enable_for_ros(self, stream: int) -> list:
        self._enabled_for_ros.append(stream)
        return DONE

    def _report(self) -> dict:
        """Counts of calls, and the state of the world."""
        with self._lock:
            return {
                'calls': dict(self._calls.calls),
                'unknown': dict(self._calls.unknown),
                'failed': dict(self._calls.failed),
                'synchronous': self._settings[0],
                'actors': {actor.number: actor.type_id for actor in self._world.actors.values()},
                'ros_names': [
                    actor.attribute('ros_name')
                    for actor in self._world.actors.values()
                    if actor is not self._spectator
                ],
                'enabled_for_ros': self._enabled_for_ros,
                'frame': self._world.frame,
            }

    def sense(self, own_body: bool, carla_intensity: bool) -> None:
        """Set what LiDARs measure, as of `World`."""
        self._world.own_body, self._world.carla_intensity = own_body, carla_intensity

    def _forget(self, name: str) -> None:
        """Remove a method, as if the server lacked it."""
        self._forgotten[name] = self._methods.pop(name)

    def _clear(self) -> None:
        """Reset to the state after the start: only the spectator exists, nothing is muted or counted."""
        with self._lock:
            for number in list(self._world.actors):
                if number != self._spectator.number:
                    self._world.remove(number)
            self._settings = list(_SETTINGS)
            self._methods |= self._forgotten
            self._forgotten.clear()
            self._muted.clear()
            self.sense(False, False)
            self._enabled_for_ros.clear()
            for counts in (self._calls.calls, self._calls.unknown, self._calls.failed):
                counts.clear()

    def stop(self) -> None:
        """Stop stepping; the server threads end with the process."""
        self._stopping.set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; runs until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=2000, help='RPC port; 0: any free one, which is printed')
    parser.add_argument('--version', default=VERSION, help='version to report')
    parser.add_argument(
        '--source', default='', help='what to play: sim, sim:SEED, opv2v:DIR, ...; empty: nothing'
    )
    parser.add_argument(
        '--street', action='store_true', help='play a queue of standing vehicles on the road of the map'
    )
    parser.add_argument('--seed', type=int, default=DEFAULT_SEED, help='seed of source sim without one')
    parser.add_argument('--vehicles', type=int, default=3, help='connected vehicles in the simulator')
    parser.add_argument('--frames', type=int, default=100, help='frames of the drive, which is then repeated')
    parser.add_argument(
        '--own-body', action='store_true', help="let the rays that meet the LiDAR's vehicle return from it"
    )
    parser.add_argument(
        '--carla-intensity', action='store_true', help="replace intensities with CARLA's: exp(-0.004 range)"
    )
    given = parser.parse_args(arguments)

    def open_world(world: World) -> PlayedDrive:
        if given.street:
            return PlayedDrive(world, [street(given.vehicles)])
        simulator = {'agents': given.vehicles, 'frames_per_scenario': min(given.frames, 300)}
        source = Source(given.source, default_seed=given.seed, simulator=simulator)
        return PlayedDrive(world, itertools.islice(source.frames(), given.frames))

    try:
        plays = given.street or given.source
        server = CarlaStandIn(given.host, given.port, given.version, open_world if plays else None)
        server.sense(given.own_body, given.carla_intensity)
    except (DiffkdError, OSError, ValueError) as error:
        print(f'carla_stand_in: {error}', file=sys.stderr)
        return 2
    server.start()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f'ready: CARLA {given.version} stand-in, port {server.port}', flush=True)
    stopped.wait()
    server.stop()
    return 0


if __name__ == '__main__':
    sys.exit(main())
