# SPDX-License-Identifier: Apache-2.0
"""Starts connected vehicles in a CARLA world: bridge, one node per vehicle, scoring, recording and RViz.

ros2 launch diffkd_ros cosim_carla.launch.py vehicles:=1,2,3 ego:=1
ros2 launch diffkd_ros cosim_carla.launch.py tick:=follow spawn:=false vehicles:=1,2 roles:=hero,friend ego:=1
ros2 launch diffkd_ros cosim_carla.launch.py stub:=true rviz:=true
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess

from diffkd_ros.cosim import graph as cosim_graph
from diffkd_ros.launching import actions, graph

SHARE = get_package_share_directory('diffkd_ros')
BOOLEAN = ['true', 'false']
ARGUMENTS = [
    DeclareLaunchArgument(
        'source',
        default_value='python',
        description="Publisher of clouds and poses: python, the bridge of this package; native, the server's "
        '--ros2 and this bridge for the rest; ros_bridge, a carla_ros_bridge that you start.',
        choices=list(cosim_graph.SOURCES),
    ),
    DeclareLaunchArgument('host', default_value='127.0.0.1', description='Host of the CARLA server.'),
    DeclareLaunchArgument('port', default_value='2000', description='Port of the CARLA server.'),
    DeclareLaunchArgument(
        'tick',
        default_value='own',
        description='own: the bridge ticks the world; follow: another client does.',
        choices=['own', 'follow'],
    ),
    DeclareLaunchArgument(
        'step', default_value='0.1', description='With tick own: simulated seconds per tick.'
    ),
    DeclareLaunchArgument(
        'vehicles', default_value='1,2,3', description='Numbers of the connected vehicles.'
    ),
    DeclareLaunchArgument(
        'roles',
        default_value='',
        description='Role names of the vehicles in CARLA, in the same order; empty: cav_1, cav_2, ...',
    ),
    DeclareLaunchArgument('ego', default_value='1', description='Number of the vehicle that fuses.'),
    DeclareLaunchArgument(
        'spawn', default_value='true', description='Spawn missing vehicles.', choices=BOOLEAN
    ),
    DeclareLaunchArgument(
        'wait_for_ego',
        default_value='true',
        description='With tick own: wait for the answer of the ego before the next tick.',
        choices=BOOLEAN,
    ),
    DeclareLaunchArgument(
        'model', default_value='sim_edge', description='Model folder, or the name of a shipped model.'
    ),
    DeclareLaunchArgument('device', default_value='cpu', description='cpu, cuda or tensorrt.'),
    DeclareLaunchArgument(
        'params_file',
        default_value='',
        description='File of parameters that override those of config/coop.yaml, config/cosim/carla.yaml and '
        'the source; the other arguments override them; empty: none.',
    ),
    DeclareLaunchArgument(
        'stub',
        default_value='false',
        description='Start a stand-in for the CARLA server, which plays a source.',
        choices=BOOLEAN,
    ),
    DeclareLaunchArgument(
        'stub_source',
        default_value='sim',
        description='What the stand-in plays: sim, sim:SEED, a data set as opv2v:DIR or bag:FILE.',
    ),
    actions.link_argument(),
    DeclareLaunchArgument('record', default_value='', description='Folder of a bag to record; empty: none.'),
    DeclareLaunchArgument('rviz', default_value='false', description='Start RViz.', choices=BOOLEAN),
]


def start(context):
    """Actions for the given arguments."""
    given = actions.given(ARGUMENTS, context)
    vehicles, ego = actions.numbers(given, 'vehicles', int), actions.number(given, 'ego', int)
    source, stub = given['source'], given['stub'] == 'true'
    roles = cosim_graph.role_names(vehicles, list(filter(None, given['roles'].split(','))))
    model = {'model': given['model']}
    shipped = ['coop.yaml', 'cosim/carla.yaml']
    if source != 'python':
        shipped.append(f'cosim/{source}.yaml')
    files = [os.path.join(SHARE, 'config', name) for name in shipped]
    if given['params_file']:
        files.append(given['params_file'])
    specs = cosim_graph.carla_vehicle_specs(source, roles, ego, {**model, 'device': given['device']})
    if source != 'ros_bridge':
        specs.append(
            cosim_graph.bridge_spec(
                {
                    'host': given['host'],
                    'port': actions.number(given, 'port', int),
                    'tick': given['tick'],
                    'step': actions.number(given, 'step', float),
                    'vehicles': vehicles,
                    'roles': list(roles.values()),
                    'ego': ego,
                    'spawn': given['spawn'] == 'true' and not stub,
                    'wait_for_ego': given['wait_for_ego'] == 'true',
                    # The evaluator.
                    'truth_subscribers': 1,
                }
            )
        )
        specs.append(graph.evaluator_spec(ego, {**model, 'use_sim_time': True}))
    if given['record']:
        specs.append(graph.recorder_spec(vehicles, ego, os.path.abspath(given['record'])))
    # The bridge reconnects to a restarted server; respawning covers a crash of CARLA's client library.
    started = [
        actions.node(spec, *files, respawn=spec.executable == 'bridge_node')
        for spec in actions.on_link(given, *specs)
    ]
    if stub:
        options = ['--host', given['host'], '--port', given['port'], '--source', given['stub_source']]
        options += ['--own-body', '--carla-intensity']
        # The Python of the nodes' scripts; `ros2` runs in the system's, even with an activated environment.
        command = ['python3', '-m', 'diffkd_ros.cosim.testing.carla_stand_in', *options]
        started.append(ExecuteProcess(cmd=[*command, '--vehicles', str(len(vehicles))], output='screen'))
    return started + actions.rviz(SHARE, given['rviz'])


def generate_launch_description():
    """Entry point of `ros2 launch`."""
    return actions.description(SHARE, ARGUMENTS, start)
