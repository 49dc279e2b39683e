# SPDX-License-Identifier: Apache-2.0
"""Cooperative detections for OpenCDA's planner, from the ROS 2 nodes of diffkd_ros.

This file runs in OpenCDA's own interpreter and needs Python 3.7 or newer, numpy and OpenCDA's `carla`, but
no ROS and no other file of diffkd_ros. Put its folder on PYTHONPATH and start OpenCDA through it:

    python -m diffkd_opencda opencda.py -t my_scenario -v 0.9.12

or call `install()` in your own script before the scenario starts. OpenCDA's code is not changed: its
perception manager is subclassed in memory.

There is one exchange per step, made when the first vehicle asks for its objects: the sweeps of all vehicles
go to the gateway in one message, and the ego's detections come back in one. If the gateway does not answer,
the step continues without detections and with a warning.

A message is its length (u32, little-endian), a line of JSON, and float32 arrays in the order given in the
JSON. Everything in it is in CARLA's convention: left-handed, metres, degrees.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import runpy
import socket
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

PROTOCOL = 1
DEFAULT_GATEWAY = '127.0.0.1:7410'
# Modules that import the class PerceptionManager by name, in the different versions of OpenCDA.
_HOLDERS = (
    'opencda.core.common.vehicle_manager',
    'opencda.core.common.agent_manager',
    'opencda.core.common.rsu_manager',
)
_LARGEST_MESSAGE = 1 << 30
# After a failure the gateway is not tried again for so long, seconds.
_RETRY = 1.0

log = logging.getLogger('diffkd_opencda')


class GatewayError(RuntimeError):
    """The gateway is absent, does not answer, or refused a message."""


def send_message(connection: socket.socket, head: dict, arrays: Iterable = ()) -> None:
    """Send a message.

    Args:
        connection: a connected socket.
        head: object for the line of JSON.
        arrays: float32 arrays that the head describes.
    """
    parts = [json.dumps(head).encode() + b'\n']
    parts += [np.ascontiguousarray(array, '<f4').tobytes() for array in arrays]
    connection.sendall(struct.pack('<I', sum(map(len, parts))) + b''.join(parts))


def receive_message(connection: socket.socket) -> tuple[Any, bytes]:
    """Receive a message.

    Args:
        connection: a connected socket.

    Returns:
        The head (an object if the peer follows the protocol) and the bytes of all arrays.

    Raises:
        GatewayError: if the peer closed the connection or sent an invalid message.
    """
    (size,) = struct.unpack('<I', _receive(connection, 4))
    if size > _LARGEST_MESSAGE:
        raise GatewayError(f'the announced size of a message, {size} bytes, is too large')
    head, _, arrays = _receive(connection, size).partition(b'\n')
    try:
        return json.loads(head.decode()), arrays
    except (ValueError, RecursionError) as error:
        raise GatewayError(f'a message does not begin with a line of JSON: {error}') from error


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(1 << 20, size - len(data)))
        if not part:
            raise GatewayError('the peer has closed the connection')
        data += part
    return bytes(data)


def address_of(text: str) -> tuple[str, int]:
    """Split 'host:port'.

    Raises:
        ValueError: if the text does not have that form.
    """
    host, _, port = text.rpartition(':')
    if not (host and port.isdigit()):
        raise ValueError(f'expected the gateway as host:port, got {text!r}')
    return host, int(port)


class Hub:
    """Exchanges each step's sweeps for the ego's detections, for all vehicles of one OpenCDA process.

    Args:
        gateway: host:port of the gateway node.
        timeout: longest wait for the gateway, seconds.
        sweep_timeout: longest wait for the vehicles' sweeps of a step, seconds.

    Attributes:
        exchanges: steps with an answer.
        failures: steps without an answer.
    """

    def __init__(
        self, gateway: str = DEFAULT_GATEWAY, timeout: float = 5.0, sweep_timeout: float = 1.0
    ) -> None:
        self._address = address_of(gateway)
        self._timeout = timeout
        self._sweep_timeout = sweep_timeout
        self._connection: socket.socket | None = None
        self._retry_at = 0.0
        self._members: list[tuple[int, Any]] = []
        self._vehicles = 0
        self._units = 0
        self._frame: int | None = None
        self._ego: int | None = None
        self._rows = np.zeros((0, 8), np.float32)
        self.exchanges = 0
        self.failures = 0

    def join(self, manager: Any) -> int:
        """Register a perception manager; returns its agent number.

        In order of creation, vehicles get 1, 2, ... and road-side units -1, -2, ...
        """
        if getattr(manager, 'vehicle', None) is None:
            self._units += 1
            agent = -self._units
        else:
            self._vehicles += 1
            agent = self._vehicles
        self._members.append((agent, manager))
        return agent

    def leave(self, manager: Any) -> None:
        """Remove a perception manager."""
        self._members = [(agent, other) for agent, other in self._members if other is not manager]

    def detections(self, agent: int, manager: Any) -> Any:
        """The detections of the present step.

        Args:
            agent: number of the agent that asks.
            manager: its perception manager.

        Returns:
            (n, 8) x, y, z of the centre, length, width, height, yaw and score in CARLA's map; None if the
            agent is not the ego.
        """
        frame = manager.lidar.sensor.get_world().get_snapshot().frame
        if frame != self._frame:
            self._frame = frame
            self._rows = np.zeros((0, 8), np.float32)
            self._exchange(frame)
        if self._ego is not None and agent != self._ego:
            return None
        return self._rows

    def _exchange(self, frame: int) -> None:
        if time.monotonic() < self._retry_at:
            self.failures += 1
            return
        try:
            agents, arrays, stamp = self._gather(frame)
            head = {'protocol': PROTOCOL, 'frame': frame, 'stamp': stamp, 'agents': agents}
            if self._connection is None:
                self._connection = socket.create_connection(self._address, self._timeout)
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.settimeout(self._timeout)
            send_message(self._connection, head, arrays)
            answer, data = receive_message(self._connection)
            if 'error' in answer:
                raise GatewayError(answer['error'])
            self._ego = answer['ego']
            self._rows = np.frombuffer(data, '<f4').reshape(-1, 8)
            self.exchanges += 1
        except (OSError, GatewayError, ValueError, KeyError, TypeError) as error:
            self.failures += 1
            # Otherwise a late answer would be read as that of the next step.
            self.close()
            self._retry_at = time.monotonic() + _RETRY
            log.warning(
                'step %d continues without cooperative detections: gateway %s:%d: %s',
                frame, self._address[0], self._address[1], error or type(error).__name__,
            )  # fmt: skip

    def _gather(self, frame: int) -> tuple[list[dict], list, float]:
        """Description, arrays and stamp of all agents whose sweep of this step arrives in time."""
        give_up = time.monotonic() + self._sweep_timeout
        agents: list[dict] = []
        arrays: list = []
        stamp = 0.0
        for agent, manager in self._members:
            lidar = manager.lidar
            if lidar is None:
                continue
            while (lidar.data is None or lidar.frame < frame) and time.monotonic() < give_up:
                time.sleep(0.0005)
            if lidar.data is None or lidar.frame != frame:
                continue
            points = np.array(lidar.data, np.float32).reshape(-1, 4)
            placed = lidar.sensor.get_transform()
            pose = [
                placed.location.x, placed.location.y, placed.location.z,
                placed.rotation.roll, placed.rotation.yaw, placed.rotation.pitch,
            ]  # fmt: skip
            velocity = None
            if getattr(manager, 'vehicle', None) is not None:
                moved = manager.vehicle.get_velocity()
                velocity = [moved.x, moved.y, moved.z]
            agents.append({'agent': agent, 'points': len(points), 'pose': pose, 'velocity': velocity})
            arrays.append(points)
            stamp = lidar.timestamp
        if not agents:
            raise GatewayError('no LiDAR has delivered its sweep of this step')
        return agents, arrays, stamp

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def box_corners(row: Sequence[float]) -> Any:
    """Corners of an upright box in CARLA's map.

    Args:
        row: x, y, z, length, width, height, yaw (degrees), ...

    Returns:
        (8, 3): the four lower, then the four upper, each from the front left clockwise as seen from above.
    """
    x, y, z, length, width, height, yaw = (float(value) for value in row[:7])
    signs = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1]], float)
    cos, sin = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    flat = signs * [0.5 * length, 0.5 * width]
    corners = np.zeros((8, 3))
    turned = flat.dot(np.array([[cos, sin], [-sin, cos]]))
    corners[:4, :2] = corners[4:, :2] = turned + np.array([x, y])
    corners[:4, 2] = z - 0.5 * height
    corners[4:, 2] = z + 0.5 * height
    return corners


class _NoModel:
    """Stands for OpenCDA's own detector, which is required when perception is active."""


def make_perception_manager(base: Any, obstacle_vehicle: Any, carla: Any, hub: Hub, min_score: float) -> Any:
    """Subclass OpenCDA's perception manager.

    Only `activate_mode` is replaced, which every version of OpenCDA calls if the scenario says `activate:
    true`. The constructor takes the arguments of the base class.

    Args:
        base: OpenCDA's `PerceptionManager`.
        obstacle_vehicle: OpenCDA's `ObstacleVehicle`.
        carla: the `carla` module.
        hub: a `Hub`.
        min_score: detections below it are left out.
    """

    class DiffKDPerceptionManager(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            for value in list(args) + list(kwargs.values()):
                if hasattr(value, 'ml_manager') and not value.ml_manager:
                    value.ml_manager = _NoModel()
            super().__init__(*args, **kwargs)
            self.diffkd_agent = hub.join(self)

        def activate_mode(self, objects: dict, *args: Any) -> dict:
            rows = hub.detections(self.diffkd_agent, self)
            if rows is None:
                # Not the ego: do what OpenCDA does without active perception.
                return self.deactivate_mode(objects, *args)
            objects['vehicles'] = [self._obstacle(row) for row in rows if row[7] >= min_score]
            # Velocity and actor id come from the server, as for OpenCDA's own detections.
            self.speed_retrieve(objects, *args)
            objects = self.retrieve_traffic_lights(objects, *args)
            self.objects = objects
            return objects

        def _obstacle(self, row: Sequence[float]) -> Any:
            corners = box_corners(row)
            obstacle = obstacle_vehicle(corners, _bounds(corners))
            # From corners, OpenCDA sets no heading and the extent of the axis-aligned box.
            obstacle.transform = carla.Transform(
                carla.Location(x=float(row[0]), y=float(row[1]), z=float(row[2])),
                carla.Rotation(yaw=float(row[6])),
            )
            obstacle.bounding_box.extent = carla.Vector3D(
                x=0.5 * float(row[3]), y=0.5 * float(row[4]), z=0.5 * float(row[5])
            )
            obstacle.score = float(row[7])
            return obstacle

        def destroy(self) -> None:
            hub.leave(self)
            super().destroy()

    return DiffKDPerceptionManager


def _bounds(corners: Any) -> Any:
    """The box around the corners for OpenCDA's drawing; None without Open3D."""
    try:
        open3d = importlib.import_module('open3d')
    except ImportError:
        return None
    return open3d.geometry.AxisAlignedBoundingBox(corners.min(axis=0), corners.max(axis=0))


def install(
    gateway: str = DEFAULT_GATEWAY,
    timeout: float = 5.0,
    sweep_timeout: float = 1.0,
    min_score: float = 0.4,
) -> Hub:
    """Make OpenCDA use cooperative detections; call it before the scenario creates its vehicles.

    Args:
        gateway: host:port of the gateway node.
        timeout: longest wait for the gateway in a step, seconds.
        sweep_timeout: longest wait for the sweeps of a step, seconds.
        min_score: detections below it do not become objects.

    Returns:
        The `Hub`.

    Raises:
        ImportError: if OpenCDA or carla cannot be imported.
    """
    import carla

    obstacles = importlib.import_module('opencda.core.sensing.perception.obstacle_vehicle')
    hub = Hub(gateway, timeout, sweep_timeout)
    made: dict[Any, Any] = {}
    patched = []
    for name in _HOLDERS:
        try:
            holder: Any = importlib.import_module(name)
        except ImportError:
            continue
        base = getattr(holder, 'PerceptionManager', None)
        if base is None:
            continue
        if base not in made:
            made[base] = make_perception_manager(base, obstacles.ObstacleVehicle, carla, hub, min_score)
        holder.PerceptionManager = made[base]
        patched.append(name)
    if not patched:
        raise ImportError(f'no PerceptionManager in this OpenCDA, looked in {", ".join(_HOLDERS)}')
    log.info('cooperative detections from %s, in %s', gateway, ', '.join(patched))
    return hub


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an OpenCDA script with cooperative detections: `python -m diffkd_opencda opencda.py ...`.

    The environment variable DIFFKD_GATEWAY overrides host:port of the gateway.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        print('usage: python -m diffkd_opencda opencda.py <its arguments>', file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO)
    # As in `python script.py`.
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    sys.argv = arguments
    install(os.environ.get('DIFFKD_GATEWAY', DEFAULT_GATEWAY))
    runpy.run_path(arguments[0], run_name='__main__')
    return 0


if __name__ == '__main__':
    sys.exit(main())
