# SPDX-License-Identifier: Apache-2.0
"""Starts the gateway and one node per connected vehicle of an OpenCDA scenario, but not OpenCDA itself.

ros2 launch diffkd_ros cosim_opencda.launch.py vehicles:=1,2 ego:=1
python -m diffkd_opencda opencda.py -t my_scenario -v 0.9.12   (CAVISE: without -v)
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument

from diffkd_ros.cosim import graph as cosim_graph
from diffkd_ros.launching import actions, graph

SHARE = get_package_share_directory('diffkd_ros')
ARGUMENTS = [
    DeclareLaunchArgument('host', default_value='127.0.0.1', description='Address the gateway listens on.'),
    DeclareLaunchArgument('port', default_value='7410', description='Port the gateway listens on.'),
    DeclareLaunchArgument(
        'vehicles',
        default_value='1,2,3',
        description='Connected vehicles 1, 2, ... in the order of OpenCDA; road-side units -1, -2, ...',
    ),
    DeclareLaunchArgument(
        'ego', default_value='1', description='Number of the vehicle that receives the detections.'
    ),
    DeclareLaunchArgument(
        'model', default_value='sim_edge', description='Model folder, or the name of a shipped model.'
    ),
    DeclareLaunchArgument('device', default_value='cpu', description='cpu, cuda or tensorrt.'),
    DeclareLaunchArgument(
        'params_file',
        default_value=os.path.join(SHARE, 'config', 'cosim', 'opencda.yaml'),
        description='Parameters over those of config/coop.yaml; the other arguments override both.',
    ),
    actions.link_argument(),
    DeclareLaunchArgument('record', default_value='', description='Folder of a bag to record; empty: none.'),
    DeclareLaunchArgument(
        'rviz', default_value='false', description='Start RViz.', choices=['true', 'false']
    ),
]


def start(context):
    """Actions for the given arguments."""
    given = actions.given(ARGUMENTS, context)
    vehicles, ego = actions.numbers(given, 'vehicles', int), actions.number(given, 'ego', int)
    files = [os.path.join(SHARE, 'config', 'coop.yaml'), given['params_file']]
    parameters = {'model': given['model'], 'device': given['device'], 'use_sim_time': True}
    specs = graph.vehicle_specs(vehicles, ego, parameters)
    specs.append(
        cosim_graph.gateway_spec(
            {
                'host': given['host'],
                'port': actions.number(given, 'port', int),
                'vehicles': vehicles,
                'ego': ego,
            }
        )
    )
    if given['record']:
        specs.append(graph.recorder_spec(vehicles, ego, os.path.abspath(given['record'])))
    nodes = [actions.node(spec, *files) for spec in actions.on_link(given, *specs)]
    return nodes + actions.rviz(SHARE, given['rviz'])


def generate_launch_description():
    """Entry point of `ros2 launch`."""
    return actions.description(SHARE, ARGUMENTS, start)
