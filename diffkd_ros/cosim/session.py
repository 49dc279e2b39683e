# SPDX-License-Identifier: Apache-2.0
"""A CARLA world as a source of frames: vehicles with LiDARs, one `CoopFrame` a step of the world."""

from __future__ import annotations

import contextlib
import ctypes
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diffkd_ros.cosim.client import carla_module, connect, named_errors
from diffkd_ros.cosim.errors import (
    BlueprintMissingError,
    CosimError,
    NobodyTicksError,
    RotationMismatchError,
    SecondTickerError,
    ServerLostError,
    SweepTimeoutError,
    VehicleMissingError,
)
from diffkd_ros.cosim.graph import native_lidar_name
from diffkd_ros.cosim.sweeps import Measured, SweepCollector, pose_of
from diffkd_ros.cosim.vehicles import Vehicle, Vehicles
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.names import agent_name

LIDAR_BLUEPRINT = 'sensor.lidar.ray_cast'
_NANOSECONDS = 1_000_000_000
# Of a turn that a sweep may lack or have too much.
_TURN_TOLERANCE = 0.01
# Ticks that a LiDAR may take to deliver first.
_WARM_UP = 20
# Snapshots that wait while a frame is worked on; beyond them the oldest is dropped.
_BEHIND = 8


@dataclass(frozen=True)
class LidarSettings:
    """The LiDAR that every connected vehicle gets; the defaults are what the shipped model was trained for.

    Attributes:
        channels: laser rings.
        range: metres.
        points_per_second: of all rings together.
        upper_fov: elevation of the highest ring, degrees.
        lower_fov: elevation of the lowest ring, degrees.
        rotation_frequency: turns a second; 0: one a step of the world, which is the only one that works.
        forward: from the vehicle's origin, metres.
        height: above the vehicle's origin, metres.
    """

    channels: int = 32
    range: float = 100.0
    points_per_second: int = 330_000
    upper_fov: float = 10.0
    lower_fov: float = -25.0
    rotation_frequency: float = 0.0
    forward: float = 0.0
    height: float = 1.9

    @property
    def mount(self) -> Matrix:
        """(4, 4) vehicle <- LiDAR."""
        mount = np.eye(4)
        mount[:3, 3] = self.forward, 0.0, self.height
        return mount


@dataclass(frozen=True)
class SessionSettings:
    """What to do in a CARLA world.

    Attributes:
        roles: agent number -> role name of its vehicle.
        ego: the agent that fuses.
        host: of the server.
        port: of the server.
        timeout: of every call, seconds.
        tick: own: we tick; follow: another client does (OpenCDA, scenario_runner).
        step: with own: seconds of the world a tick.
        spawn: spawn vehicles whose role names nobody has; else they are waited for.
        blueprint: of spawned vehicles.
        lidar: on every connected vehicle.
        native: the server publishes the clouds itself (`--ros2`): enable that, and leave sweeps empty.
        sweep_timeout: longest wait for the sweeps of a frame, seconds.
    """

    roles: Mapping[int, str]
    ego: int
    host: str = '127.0.0.1'
    port: int = 2000
    timeout: float = 5.0
    tick: Literal['own', 'follow'] = 'own'
    step: float = 0.1
    spawn: bool = True
    blueprint: str = 'vehicle.tesla.model3'
    lidar: LidarSettings = field(default_factory=LidarSettings)
    native: bool = False
    sweep_timeout: float = 2.0

    @property
    def address(self) -> str:
        """Host and port."""
        return f'{self.host}:{self.port}'


@dataclass
class _Connected:
    """A connected vehicle and its LiDAR; `late`: its last sweep did not come in time."""

    vehicle: Vehicle
    lidar: Any
    late: bool = False


def check_rotation(rotation_frequency: float, step: float) -> None:
    """Make sure that a LiDAR turns once a step: a CARLA LiDAR delivers what it swept in one step, not a turn.

    Raises:
        RotationMismatchError: if it does not.
    """
    if abs(rotation_frequency * step - 1.0) > _TURN_TOLERANCE:
        raise RotationMismatchError(
            f'the LiDAR turns {rotation_frequency:g} times a second and the world steps {step:g} s, so a '
            f'sweep would cover {360.0 * rotation_frequency * step:.0f} degrees instead of 360: set '
            f'rotation_frequency to {1.0 / step:g}, or the step to {1.0 / rotation_frequency:g} s'
        )


class CarlaSession:
    """Connects when made; a lost server is lost for good, so make a new session then.

    Args:
        settings: what to do.

    Attributes:
        skipped: frames left out because we were too slow to follow.
        late_sweeps: neighbours' sweeps that did not come in time.

    Raises:
        CosimError: one of its subclasses says why there is no session.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._carla = carla_module()
        self._client, self._world = connect(settings.host, settings.port, settings.timeout)
        self._vehicles = Vehicles(self._world)
        self._blueprints: Any = None
        self._sweeps = SweepCollector()
        self._connected: dict[int, _Connected] = {}
        self._spawned: list[Any] = []
        self._abandoned: list[Any] = []
        self._original: Any = None
        self._callback: int | None = None
        self._snapshots: queue.Queue[Any] = queue.Queue(_BEHIND)
        self._frame: int | None = None
        self._index = 0
        self._lost = False
        self.skipped = 0
        self.late_sweeps = 0
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
        """Agents that have a vehicle in the world, the ego first."""
        return sorted(self._connected, key=lambda agent: (agent != self._settings.ego, agent))

    @property
    def missing(self) -> list[str]:
        """Role names nobody in the world has."""
        return [role for agent, role in self._settings.roles.items() if agent not in self._connected]

    @property
    def unreadable(self) -> tuple[int, str]:
        """How many measurements could not be read, and why the last one."""
        return self._sweeps.errors, self._sweeps.last_error

    def _begin(self) -> None:
        """Take over the tick or listen to it, and find or spawn the vehicles."""
        settings = self._settings
        if settings.tick == 'own':
            self._original = self._world.get_settings()
            wanted = self._world.get_settings()
            wanted.synchronous_mode = True
            wanted.fixed_delta_seconds = settings.step
            self._world.apply_settings(wanted)
            self._step = settings.step
        else:
            self._callback = self._world.on_tick(self._on_tick)
            step = self._world.get_settings().fixed_delta_seconds
            if not step:
                raise RotationMismatchError(
                    f'the world at {settings.address} has no fixed step, so no LiDAR turns once in it: the '
                    'client that ticks must set fixed_delta_seconds'
                )
            self._step = step
        self._blueprints = self._world.get_blueprint_library()
        self._rotation = settings.lidar.rotation_frequency or 1.0 / self._step
        check_rotation(self._rotation, self._step)
        # Before its first tick a client sees no actors.
        self._look(self._next_snapshot())
        if settings.spawn:
            self._spawn_missing()
        self._wait_for_ego()

    def _wait_for_ego(self) -> None:
        """Step until the ego is there and all LiDARs deliver.

        Raises:
            VehicleMissingError: if the ego does not appear.
            SweepTimeoutError: if its LiDAR is silent.
        """
        settings = self._settings
        for _ in range(_WARM_UP):
            snapshot = self._next_snapshot()
            self._look(snapshot)
            # A stream that is being opened misses a tick or two: no reason to wait long for those.
            found = {} if settings.native else self._sweeps.take(snapshot.frame, self._connected, 0.25)
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

    def _on_tick(self, snapshot: Any) -> None:
        """Called by the client."""
        if self._snapshots.full():
            with contextlib.suppress(queue.Empty):
                self._snapshots.get_nowait()
                self.skipped += 1
        # Only this thread puts, so there is room now.
        self._snapshots.put_nowait(snapshot)

    def _next_snapshot(self) -> Any:
        """Step the world, or wait until somebody has.

        Raises:
            SecondTickerError: if the world moved on between two of our ticks.
            NobodyTicksError: if the server is well, but nobody ticks it.
            RotationMismatchError: if the step has changed.
        """
        settings = self._settings
        if settings.tick == 'follow':
            try:
                snapshot = self._snapshots.get(timeout=settings.timeout)
            except queue.Empty:
                self._client.get_server_version()
                raise NobodyTicksError(
                    f'nobody has ticked the world at {settings.address} for {settings.timeout:g} s'
                ) from None
            if self._frame is not None:
                check_rotation(self._rotation, snapshot.timestamp.delta_seconds)
            self._frame = snapshot.frame
            return snapshot
        frame: int = self._world.tick(settings.timeout)
        snapshot = self._world.get_snapshot()
        if self._frame is not None and not frame == snapshot.frame == self._frame + 1:
            # The settings are the other client's too: leave them.
            self._original = None
            raise SecondTickerError(
                f'frame {max(frame, snapshot.frame)} at {settings.address} follows our {self._frame}: '
                'another client ticks this world too. Let one of them tick: here, set tick to follow'
            )
        self._frame = frame
        return snapshot

    def _look(self, snapshot: Any) -> None:
        """Forget connected vehicles that are gone, and give new ones of a wanted role a LiDAR."""
        for agent, connected in list(self._connected.items()):
            if snapshot.find(connected.vehicle.actor.id) is None:
                del self._connected[agent]
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
            'role_name': f'{agent_name(agent)}_lidar',
            'channels': lidar.channels,
            'range': lidar.range,
            'points_per_second': lidar.points_per_second,
            'rotation_frequency': self._rotation,
            'upper_fov': lidar.upper_fov,
            'lower_fov': lidar.lower_fov,
            # By default CARLA drops 45 % of all returns; the models were trained on whole sweeps.
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
            sensor.listen(lambda measurement: self._sweeps.add(agent, measurement))
        return sensor

    def _spawn_missing(self) -> None:
        """Spawn vehicles for roles nobody has, as near to the ego as there is room."""
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

    def next_frame(self) -> CoopFrame:
        """Step the world, or wait until it has been, and gather what the connected vehicles measured.

        A neighbour whose sweep does not come in time is left out and not waited for until it delivers again;
        a neighbour that appears is taken in.

        Raises:
            CosimError: one of its subclasses; after `NobodyTicksError` it may be called again, else make a
                new session.
            FrameError: if the server says what cannot be a vehicle.
            PoseError: if it says what cannot be a pose.
        """
        settings = self._settings
        try:
            with named_errors(settings.address):
                snapshot = self._next_snapshot()
                self._look(snapshot)
        except ServerLostError:
            self._lost = True
            raise
        if settings.ego not in self._connected:
            raise VehicleMissingError(
                f'the ego, {settings.roles[settings.ego]}, has gone from the world at {settings.address}'
            )
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

    def _gather(self, snapshot: Any) -> dict[int, Measured]:
        """The sweeps of a frame; in native mode there are poses only."""
        if self._settings.native:
            return {
                agent: Measured(np.zeros((0, 4), np.float32), pose_of(state.get_transform()))
                for agent, connected in self._connected.items()
                if (state := snapshot.find(connected.lidar.id)) is not None
            }
        wanted = [
            agent
            for agent, connected in self._connected.items()
            if agent == self._settings.ego or not connected.late
        ]
        found = self._sweeps.take(snapshot.frame, wanted, self._settings.sweep_timeout)
        for agent, connected in self._connected.items():
            connected.late = agent not in found
            self.late_sweeps += connected.late
        if self._settings.ego not in found:
            raise SweepTimeoutError(
                f'the LiDAR of {self._settings.roles[self._settings.ego]} at {self._settings.address} '
                f'delivered nothing for frame {snapshot.frame} within {self._settings.sweep_timeout:g} s'
            )
        return {agent: measured for agent, measured in found.items() if agent in self._connected}

    def vehicle_matrix(self, agent: int) -> Matrix:
        """CARLA's own (4, 4) matrix of a connected vehicle, left-handed: to check ours against."""
        return np.array(self._connected[agent].vehicle.actor.get_transform().get_matrix())

    def close(self) -> None:
        """Leave the world as it was found: what we spawned destroyed, its settings restored."""
        if self._callback is not None:
            self._world.remove_on_tick(self._callback)
            self._callback = None
        spawned, self._spawned = self._spawned, []
        for actor in spawned:
            if hasattr(actor, 'stop'):
                self._attempt(actor.stop)
            self._attempt(actor.destroy)
        if self._original is not None:
            self._attempt(lambda: self._world.apply_settings(self._original))
        # `destroy` does not say that nobody answered it.
        self._attempt(self._client.get_server_version)
        if self._lost:
            # The client's objects abort the process when they are destroyed after their server has gone. So
            # they never are, not even at the end of the process.
            self._abandoned = spawned
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _attempt(self, call: Callable[[], object]) -> None:
        """Call the server if it is still there; that it refuses is no reason not to go on."""
        if self._lost:
            return
        try:
            with named_errors(self._settings.address):
                call()
        except ServerLostError:
            self._lost = True
        except CosimError:
            pass
