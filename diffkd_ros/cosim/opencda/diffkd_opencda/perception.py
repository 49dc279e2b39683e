# SPDX-License-Identifier: Apache-2.0
"""A subclass of OpenCDA's perception manager that returns cooperative detections."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .hub import Hub


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
    """Replaces OpenCDA's own detector, which it requires if perception is active."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f'OpenCDA asks its own model for {name!r}, but none is loaded: detections come from diffkd_ros'
        )


class Held:
    """The last answered detections, for the steps after them.

    Args:
        hold: for how long they are used, seconds of simulation time.
    """

    def __init__(self, hold: float) -> None:
        self._hold = hold
        self._stamp = 0.0
        self._rows: Any = None
        self._velocities: Any = None

    def keep(self, stamp: float, rows: Any, obstacles: Sequence[Any]) -> None:
        """Keep a step's detections (n, 8), with the velocities of the obstacles made of them."""
        self._stamp, self._rows = stamp, rows
        velocities = [[each.velocity.x, each.velocity.y, each.velocity.z] for each in obstacles]
        self._velocities = np.array(velocities, float).reshape(-1, 3)

    def at(self, stamp: float) -> Any:
        """The detections, moved on by their velocities; None if there are none or they are too old."""
        passed = stamp - self._stamp
        if self._rows is None or not 0.0 <= passed <= self._hold:
            return None
        rows = self._rows.copy()
        rows[:, :3] += passed * self._velocities
        return rows


def make_perception_manager(
    base: Any, obstacle_vehicle: Any, carla: Any, hub: Hub, min_score: float, hold: float
) -> Any:
    """Subclass OpenCDA's perception manager.

    Only `activate_mode` and `coperception_mode` are replaced, which OpenCDA calls if the scenario says
    `activate: true`. The constructor takes the arguments of the base class.

    Args:
        base: OpenCDA's `PerceptionManager`.
        obstacle_vehicle: OpenCDA's `ObstacleVehicle`.
        carla: the `carla` module.
        hub: a `Hub`.
        min_score: detections below it are left out.
        hold: for how long the last detections are used if the gateway does not answer, seconds.
    """

    class DiffKDPerceptionManager(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            values = list(args) + list(kwargs.values())
            worlds = [value for value in values if hasattr(value, 'ml_manager')]
            for world in worlds:
                if not world.ml_manager:
                    world.ml_manager = _NoModel()
            with _no_window(base, values):
                super().__init__(*args, **kwargs)
            self._diffkd_held = Held(hold)
            self.diffkd_agent = hub.join(self, worlds[0] if worlds else None)

        def activate_mode(self, objects: dict, *args: Any) -> dict:
            own = super().activate_mode if getattr(self, 'rgb_camera', None) else self.deactivate_mode
            return self._diffkd_mode(own, objects, args)

        def coperception_mode(self, objects: dict, *args: Any) -> dict:
            return self._diffkd_mode(super().coperception_mode, objects, args)

        def _diffkd_mode(self, own: Any, objects: dict, args: tuple) -> dict:
            """Cooperative detections; without them the result of `own`, OpenCDA's own perception."""
            rows = hub.detections(self.diffkd_agent, self)
            answered = rows is not None
            rows = rows[rows[:, 7] >= min_score] if answered else self._diffkd_held.at(hub.stamp)
            if rows is None:
                has_model = not isinstance(getattr(self, 'ml_manager', None), (_NoModel, type(None)))
                return own(objects, *args) if has_model else self.deactivate_mode(objects, *args)
            objects['vehicles'] = [self._diffkd_obstacle(row) for row in rows]
            # Velocity and actor id come from the server, as for OpenCDA's own detections.
            self.speed_retrieve(objects, *args)
            if answered:
                self._diffkd_held.keep(hub.stamp, rows, objects['vehicles'])
            objects = self.retrieve_traffic_lights(objects, *args)
            self.objects = objects
            return objects

        def _diffkd_obstacle(self, row: Sequence[float]) -> Any:
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


@contextlib.contextmanager
def _no_window(base: type, arguments: Sequence[Any]) -> Iterator[None]:
    """Keep OpenCDA's constructor from opening an Open3D window that its configuration does not ask for.

    Some versions open one for every active LiDAR, which fails without a display.
    """
    configs = [value for value in arguments if isinstance(value, Mapping) and 'activate' in value]
    wanted = any(
        config.get('lidar_visualize', config.get('lidar', {}).get('visualize', False)) for config in configs
    )
    modules: list[Any] = [] if wanted else [sys.modules.get(each.__module__) for each in base.__mro__]
    replaced = {each: each.o3d_visualizer_init for each in modules if hasattr(each, 'o3d_visualizer_init')}
    for module in replaced:
        module.o3d_visualizer_init = lambda *args: None
    try:
        yield
    finally:
        for module, function in replaced.items():
            module.o3d_visualizer_init = function


def _bounds(corners: Any) -> Any:
    """The box around the corners for OpenCDA's drawing; None without Open3D."""
    try:
        open3d = importlib.import_module('open3d')
    except ImportError:
        return None
    return open3d.geometry.AxisAlignedBoundingBox(corners.min(axis=0), corners.max(axis=0))
