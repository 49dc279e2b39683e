# SPDX-License-Identifier: Apache-2.0
"""Settings of a session with a CARLA server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from diffkd_ros.geometry.poses import Matrix


@dataclass(frozen=True)
class LidarSettings:
    """The LiDAR of every connected vehicle; the shipped model was trained with the defaults.

    Attributes:
        channels: laser rings.
        range: metres.
        points_per_second: of all rings together.
        upper_fov: elevation of the highest ring, degrees.
        lower_fov: elevation of the lowest ring, degrees.
        rotation_frequency: turns per second; 0: one per step of the world, the only valid rate.
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
    """A session with a CARLA server.

    Attributes:
        roles: agent number -> role name of its vehicle.
        ego: agent number of the ego.
        host: of the server.
        port: of the server.
        timeout: of every call, seconds.
        source_build: connect although server or client are built from source and report different versions.
        tick: own: the session ticks the world; follow: another client does (OpenCDA, scenario_runner).
        step: with `own`: seconds of world time per tick.
        spawn: spawn vehicles for role names that no vehicle has; otherwise wait for the ego to appear.
        blueprint: of spawned vehicles.
        lidar: of every connected vehicle.
        native: the server publishes the clouds itself (`--ros2`): enable that and leave sweeps empty.
        sweep_timeout: longest wait for the sweeps of a frame, seconds.
    """

    roles: Mapping[int, str]
    ego: int
    host: str = '127.0.0.1'
    port: int = 2000
    timeout: float = 5.0
    source_build: bool = False
    tick: Literal['own', 'follow'] = 'own'
    step: float = 0.1
    spawn: bool = True
    blueprint: str = 'vehicle.tesla.model3'
    lidar: LidarSettings = field(default_factory=LidarSettings)
    native: bool = False
    sweep_timeout: float = 2.0

    @property
    def address(self) -> str:
        """host:port of the server."""
        return f'{self.host}:{self.port}'
