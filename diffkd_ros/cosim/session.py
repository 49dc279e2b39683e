# SPDX-License-Identifier: Apache-2.0
"""A CARLA world as a source of frames: vehicles with LiDARs, one `CoopFrame` per step."""

from __future__ import annotations

import ctypes
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from diffkd_ros.cosim.callbacks import ClientCallbacks
from diffkd_ros.cosim.client import carla_module, connect, named_errors
from diffkd_ros.cosim.errors import (
    BlueprintMissingError,
    CosimError,
    ServerLostError,
    SweepTimeoutError,
    VehicleMissingError,
)
from diffkd_ros.cosim.graph import native_lidar_name
from diffkd_ros.cosim.settings import SessionSettings
from diffkd_ros.cosim.sweeps import Measured, SweepCollector, pose_of
from diffkd_ros.cosim.vehicles import Vehicle, Vehicles
from diffkd_ros.cosim.world_clock import WorldClock
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.names import agent_name

LIDAR_BLUEPRINT = 'sensor.lidar.ray_cast'
_NANOSECONDS = 1_000_000_000
# Steps within which the ego must appear and its LiDAR must deliver.
_WARM_UP = 20
# Seconds per step to wait for sweeps meanwhile: a stream that is being opened misses a few steps.
_WARM_UP_WAIT = 0.25
# Seconds to wait on closing until the client's threads call the session no more; they take milliseconds.
_RELEASE_WAIT = 1.0
# Ids of vehicles that this process has spawned and not destroyed, by address and episode (a loaded map): a
# session that loses its server leaves them, and the next one takes them over.
_LEFT: dict[tuple[str, int], set[int]] = defaultdict(set)


@dataclass
class _Connected:
    """A connected vehicle and its LiDAR.

    Attributes:
        vehicle: the vehicle.
        lidar: the `carla.Sensor`.
        seen: a snapshot has contained the LiDAR, so that one without it means that it was destroyed.
        late: its last sweep did not arrive in time.
    """

    vehicle: Vehicle
    lidar: Any
    seen: bool = False
    late: bool = False


class CarlaSession:
    """Connects on construction. It does not reconnect: after an error, create a new session.

    Args:
        settings: of the session.

    Attributes:
        late_sweeps: neighbours' sweeps that did not arrive in time.
        replaced: LiDARs attached again because another client destroyed them, by role name of the vehicle.

    Raises:
        CosimError: if the session cannot start; the subclass names the reason.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._carla = carla_module()
        self._client, self._world = connect(
            settings.host, settings.port, settings.timeout, settings.source_build
        )
        self._left = _LEFT[settings.address, self._world.id]
        self._vehicles = Vehicles(self._world)
        self._blueprints: Any = None
        self._sweeps = SweepCollector()
        self._connected: dict[int, _Connected] = {}
        self._spawned: list[Any] = []
        self._abandoned: list[Any] = []
        self._callbacks = ClientCallbacks()
        self._clock = WorldClock(self._client, self._world, settings, self._callbacks)
        self._index = 0
        self._lost = False
        self.late_sweeps = 0
        self._dropped = 0
        self.replaced: Counter[str] = Counter()
        try:
            with named_errors(settings.address):
                self._begin()
        except BaseException as error:
            self._lost = isinstance(error, ServerLostError)
            self.close()
            raise

    def __enter__(self) -> CarlaSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def agents(self) -> list[int]:
        """Agents with a vehicle in the world, the ego first."""
        return sorted(self._connected, key=lambda agent: (agent != self._settings.ego, agent))

    @property
    def missing(self) -> list[str]:
        """Wanted role names that no vehicle in the world has."""
        return [role for agent, role in self._settings.roles.items() if agent not in self._connected]

    @property
    def unreadable(self) -> tuple[int, str]:
        """Number of unreadable measurements, and the error of the last one."""
        return self._sweeps.errors, self._sweeps.last_error

    @property
    def skipped(self) -> int:
        """Frames left out because they were not fetched in time."""
        return self._clock.skipped + self._dropped

    def _begin(self) -> None:
        """Start the clock and find or spawn the vehicles."""
        self._clock.start()
        self._blueprints = self._world.get_blueprint_library()
        # A client sees no actors before its first tick.
        snapshot = self._clock.next_snapshot()
        self._adopt_leftovers()
        self._look(snapshot)
        if self._settings.spawn:
            self._spawn_missing()
        self._wait_for_ego()

    def _adopt_leftovers(self) -> None:
        """Destroy the LiDARs of sessions that could not, and take over the vehicles that they spawned."""
        lidars = {_lidar_role(agent) for agent in self._settings.roles}
        for actor in self._world.get_actors():
            if actor.type_id == LIDAR_BLUEPRINT and actor.attributes.get('role_name') in lidars:
                actor.destroy()
            elif actor.id in self._left:
                self._spawned.append(actor)

    def _wait_for_ego(self) -> None:
        """Step until the ego exists and all LiDARs deliver, at most `_WARM_UP` steps.

        Raises:
            VehicleMissingError: if the ego does not appear.
            SweepTimeoutError: if the ego's LiDAR delivers nothing.
        """
        settings = self._settings
        for _ in range(_WARM_UP):
            snapshot = self._clock.next_snapshot()
            self._look(snapshot)
            found = (
                {} if settings.native else self._sweeps.take(snapshot.frame, self._connected, _WARM_UP_WAIT)
            )
            ready = settings.native or found.keys() >= self._connected.keys()
            if ready and settings.ego in self._connected:
                return
        if settings.ego not in self._connected:
            role = settings.roles[settings.ego]
            others = sorted({vehicle.role for vehicle in self._vehicles} - {''})
            raise VehicleMissingError(
                f'no vehicle at {settings.address} has the role name {role!r} of the ego; '
                f'there are: {", ".join(others) or "none"}'
            )
        if settings.ego not in found:
            raise SweepTimeoutError(
                f'the LiDAR of {settings.roles[settings.ego]} at {settings.address} has delivered nothing in '
                f'{_WARM_UP} steps'
            )

    def _look(self, snapshot: Any) -> None:
        """Drop vehicles that are gone, and attach a LiDAR to new ones and to those whose LiDAR is gone."""
        for agent, connected in list(self._connected.items()):
            if snapshot.find(connected.vehicle.actor.id) is None:
                del self._connected[agent]
            elif snapshot.find(connected.lidar.id) is not None:
                connected.seen = True
            elif connected.seen:
                self.replaced[connected.vehicle.role] += 1
                self._spawned.remove(connected.lidar)
                if not self._settings.native:
                    connected.lidar.stop()
                self._connected[agent] = _Connected(
                    connected.vehicle, self._attach_lidar(agent, connected.vehicle)
                )
        numbers = {role: number for number, role in self._settings.roles.items()}
        for vehicle in self._vehicles.update(snapshot):
            number = numbers.get(vehicle.role)
            if number is not None and number not in self._connected:
                self._connected[number] = _Connected(vehicle, self._attach_lidar(number, vehicle))

    def _blueprint(self, name: str, attributes: Mapping[str, object]) -> Any:
        try:
            blueprint = self._blueprints.find(name)
            for key, value in attributes.items():
                blueprint.set_attribute(key, str(value))
        except IndexError as error:
            raise BlueprintMissingError(
                f'the server at {self._settings.address} has no blueprint {name} with the attributes '
                f'{", ".join(attributes)}: {error}'
            ) from error
        return blueprint

    def _attach_lidar(self, agent: int, vehicle: Vehicle) -> Any:
        carla, lidar = self._carla, self._settings.lidar
        attributes: dict[str, object] = {
            'role_name': _lidar_role(agent),
            'channels': lidar.channels,
            'range': lidar.range,
            'points_per_second': lidar.points_per_second,
            'rotation_frequency': self._clock.rotation,
            'upper_fov': lidar.upper_fov,
            'lower_fov': lidar.lower_fov,
            # By default CARLA drops 45 % of all returns; the models were trained on complete sweeps.
            'dropoff_general_rate': 0.0,
        }
        if self._settings.native:
            attributes['ros_name'] = native_lidar_name(agent_name(agent))
        sensor = self._world.spawn_actor(
            self._blueprint(LIDAR_BLUEPRINT, attributes),
            carla.Transform(carla.Location(x=lidar.forward, z=lidar.height)),
            attach_to=vehicle.actor,
        )
        self._spawned.insert(0, sensor)
        if self._settings.native:
            sensor.enable_for_ros()
        else:
            sensor.listen(self._callbacks.give(partial(self._sweeps.add, agent)))
        return sensor

    def _spawn_missing(self) -> None:
        """Spawn vehicles for roles that no vehicle has, at the free spawn points nearest to the ego."""
        roles = {agent: role for agent, role in self._settings.roles.items() if agent not in self._connected}
        if not roles:
            return
        points = list(self._world.get_map().get_spawn_points())
        if points:
            ego = self._connected.get(self._settings.ego)
            centre = points[0].location if ego is None else ego.vehicle.actor.get_location()
            points.sort(key=lambda point: point.location.distance(centre))
        for agent in sorted(roles, key=lambda agent: (agent != self._settings.ego, agent)):
            attributes: dict[str, object] = {'role_name': roles[agent]}
            if self._settings.native:
                attributes['ros_name'] = agent_name(agent)
            blueprint = self._blueprint(self._settings.blueprint, attributes)
            actor = None
            while points and actor is None:
                actor = self._world.try_spawn_actor(blueprint, points.pop(0))
            if actor is None:
                raise VehicleMissingError(
                    f'no free spawn point for {roles[agent]} on the map at {self._settings.address}'
                )
            self._spawned.append(actor)
            self._left.add(actor.id)

    def next_frame(self) -> CoopFrame:
        """Step the world, or wait for its next step, and gather the sweeps of the connected vehicles.

        A neighbour whose sweep does not arrive in time is left out, and not waited for until it delivers
        again. A neighbour that appears later is included. If another client destroys the ego's LiDAR, the
        world steps without a frame until the new one delivers.

        Raises:
            CosimError: after `NobodyTicksError` call this again; after any other, create a new session.
            FrameError: if the server reports an invalid vehicle.
            PoseError: if the server reports an invalid pose.
        """
        settings = self._settings
        sweeps = None
        while sweeps is None:
            snapshot = self._next_snapshot()
            sweeps = self._gather(snapshot)
        poses = {
            agent: pose_of(snapshot.find(connected.vehicle.actor.id).get_transform())
            for agent, connected in self._connected.items()
        }
        agents = {}
        for agent, measured in sweeps.items():
            vehicle = self._connected[agent].vehicle
            if not settings.native:
                sweeps[agent] = measured = vehicle.outside(measured, poses[agent])
            velocity = snapshot.find(vehicle.actor.id).get_velocity()
            agents[agent] = AgentSweep(
                measured.points,
                measured.pose,
                velocity=np.array([velocity.x, -velocity.y, velocity.z]),
            )
        truth = self._vehicles.boxes(
            snapshot,
            {connected.vehicle.actor.id: agent for agent, connected in self._connected.items()},
            None if settings.native else sweeps,
        )
        self._index += 1
        return CoopFrame(
            agents,
            settings.ego,
            round(snapshot.timestamp.elapsed_seconds * _NANOSECONDS),
            truth,
            'carla',
            self._index - 1,
        )

    def _next_snapshot(self) -> Any:
        """The next `carla.WorldSnapshot`, with the ego in it; errors as for `next_frame`."""
        settings = self._settings
        try:
            with named_errors(settings.address):
                snapshot = self._clock.next_snapshot()
                self._look(snapshot)
                if settings.ego in self._connected and not self._connected[settings.ego].seen:
                    self._wait_for_ego()
                    snapshot = self._clock.next_snapshot()
                    self._look(snapshot)
        except ServerLostError:
            self._lost = True
            raise
        if settings.ego not in self._connected:
            raise VehicleMissingError(
                f'the ego, {settings.roles[settings.ego]}, has gone from the world at {settings.address}'
            )
        return snapshot

    def _gather(self, snapshot: Any) -> dict[int, Measured] | None:
        """The sweeps of a frame; in native mode poses with empty sweeps.

        None if the ego's sweep was dropped, because the frame was fetched too late.
        """
        settings = self._settings
        if settings.native:
            return {
                agent: Measured(np.zeros((0, 4), np.float32), pose_of(state.get_transform()))
                for agent, connected in self._connected.items()
                if (state := snapshot.find(connected.lidar.id)) is not None
            }
        wanted = [agent for agent, each in self._connected.items() if agent == settings.ego or not each.late]
        found = self._sweeps.take(snapshot.frame, wanted, settings.sweep_timeout)
        if settings.ego not in found and self._sweeps.passed(snapshot.frame, settings.ego):
            self._dropped += 1
            return None
        for agent, connected in self._connected.items():
            connected.late = agent not in found
            self.late_sweeps += connected.late
        if settings.ego not in found:
            raise SweepTimeoutError(
                f'the LiDAR of {settings.roles[settings.ego]} at {settings.address} '
                f'delivered nothing for frame {snapshot.frame} within {settings.sweep_timeout:g} s'
            )
        return {agent: measured for agent, measured in found.items() if agent in self._connected}

    def vehicle_matrix(self, agent: int) -> Matrix:
        """CARLA's own (4, 4) matrix of a connected vehicle, left-handed, to check poses against."""
        return np.array(self._connected[agent].vehicle.actor.get_transform().get_matrix())

    def close(self) -> None:
        """Destroy what the session has spawned and restore the world's settings."""
        self._clock.unsubscribe()
        spawned, self._spawned = self._spawned, []
        for actor in spawned:
            if hasattr(actor, 'stop'):
                self._attempt(actor.stop)
            self._attempt(actor.destroy)
        if not self._lost:
            self._left.clear()
        self._attempt(self._clock.restore)
        # `destroy` does not report a lost server.
        self._attempt(self._client.get_server_version)
        if not self._lost:
            self._callbacks.wait_released(_RELEASE_WAIT)
        if self._lost:
            # CARLA's objects abort the process when they are destroyed after their server has gone, so they
            # are kept alive until the process ends.
            self._abandoned = spawned
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _attempt(self, call: Callable[[], object]) -> None:
        """Call the server unless it is lost; other errors are ignored."""
        if self._lost:
            return
        try:
            with named_errors(self._settings.address):
                call()
        except ServerLostError:
            self._lost = True
        except CosimError:
            pass


def _lidar_role(agent: int) -> str:
    """Role name of the LiDAR of an agent."""
    return f'{agent_name(agent)}_lidar'
