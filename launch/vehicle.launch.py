# SPDX-License-Identifier: Apache-2.0
"""Starts the node of one real vehicle, which shares features or, with `ego:=true`, fuses them, too.

ros2 launch diffkd_ros vehicle.launch.py namespace:=cav_2 points:=/lidar/points poses:=/odometry
ros2 launch diffkd_ros vehicle.launch.py namespace:=cav_1 ego:=true autoware:=true

Several vehicles of one machine, simulated or recorded ones: coop.launch.py.
"""

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching import actions, graph

SHARE = get_package_share_directory('diffkd_ros')
ARGUMENTS = [
    DeclareLaunchArgument(
        'namespace', description="Namespace of the nodes, also the vehicle's name on the V2X link, as cav_2."
    ),
    DeclareLaunchArgument(
        'ego',
        default_value='false',
        description='Receive the features of other vehicles and publish detections.',
        choices=actions.BOOLEAN,
    ),
    *actions.model_arguments(SHARE),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        description='Take the time from /clock.',
        choices=actions.BOOLEAN,
    ),
    actions.link_argument(),
    *actions.vehicle_arguments(respawn='true'),
]


def start(context):
    """Actions for the given arguments."""
    given = actions.given(ARGUMENTS, context)
    namespace = f'/{given["namespace"].strip("/")}'
    if namespace == '/':
        raise DiffkdError("namespace:= must not be empty: it is the vehicle's name on the V2X link")
    parameters = {
        'model': given['model'],
        'device': given['device'],
        'use_sim_time': given['use_sim_time'] == 'true',
    }
    vehicle = graph.vehicle_spec(namespace, fuses=given['ego'] == 'true', parameters=parameters)
    return [
        actions.node(
            spec, given['params_file'], log_level=given['log_level'], respawn=given['respawn'] == 'true'
        )
        for spec in actions.on_vehicles(given, actions.on_link(given, vehicle))
    ]


def generate_launch_description():
    """Entry point of `ros2 launch`."""
    return actions.description(SHARE, ARGUMENTS, start)
