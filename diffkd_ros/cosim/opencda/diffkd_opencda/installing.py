# SPDX-License-Identifier: Apache-2.0
"""Replaces OpenCDA's perception manager in the modules that create it."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from .hub import Hub
from .perception import make_perception_manager
from .protocol import DEFAULT_GATEWAY

# Modules that import the class PerceptionManager by name, in the different versions of OpenCDA.
HOLDERS = (
    'opencda.core.common.vehicle_manager',
    'opencda.core.common.agent_manager',
    'opencda.core.common.rsu_manager',
)

log = logging.getLogger('diffkd_opencda')


def install(
    gateway: str = DEFAULT_GATEWAY,
    timeout: float = 5.0,
    sweep_timeout: float = 1.0,
    min_score: float = 0.4,
    hold: float = 0.5,
) -> Hub:
    """Make OpenCDA use cooperative detections; call it before the scenario creates its vehicles.

    Args:
        gateway: host:port of the gateway node.
        timeout: longest wait for the gateway in a step, seconds.
        sweep_timeout: longest wait for the sweeps of a step, seconds.
        min_score: detections below it do not become objects.
        hold: for how long the last detections are used if the gateway does not answer, seconds of simulation
            time.

    Returns:
        The `Hub`.

    Raises:
        ImportError: if OpenCDA or carla cannot be imported, or no module creates a `PerceptionManager`.
    """
    import carla

    obstacles = importlib.import_module('opencda.core.sensing.perception.obstacle_vehicle')
    hub = Hub(gateway, timeout, sweep_timeout)
    made: dict[Any, Any] = {}
    patched = []
    problems = []
    for name in HOLDERS:
        try:
            holder: Any = importlib.import_module(name)
        except ImportError as error:
            # Each version of OpenCDA lacks some of the modules; one that is there must be importable.
            if getattr(error, 'name', None) != name:
                problems.append(f'{name} cannot be imported: {error}')
            continue
        base = getattr(holder, 'PerceptionManager', None)
        if base is None:
            continue
        if base not in made:
            made[base] = make_perception_manager(base, obstacles.ObstacleVehicle, carla, hub, min_score, hold)
        holder.PerceptionManager = made[base]
        patched.append(name)
    if not patched:
        raise ImportError('; '.join(problems) or f'no PerceptionManager in any of {", ".join(HOLDERS)}')
    problems += [
        f'{name} is not replaced: vehicles that use it get no cooperative detections'
        for replaced in made
        for name in _subclasses(replaced)
    ]
    for problem in problems:
        log.warning('%s', problem)
    log.info('cooperative detections from %s, in %s', gateway, ', '.join(patched))
    return hub


def _subclasses(base: type) -> list[str]:
    """Names of all subclasses of a class that are loaded, except ours."""
    names: list[str] = []
    direct: list[type] = base.__subclasses__()
    for each in direct:
        if each.__name__ != 'DiffKDPerceptionManager':
            names += [f'{each.__module__}.{each.__name__}', *_subclasses(each)]
    return names
