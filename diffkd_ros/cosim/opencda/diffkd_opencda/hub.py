# SPDX-License-Identifier: Apache-2.0
"""Exchanges each step's sweeps for the ego's detections."""

from __future__ import annotations

import logging
import socket
import threading
import time
import weakref
from typing import Any

import numpy as np

from .protocol import DEFAULT_GATEWAY, PROTOCOL, GatewayError, address_of, receive_message, send_message

# After an exchange in the background the next one waits this long, seconds.
_RETRY = 1.0
_FAILURES = (OSError, GatewayError, ValueError, KeyError, TypeError)

log = logging.getLogger('diffkd_opencda')


class Gateway:
    """The connection to the gateway node.

    After a failure, steps are sent from a thread until one of them is answered in time, so that OpenCDA does
    not wait for a gateway that may not answer.

    Args:
        address: host:port of the gateway node.
        timeout: longest wait for an answer, seconds.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address_of(address)
        self._timeout = timeout
        self._connection: socket.socket | None = None
        self._failure = ''
        self._retry_at = 0.0
        self._thread: threading.Thread | None = None

    def exchange(self, head: dict, arrays: list) -> tuple[int, Any]:
        """Send a step and return the ego's agent number and its detections (n, 8).

        Raises:
            GatewayError: if the gateway does not answer this step, or did not answer the previous one.
        """
        if not self._failure:
            try:
                return self._exchange(head, arrays)
            except _FAILURES as error:
                self._failure = str(error) or type(error).__name__
        elif self._thread is None and time.monotonic() >= self._retry_at:
            self._thread = threading.Thread(target=self._try, args=(head, arrays), daemon=True)
            self._thread.start()
        raise GatewayError(self._failure or 'it answered an earlier step late')

    def _try(self, head: dict, arrays: list) -> None:
        try:
            self._exchange(head, arrays)
            self._failure = ''
        except _FAILURES as error:
            self._failure = str(error) or type(error).__name__
        self._retry_at = time.monotonic() + _RETRY
        self._thread = None

    def _exchange(self, head: dict, arrays: list) -> tuple[int, Any]:
        end = time.monotonic() + self._timeout
        try:
            if self._connection is None:
                self._connection = socket.create_connection(self.address, self._timeout)
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.settimeout(self._timeout)
            send_message(self._connection, head, arrays)
            answer, data = receive_message(self._connection, timeout=end - time.monotonic())
            if 'error' in answer:
                raise GatewayError(answer['error'])
            rows = np.frombuffer(data, '<f4').reshape(-1, 8)
            if answer['frame'] != head['frame'] or not np.isfinite(rows).all():
                raise GatewayError('it did not answer with the detections of this step')
            return int(answer['ego']), rows
        except _FAILURES as error:
            # Otherwise a late answer would be read as that of the next step.
            self.close()
            # Two different classes before Python 3.10.
            if isinstance(error, (TimeoutError, socket.timeout)):
                raise GatewayError(f'no answer within {self._timeout:g} s') from error
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Hub:
    """Exchanges sweeps for detections, for all vehicles of one OpenCDA process.

    Args:
        gateway: host:port of the gateway node.
        timeout: longest wait for the gateway, seconds.
        sweep_timeout: longest wait for the vehicles' sweeps of a step, seconds.

    Attributes:
        gateway: the connection.
        stamp: simulation time of the present step, seconds.
        exchanges: steps with an answer.
        failures: steps without an answer.
    """

    def __init__(
        self, gateway: str = DEFAULT_GATEWAY, timeout: float = 5.0, sweep_timeout: float = 1.0
    ) -> None:
        self.gateway = Gateway(gateway, timeout)
        self._sweep_timeout = sweep_timeout
        self._members: list[_Member] = []
        self._cav_world: Any = lambda: None
        self._created = {1: 0, -1: 0}
        self._frame: int | None = None
        self._ego: int | None = None
        self._rows: Any = None
        self._failing = False
        self.stamp = 0.0
        self.exchanges = 0
        self.failures = 0

    def join(self, manager: Any, cav_world: Any) -> int:
        """Register a perception manager; returns its agent number.

        In order of creation, vehicles get 1, 2, ... and road-side units -1, -2, ... The numbers start again
        with each `CavWorld`, and once all managers have left.
        """
        if self._cav_world() is not cav_world or not self._members:
            self._cav_world = weakref.ref(cav_world) if cav_world is not None else lambda: None
            self._members = []
            self._created = {1: 0, -1: 0}
        sign = -1 if getattr(manager, 'vehicle', None) is None else 1
        self._created[sign] += 1
        agent = sign * self._created[sign]
        self._members.append(_Member(agent, manager))
        return agent

    def leave(self, manager: Any) -> None:
        """Remove a perception manager."""
        self._members = [member for member in self._members if member.manager is not manager]

    def detections(self, agent: int, manager: Any) -> Any:
        """The detections of the present step.

        Args:
            agent: number of the agent that asks.
            manager: its perception manager.

        Returns:
            (n, 8) x, y, z of the centre, length, width, height, yaw and score in CARLA's map; None if the
            agent is not the ego or the gateway did not answer.
        """
        for member in self._members:
            if member.manager is manager:
                member.localise()
        snapshot = manager.lidar.sensor.get_world().get_snapshot()
        if snapshot.frame != self._frame:
            self._frame = snapshot.frame
            self.stamp = snapshot.timestamp.elapsed_seconds
            self._rows = self._exchange(snapshot.frame)
        return self._rows if agent == self._ego else None

    def _exchange(self, frame: int) -> Any:
        """The ego's detections; None if the gateway does not answer."""
        try:
            agents, arrays = self.gather(frame)
            head = {'protocol': PROTOCOL, 'frame': frame, 'stamp': self.stamp, 'agents': agents}
            self._ego, rows = self.gateway.exchange(head, arrays)
        except GatewayError as error:
            self.failures += 1
            if not self._failing:
                log.warning(
                    'no cooperative detections from step %d on, vehicles use what OpenCDA provides: gateway '
                    '%s:%d: %s', frame, self.gateway.address[0], self.gateway.address[1], error,
                )  # fmt: skip
            self._failing = True
            return None
        self.exchanges += 1
        if self._failing:
            log.warning('cooperative detections again from step %d on', frame)
            self._failing = False
        return rows

    def gather(self, frame: int) -> tuple[list[dict], list]:
        """Description and sweep of each agent whose sweep of this step arrives in time."""
        give_up = time.monotonic() + self._sweep_timeout
        agents: list[dict] = []
        arrays: list = []
        for member in self._members:
            lidar = member.manager.lidar
            if lidar is None:
                continue
            while lidar.frame < frame and not member.late and time.monotonic() < give_up:
                time.sleep(0.0005)
            # A LiDAR that did not deliver is not waited for again until it does.
            member.late = lidar.data is None or lidar.frame != frame
            if not member.late:
                points = np.array(lidar.data, np.float32).reshape(-1, 4)
                agents.append(member.described(len(points)))
                arrays.append(points)
        if not agents:
            raise GatewayError('no LiDAR has delivered its sweep of this step')
        return agents, arrays

    def close(self) -> None:
        """Close the connection."""
        self.gateway.close()


class _Member:
    """An agent: what the gateway needs to know of it, from its perception manager.

    Attributes:
        late: its last sweep did not arrive in time.
    """

    def __init__(self, agent: int, manager: Any) -> None:
        self.agent = agent
        self.manager = manager
        self.late = False
        self._vehicle = getattr(manager, 'vehicle', None)
        self._body: dict | None = None
        if self._vehicle is not None:
            # Every access to `bounding_box` is a call to the server in CARLA 0.9.16.
            box = self._vehicle.bounding_box
            self._body = {'box': _pose(box), 'extent': [box.extent.x, box.extent.y, box.extent.z]}
        self._localised: list | None = None
        self._rotation: list | None = None
        if manager.lidar is not None:
            sensor = manager.lidar.sensor
            step = sensor.get_world().get_settings().fixed_delta_seconds
            if step:
                self._rotation = [float(sensor.attributes['rotation_frequency']), step]

    def localise(self) -> None:
        """Note by how much OpenCDA's localisation, which has just been updated, differs from the server.

        Vehicles localise in turn: for the later ones, the exchange uses the difference of the step before.
        """
        if self._vehicle is not None:
            estimated, actual = self.manager.ego_pos, self._vehicle.get_transform()
            self._localised = [
                [place.location.x, place.location.y, place.rotation.yaw] for place in (estimated, actual)
            ]
            if self._localised[0] == self._localised[1]:
                self._localised = None

    def described(self, points: int) -> dict:
        """The agent's entry in a step's message."""
        body = velocity = None
        if self._vehicle is not None:
            body = dict(self._body or {}, vehicle=_pose(self._vehicle.get_transform()))
            moved = self._vehicle.get_velocity()
            velocity = [moved.x, moved.y, moved.z]
        return {
            'agent': self.agent,
            'points': points,
            'lidar': _pose(self.manager.lidar.sensor.get_transform()),
            'rotation': self._rotation,
            'velocity': velocity,
            'body': body,
            'localised': self._localised,
            'reach': self._reach(),
        }

    def _reach(self) -> float | None:
        """Communication range in OpenCDA's settings, metres; 0: V2X is disabled, None: it has no V2X."""
        v2x = getattr(self.manager, 'v2x_manager', None)
        if v2x is None:
            cav_world = getattr(self.manager, 'cav_world', None)
            vehicles: dict = getattr(cav_world, 'get_vehicle_managers', dict)()
            own = [
                each
                for each in vehicles.values()
                if getattr(each, 'perception_manager', None) is self.manager
            ]
            v2x = getattr(own[0], 'v2x_manager', None) if own else None
        if v2x is None:
            return None
        return float(v2x.communication_range) if v2x.cda_enabled else 0.0


def _pose(placed: Any) -> list[float]:
    """x, y, z, roll, yaw, pitch of a `carla.Transform` or `carla.BoundingBox`."""
    at, turned = placed.location, placed.rotation
    return [at.x, at.y, at.z, turned.roll, turned.yaw, turned.pitch]
