# SPDX-License-Identifier: Apache-2.0
"""A substitute for the parts of OpenCDA that the adapter uses; it contains no code of OpenCDA.

Names, call order and constructor signatures of the different versions are those of OpenCDA; the contents are
not. Sensors and vehicles are real actors of a CARLA server, objects come from the server or from
`activate_mode`, and a simple planner brakes for objects anywhere. As in CARLA, sweeps include returns on the
vehicle that carries the LiDAR.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from diffkd_ros.cosim.client import carla_module

# Range of objects without active perception, metres.
_TRUTH_RANGE = 50.0
# An object up to this far from a vehicle of the server is that vehicle, metres.
_SAME = 3.0
_CRUISE = 12.0
_HEADWAY = 2.0
_STANDSTILL = 5.0
_CORRIDOR = 12.0

PERCEPTION = {'activate': True, 'camera': {'num': 0}, 'lidar': {'range': 100, 'rotation_frequency': 10}}


class BoundingBox:
    """Axis-aligned box around corners."""

    def __init__(self, corners: Any) -> None:
        carla = carla_module()
        self.corners = np.asarray(corners)
        low, high = self.corners.min(axis=0), self.corners.max(axis=0)
        self.location = carla.Location(*map(float, 0.5 * (low + high)))
        self.extent = carla.Vector3D(*map(float, 0.5 * (high - low)))


class ObstacleVehicle:
    """An object for the planner."""

    def __init__(self, corners: Any, o3d_bbx: Any, vehicle: Any = None) -> None:
        carla = carla_module()
        self.o3d_bbx = o3d_bbx
        if vehicle is None:
            self.bounding_box: Any = BoundingBox(corners)
            self.location = self.bounding_box.location
            self.transform = None
            self.carla_id = -1
            self.velocity = carla.Vector3D(0.0, 0.0, 0.0)
        else:
            self.bounding_box = vehicle.bounding_box
            self.location = vehicle.get_location()
            self.transform = vehicle.get_transform()
            self.carla_id = vehicle.id
            self.velocity = vehicle.get_velocity()


class CavWorld:
    """State shared by the vehicles of a scenario."""

    def __init__(self, apply_ml: bool = False) -> None:
        self.ml_manager: Any = None
        self.vehicle_managers: dict[int, VehicleManager] = {}

    def get_vehicle_managers(self) -> dict[int, VehicleManager]:
        """The connected vehicles."""
        return self.vehicle_managers


class LidarSensor:
    """A LiDAR with its latest sweep in `data`."""

    def __init__(self, vehicle: Any, world: Any, config: dict) -> None:
        carla = carla_module()
        self._vehicle = vehicle
        self._box = vehicle.bounding_box
        blueprint = world.get_blueprint_library().find('sensor.lidar.ray_cast')
        for key, value in config.items():
            if key == 'visualize':
                continue
            blueprint.set_attribute(key, str(value))
        mount = carla.Transform(carla.Location(x=-0.5, z=1.9))
        self.sensor = world.spawn_actor(blueprint, mount, attach_to=vehicle)
        self._swept: Any = None
        self.frame = 0
        self.timestamp: Any = None
        self.sensor.listen(self.on_data_event)

    def on_data_event(self, event: Any) -> None:
        """Called by the client."""
        self.timestamp = event.timestamp
        self._swept = np.copy(np.frombuffer(event.raw_data, 'f4')).reshape(-1, 4)
        self.frame = event.frame

    @property
    def data(self) -> Any:
        """The latest sweep (n, 4), or None."""
        return None if self._swept is None else np.concatenate([self._swept, self._own_body()])

    def _own_body(self) -> Any:
        """Returns on the vehicle's own roof and bonnet, in the frame of the LiDAR."""
        to_map = np.array(self._vehicle.get_transform().get_matrix())
        from_map = np.array(self.sensor.get_transform().get_inverse_matrix())
        extent, centre = self._box.extent, self._box.location
        x, y = np.meshgrid(np.linspace(-1.0, 1.0, 30) * extent.x, np.linspace(-1.0, 1.0, 16) * extent.y)
        points = np.stack([x + centre.x, y + centre.y, 0.0 * x, 1.0 + 0.0 * x], axis=-1).reshape(-1, 4)
        points = points @ (from_map @ to_map).T
        # The roof is 0.4 m below the LiDAR, as in OpenCDA, and the bonnet another 0.4 m.
        points[:, 2] = np.where(x < 0.3 * extent.x, -0.4, -0.8).reshape(-1)
        points[:, 3] = 0.5
        return points.astype(np.float32)


def o3d_visualizer_init(number: int) -> Any:
    """Open a window; fails as Open3D does without a display."""
    raise AttributeError("'NoneType' object has no attribute 'background_color'")


class PerceptionBase:
    """The common part of all versions of the perception manager."""

    def set_up(self, vehicle: Any, config: dict, cav_world: Any, world: Any) -> None:
        """Called by the constructor of each version."""
        self.vehicle = vehicle
        self.carla_world = vehicle.get_world() if world is None else world
        self.cav_world = cav_world
        self.activate = config['activate']
        self.coperception = config.get('coperception', False)
        if self.activate and not cav_world.ml_manager:
            sys.exit('If you activate the perception module, then apply_ml must be set to true')
        self.ml_manager = cav_world.ml_manager
        self.rgb_camera = ['camera'] * config['camera']['num']
        self.lidar = LidarSensor(vehicle, self.carla_world, config['lidar']) if self.activate else None
        self.o3d_vis = o3d_visualizer_init(vehicle.id) if self.activate else None
        self.objects: dict = {}

    def detect(self, ego_pos: Any) -> dict:
        """The objects around the vehicle."""
        self.ego_pos = ego_pos
        objects: dict = {'vehicles': [], 'traffic_lights': []}
        if not self.activate:
            return self.deactivate_mode(objects)
        return self.coperception_mode(objects) if self.coperception else self.activate_mode(objects)

    def activate_mode(self, objects: dict, *args: Any) -> dict:
        """OpenCDA's own detector, which detects what the model of the test says."""
        objects['vehicles'] = self.ml_manager.object_detector(self.rgb_camera)
        return self.retrieve_traffic_lights(objects)

    def coperception_mode(self, objects: dict, *args: Any) -> dict:
        """OpenCOOD's detections of the cooperating vehicles."""
        objects['vehicles'] = self.ml_manager.inference()
        return self.retrieve_traffic_lights(objects)

    def deactivate_mode(self, objects: dict) -> dict:
        """The ground truth of the server."""
        for actor in self._others():
            if actor.get_location().distance(self.ego_pos.location) < _TRUTH_RANGE:
                objects['vehicles'].append(ObstacleVehicle(None, None, actor))
        return self.retrieve_traffic_lights(objects)

    def _others(self) -> list[Any]:
        actors = self.carla_world.get_actors().filter('vehicle.*')
        return [actor for actor in actors if actor.id != self.vehicle.id]

    def speed_retrieve(self, objects: dict) -> None:
        """Set velocity and id of detected objects from the server."""
        for actor in self._others():
            for found in objects['vehicles']:
                if actor.get_location().distance(found.location) < _SAME:
                    found.velocity = actor.get_velocity()
                    found.carla_id = actor.id

    def retrieve_traffic_lights(self, objects: dict) -> dict:
        """Not implemented: there are no traffic lights."""
        objects['traffic_lights'] = []
        return objects

    def destroy(self) -> None:
        """Destroy the sensor."""
        if self.lidar is not None:
            self.lidar.sensor.stop()
            self.lidar.sensor.destroy()


class FirstGeneration(PerceptionBase):
    """The first published version."""

    def __init__(
        self,
        vehicle: Any,
        config_yaml: dict,
        cav_world: Any,
        data_dump: bool = False,
        carla_world: Any = None,
        infra_id: Any = None,
    ) -> None:
        self.set_up(vehicle, config_yaml, cav_world, carla_world)


class InfrastructureGeneration(PerceptionBase):
    """With the id of a road-side unit before the optional arguments."""

    def __init__(
        self,
        vehicle: Any,
        config_yaml: dict,
        cav_world: Any,
        infra_id: Any,
        data_dump: bool = False,
        carla_world: Any = None,
    ) -> None:
        self.set_up(vehicle, config_yaml, cav_world, carla_world)


class CooperativeGeneration(PerceptionBase):
    """With the managers for cooperative perception first."""

    def __init__(
        self,
        v2x_manager: Any,
        localization_manager: Any,
        behavior_agent: Any,
        vehicle: Any,
        config_yaml: dict,
        cav_world: Any,
        data_dump: bool = False,
        carla_world: Any = None,
        infra_id: Any = None,
    ) -> None:
        self.set_up(vehicle, config_yaml, cav_world, carla_world)


class KeywordGeneration(PerceptionBase):
    """With keyword arguments only."""

    def __init__(
        self, *, vehicle: Any, config_yaml: dict, cav_world: Any, carla_world: Any, sensor_actors: Any = None
    ) -> None:
        self.set_up(vehicle, config_yaml, cav_world, carla_world)


def _make_first(manager: Any, vehicle: Any, config: dict, cav_world: Any) -> Any:
    return manager(vehicle, config, cav_world, False)


def _make_infrastructure(manager: Any, vehicle: Any, config: dict, cav_world: Any) -> Any:
    return manager(vehicle, config, cav_world, None, False, vehicle.get_world())


def _make_cooperative(manager: Any, vehicle: Any, config: dict, cav_world: Any) -> Any:
    return manager(None, None, None, vehicle, config, cav_world)


def _make_keyword(manager: Any, vehicle: Any, config: dict, cav_world: Any) -> Any:
    world = vehicle.get_world()
    return manager(vehicle=vehicle, config_yaml=config, cav_world=cav_world, carla_world=world)


# Name: (module that holds the class, the class, how that module constructs it).
GENERATIONS: dict[str, tuple[str, type, Any]] = {
    'first': ('vehicle_manager', FirstGeneration, _make_first),
    'infrastructure': ('vehicle_manager', InfrastructureGeneration, _make_infrastructure),
    'cooperative': ('vehicle_manager', CooperativeGeneration, _make_cooperative),
    'keyword': ('agent_manager', KeywordGeneration, _make_keyword),
}


class BehaviorAgent:
    """A planner that keeps a time gap to objects in the corridor ahead, and stops for those anywhere else."""

    def __init__(self, vehicle: Any, carla_map: Any, config_yaml: dict) -> None:
        self._at: Any = None
        self._objects: dict = {}
        self._destination: Any = None

    def set_destination(self, start_location: Any, end_location: Any, clean: bool = False) -> None:
        """Set the destination, which the plan only hands on."""
        self._destination = end_location

    def update_information(self, ego_pos: Any, ego_speed: float, objects: dict) -> None:
        """Set the vehicle's estimated `carla.Transform`, its speed (km/h) and the objects around it."""
        self._at, self._objects = ego_pos, objects

    def run_step(self) -> tuple[float, Any]:
        """The desired speed, metres per second, and the destination.

        For an object at the vehicle's own place or behind it, the vehicle stops.
        """
        to_vehicle = np.array(self._at.get_inverse_matrix())
        speed = _CRUISE
        for found in self._objects['vehicles']:
            at = found.location
            x, y = (to_vehicle @ (at.x, at.y, at.z, 1.0))[:2]
            if abs(y) < _CORRIDOR:
                speed = min(speed, max(0.0, (x - _STANDSTILL) / _HEADWAY))
        return float(speed), self._destination


class ControlManager:
    """Takes what the planner wants and does nothing."""

    def __init__(self, control_config: dict) -> None:
        self._step = control_config['args']['dt']

    def update_info(self, ego_pos: Any, ego_speed: float) -> None:
        """Set the vehicle's place and speed."""

    def run_step(self, target_speed: float, target_location: Any) -> None:
        """Called once per step."""


class VehicleManager:
    """A connected vehicle that perceives, then plans.

    Args:
        vehicle: `carla.Vehicle`.
        cav_world: shared by all vehicles.
        generation: one of `GENERATIONS`, the one given to `modules`.
        config: of the perception.
        v2x: has `cda_enabled` and `communication_range`.
    """

    def __init__(
        self, vehicle: Any, cav_world: CavWorld, generation: str, config: dict, v2x: Any = None
    ) -> None:
        module, _, make = GENERATIONS[generation]
        # Looked up in the module at run time, as in OpenCDA: the adapter replaces it there.
        manager = sys.modules[f'opencda.core.common.{module}'].PerceptionManager
        self.vehicle = vehicle
        self.perception_manager = make(manager, vehicle, config, cav_world)
        self.v2x_manager = v2x
        self._agent = BehaviorAgent(vehicle, None, {})
        cav_world.vehicle_managers[vehicle.id] = self
        self.objects: dict = {}
        # Error of the localisation along x and y of the map, metres, and of the yaw, degrees.
        self.localisation_error = (0.0, 0.0, 0.0)

    def localise(self) -> Any:
        """The vehicle's estimated `carla.Transform`."""
        estimated = self.vehicle.get_transform()
        x, y, yaw = self.localisation_error
        estimated.location.x += x
        estimated.location.y += y
        estimated.rotation.yaw += yaw
        return estimated

    def update_info(self) -> None:
        """Localise and perceive."""
        self.objects = self.perception_manager.detect(self.localise())

    def run_step(self) -> float:
        """Plan: the desired speed, metres per second."""
        self._agent.update_information(self.localise(), 0.0, self.objects)
        return self._agent.run_step()[0]

    def destroy(self) -> None:
        """Destroy the sensors."""
        self.perception_manager.destroy()


def modules(generation: str) -> dict[str, ModuleType]:
    """The modules of OpenCDA in that version, for `sys.modules`."""
    holder, manager, _ = GENERATIONS[generation]
    contents: dict[str, dict[str, Any]] = {
        'opencda': {},
        'opencda.core': {},
        'opencda.core.common': {},
        'opencda.core.common.cav_world': {'CavWorld': CavWorld},
        f'opencda.core.common.{holder}': {
            'PerceptionManager': manager,
            'BehaviorAgent': BehaviorAgent,
            'ControlManager': ControlManager,
        },
        'opencda.core.sensing': {},
        'opencda.core.sensing.perception': {},
        'opencda.core.sensing.perception.obstacle_vehicle': {'ObstacleVehicle': ObstacleVehicle},
    }
    made = {}
    for name, values in contents.items():
        made[name] = ModuleType(name)
        # A package, so that importing a missing submodule raises ImportError.
        vars(made[name]).update({'__path__': [], **values})
    return made
