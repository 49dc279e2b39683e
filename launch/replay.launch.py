# SPDX-License-Identifier: Apache-2.0
"""Plays a recorded bag to the vehicles' nodes, scores the ego while it runs, and writes a report at the end.

ros2 launch diffkd_ros replay.launch.py bag:=drive ground_truth:=labels out:=replay

The report in `out` is the one of `diffkd evaluate`, written by that command: its clean figures are of what
the ego answered here. `out/answers` is a bag of these answers, `out/online.json` the evaluator node's result.
"""

import importlib.util
import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    Shutdown,
    TimerAction,
)
from launch.events import matches_action
from launch.events.process import ShutdownProcess

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching import actions, graph
from diffkd_ros.sources.rosbag import RosbagDataset

SHARE = get_package_share_directory('diffkd_ros')
# So long, seconds, may the last answers be under way to those who watch.
LAST_ANSWERS = 2.0
ARGUMENTS = [
    DeclareLaunchArgument('bag', description='Folder or .mcap file; several, a,b, are read as one.'),
    DeclareLaunchArgument(
        'ground_truth',
        default_value='',
        description='Another bag, with /ground_truth at the stamps of the ego; empty: it is in the first.',
    ),
    DeclareLaunchArgument('ego', default_value='', description='The one that fuses; empty: as the bag says.'),
    DeclareLaunchArgument('model', default_value='sim_edge', description='Model folder, or a shipped name.'),
    DeclareLaunchArgument('device', default_value='cpu', description='cpu, cuda or tensorrt.'),
    DeclareLaunchArgument(
        'params_file',
        default_value=os.path.join(SHARE, 'config', 'coop.yaml'),
        description='Parameters of all nodes; the other arguments here override them.',
    ),
    DeclareLaunchArgument(
        'mode',
        default_value='lockstep',
        description='lockstep: each frame waits for its answer, so that the result repeats bit for bit; '
        'realtime: as recorded, by `ros2 bag play` where that is installed.',
        choices=['lockstep', 'realtime'],
    ),
    DeclareLaunchArgument('speed', default_value='1.0', description='In real time: how many times faster.'),
    DeclareLaunchArgument('out', default_value='replay', description='Folder for the results.'),
    DeclareLaunchArgument('rviz', default_value='false', description='Show it.', choices=['true', 'false']),
]


def player(given, paths, dataset, on_exit):
    """The action that plays the bag."""
    speed = float(given['speed'])
    if given['mode'] == 'realtime' and len(paths) == 1 and importlib.util.find_spec('ros2bag'):
        topics = ['/tf', '/tf_static', graph.TRUTH_TOPIC]
        for vehicle in dataset.agents:
            topics += graph.sensor_topics(vehicle)
        command = ['ros2', 'bag', 'play', paths[0], '--clock', '--rate', str(speed)]
        # Time for the nodes to load their model and to find each other.
        command += ['--delay', '15', '--disable-keyboard-controls', '--topics', *topics]
        return ExecuteProcess(cmd=command, output='screen', on_exit=on_exit)
    parameters = {'source': 'bag:' + ','.join(paths), 'ego': dataset.ego, 'mode': given['mode']}
    if given['mode'] == 'realtime':
        parameters['rates'] = [speed * dataset.rate]
    spec = graph.player_spec(parameters, evaluated=True, answers_recorded=True)
    return actions.node(spec, given['params_file'], on_exit=on_exit)


def start(context):
    """Resolve the arguments and look into the bag, and turn the graph into actions."""
    given = actions.given(ARGUMENTS, context)
    paths = [*given['bag'].split(','), *filter(None, [given['ground_truth']])]
    chosen = int(given['ego']) if given['ego'] else None
    dataset = RosbagDataset(paths, chosen)
    ego = dataset.ego
    out = os.path.abspath(given['out'])
    answers = os.path.join(out, 'answers')
    if os.path.exists(answers):
        raise DiffkdError(f'{out} holds the answers of an earlier replay; choose another folder with out:=')
    os.makedirs(out, exist_ok=True)
    model = {'model': given['model']}
    evaluate = [
        'evaluate',
        '--source',
        'bag:' + ','.join(paths),
        '--answers',
        answers,
        '--corruptions',
        'none',
    ]
    evaluate += ['--model', given['model'], '--out', out]
    # In the Python of the nodes' scripts: `ros2` itself runs in the system's, whatever is activated.
    report = ExecuteProcess(
        cmd=['python3', '-m', 'diffkd_ros.cli', *evaluate], output='screen', on_exit=[Shutdown()]
    )
    evaluator = actions.node(
        graph.evaluator_spec(ego, {**model, 'out': os.path.join(out, 'online.json')}), given['params_file']
    )
    # Once the bag of answers is whole, it is read.
    recorder = actions.node(graph.answer_recorder_spec(ego, answers), given['params_file'], on_exit=[report])
    finish = [
        EmitEvent(event=ShutdownProcess(process_matcher=matches_action(action)))
        for action in (evaluator, recorder)
    ]
    at_end = [TimerAction(period=LAST_ANSWERS, actions=finish)]
    # The recording's time is the player's /clock.
    parameters = {**model, 'device': given['device'], 'use_sim_time': True}
    specs = graph.vehicle_specs(dataset.agents, ego, parameters)
    started = [
        *(actions.node(spec, given['params_file']) for spec in specs),
        evaluator,
        recorder,
        player(given, paths, dataset, at_end),
    ]
    return started + actions.rviz(SHARE, given['rviz'])


def generate_launch_description():
    """What `ros2 launch` asks for."""
    return actions.description(SHARE, ARGUMENTS, start)
