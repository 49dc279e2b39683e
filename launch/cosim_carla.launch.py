# SPDX-License-Identifier: Apache-2.0
"""Connected vehicles in a CARLA world: bridge, one node a vehicle, scoring, recording, RViz.

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
        description="Who publishes clouds and poses: python, our bridge; native, the server's --ros2 and our "
        'bridge for what it lacks; ros_bridge, carla_ros_bridge, which you start.',
        choices=list(cosim_graph.SOURCES),
    ),
    DeclareLaunchArgument('host', default_value='127.0.0.1', description='Where the CARLA server runs.'),
    DeclareLaunchArgument('port', default_value='2000', description="The server's port."),
    DeclareLaunchArgument(
        'tick',
        default_value='own',
        description='own: the bridge ticks the world, as the ego answers; follow: another client does.',
        choices=['own', 'follow'],
    ),
    DeclareLaunchArgument('step', default_value='0.1', description='With tick own: s of the world a tick.'),
    DeclareLaunchArgument('vehicles', default_value='1,2,3', description='Connected vehicles, by number.'),
    DeclareLaunchArgument(
        'roles',
        default_value='',
        description="The vehicles' role names in CARLA, in the same order; empty: cav_1, cav_2, ...",
    ),
    DeclareLaunchArgument('ego', default_value='1', description='The one that fuses, by number.'),
    DeclareLaunchArgument(
        'spawn', default_value='true', description='Spawn vehicles that are not there.', choices=BOOLEAN
    ),
    DeclareLaunchArgument(
        'wait_for_ego',
        default_value='true',
        description='With tick own: tick on when the ego has answered.',
        choices=BOOLEAN,
    ),
    DeclareLaunchArgument('model', default_value='sim_edge', description='Model folder, or a shipped name.'),
    DeclareLaunchArgument('device', default_value='cpu', description='cpu, cuda or tensorrt.'),
    DeclareLaunchArgument(
        'params_file',
        default_value=os.path.join(SHARE, 'config', 'cosim', 'carla.yaml'),
        description="Parameters over those of config/coop.yaml and the source's; the other arguments here "
        'override them.',
    ),
    DeclareLaunchArgument(
        'stub',
        default_value='false',
        description='No CARLA server is at hand: start the stand-in, which plays a drive.',
        choices=BOOLEAN,
    ),
    DeclareLaunchArgument(
        'stub_source', default_value='sim', description='What the stand-in plays: sim, opv2v:DIR, ...'
    ),
    DeclareLaunchArgument('record', default_value='', description='Folder of a bag to record; empty: none.'),
    DeclareLaunchArgument('rviz', default_value='false', description='Show it.', choices=BOOLEAN),
]


def start(context):
    """Resolve the arguments and turn the graph into actions."""
    given = actions.given(ARGUMENTS, context)
    vehicles = [int(number) for number in given['vehicles'].split(',')]
    ego, source, stub = int(given['ego']), given['source'], given['stub'] == 'true'
    roles = cosim_graph.role_names(vehicles, list(filter(None, given['roles'].split(','))))
    model = {'model': given['model']}
    files = [os.path.join(SHARE, 'config', 'coop.yaml')]
    if source != 'python':
        files.append(os.path.join(SHARE, 'config', 'cosim', f'{source}.yaml'))
    files.append(given['params_file'])
    specs = cosim_graph.carla_vehicle_specs(source, roles, ego, {**model, 'device': given['device']})
    if source != 'ros_bridge':
        specs.append(
            cosim_graph.bridge_spec(
                {
                    'host': given['host'],
                    'port': int(given['port']),
                    'tick': given['tick'],
                    'step': float(given['step']),
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
    # It outlives the server by itself; this is for a crash of CARLA's client library.
    respawned = {'respawn': True, 'respawn_delay': 5.0}
    started = [
        actions.node(spec, *files, **(respawned if spec.executable == 'bridge_node' else {}))
        for spec in specs
    ]
    if stub:
        options = ['--host', given['host'], '--port', given['port'], '--source', given['stub_source']]
        # In the Python of the nodes' scripts: `ros2` itself runs in the system's, whatever is activated.
        command = ['python3', '-m', 'diffkd_ros.cosim.testing.carla_stand_in', *options]
        started.append(ExecuteProcess(cmd=[*command, '--vehicles', str(len(vehicles))], output='screen'))
    return started + actions.rviz(SHARE, given['rviz'])


def generate_launch_description():
    """What `ros2 launch` asks for."""
    return actions.description(SHARE, ARGUMENTS, start)
