# SPDX-License-Identifier: Apache-2.0
"""Plays a bag to the nodes of the vehicles, scores the ego during the run and writes a report at the end.

ros2 launch diffkd_ros replay.launch.py bag:=drive ground_truth:=labels out:=replay

The report in `out` is written by `diffkd evaluate`; its clean figures are those of this run's detections.
`out/answers` is a bag of these detections, `out/online.json` the result of the evaluator node.
"""

import importlib.util
import os
from dataclasses import replace

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, EmitEvent, ExecuteProcess, TimerAction
from launch.events import matches_action
from launch.events.process import ShutdownProcess

from diffkd_ros.errors import DiffkdError
from diffkd_ros.launching import actions, graph
from diffkd_ros.messages.clouds import INTENSITY_SCALES
from diffkd_ros.messages.names import agent_name
from diffkd_ros.sources.rosbag import RosbagDataset

SHARE = get_package_share_directory('diffkd_ros')
# Seconds within which the last detections arrive at recorder and evaluator.
LAST_ANSWERS = 2.0
ARGUMENTS = [
    DeclareLaunchArgument(
        'bag', description='Folder or .mcap file, or several as a,b, which are read as one.'
    ),
    DeclareLaunchArgument(
        'ground_truth',
        default_value='',
        description='Another bag with /ground_truth at the stamps of the ego; empty: same bag.',
    ),
    DeclareLaunchArgument(
        'ego', default_value='', description='Number of the vehicle that fuses; empty: from the bag.'
    ),
    DeclareLaunchArgument(
        'topics',
        default_value='',
        description='Topics with other names than the standard ones: cav_1/points=[BAG:]/topic[,...].',
    ),
    DeclareLaunchArgument(
        'base_to_lidar',
        default_value='',
        description='[cav_1=]x,y,z,roll,pitch,yaw (m, rad) of the LiDAR in the frame whose pose is recorded, '
        'or several separated by semicolons; empty: from /tf_static in the bag.',
    ),
    DeclareLaunchArgument(
        'intensity_scale',
        default_value='',
        description='Range of the recorded intensities; empty: from params_file, and auto for the report.',
        choices=['', *INTENSITY_SCALES],
    ),
    *actions.model_arguments(SHARE),
    DeclareLaunchArgument(
        'mode',
        default_value='lockstep',
        description='lockstep: the next frame is sent once this one is answered, so that results repeat bit '
        'for bit; realtime: at the recorded rate, by `ros2 bag play` if it is installed.',
        choices=['lockstep', 'realtime'],
    ),
    actions.link_argument(),
    DeclareLaunchArgument('speed', default_value='1.0', description='Speed-up in real time.'),
    DeclareLaunchArgument('out', default_value='replay', description='Folder for the results.'),
    DeclareLaunchArgument('rviz', default_value='false', description='Start RViz.', choices=actions.BOOLEAN),
]


def player(given, paths, dataset, then):
    """The action that plays the bag, and then starts other actions."""
    speed = actions.number(given, 'speed', float)
    # `ros2 bag play` neither renames the topics nor converts the poses.
    plays = dataset.standard and len(paths) == 1
    if given['mode'] == 'realtime' and plays and importlib.util.find_spec('ros2bag'):
        topics = ['/tf', '/tf_static', graph.TRUTH_TOPIC]
        for vehicle in dataset.agents:
            topics += graph.sensor_topics(vehicle)
        command = ['ros2', 'bag', 'play', paths[0], '--clock', '--rate', str(speed)]
        # Until the nodes have loaded their model and found each other.
        command += ['--delay', '15', '--disable-keyboard-controls', '--topics', *topics]
        return ExecuteProcess(cmd=command, output='screen', on_exit=actions.at_exit(then))
    parameters = {'source': 'bag:' + ','.join(paths), 'ego': dataset.ego, 'mode': given['mode']}
    parameters['topics'] = given['topics']
    if given['mode'] == 'realtime':
        parameters['rates'] = [speed * dataset.rate]
    (spec,) = actions.on_link(given, graph.player_spec(parameters, evaluated=True, answers_recorded=True))
    return actions.node(spec, given['params_file'], then=then)


def start(context):
    """Actions for the given arguments and the agents in the bag."""
    given = actions.given(ARGUMENTS, context)
    paths = [*given['bag'].split(','), *filter(None, [given['ground_truth']])]
    chosen = actions.number(given, 'ego', int) if given['ego'] else None
    rviz = actions.rviz(SHARE, given['rviz'])
    options = {
        'topics': tuple(filter(None, given['topics'].split(','))),
        'base_to_lidar': tuple(filter(None, given['base_to_lidar'].split(';'))),
    }
    dataset = RosbagDataset(paths, chosen, **options)
    ego = dataset.ego
    out = os.path.abspath(given['out'])
    answers = os.path.join(out, 'answers')
    if os.path.exists(answers):
        raise DiffkdError(f'{out} holds the results of an earlier replay; choose another folder with out:=')
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
    evaluate += [f'--topic={topic}' for topic in options['topics']]
    evaluate += [f'--base-to-lidar={mounting}' for mounting in options['base_to_lidar']]
    if given['intensity_scale']:
        evaluate.append(f'--intensity-scale={given["intensity_scale"]}')
    # The Python of the nodes' scripts; `ros2` runs in the system's, even with an activated environment.
    report = ExecuteProcess(
        cmd=['python3', '-m', 'diffkd_ros.cli', *evaluate], output='screen', on_exit=actions.at_exit()
    )
    of_evaluator, of_recorder = actions.on_link(
        given,
        graph.evaluator_spec(ego, {**model, 'out': os.path.join(out, 'online.json')}),
        graph.answer_recorder_spec(ego, answers),
    )
    evaluator = actions.node(of_evaluator, given['params_file'], then=[])
    # The report reads the bag of detections once the recorder has closed it.
    recorder = actions.node(of_recorder, given['params_file'], then=[report])
    finish = [
        EmitEvent(event=ShutdownProcess(process_matcher=matches_action(action)))
        for action in (evaluator, recorder)
    ]
    at_end = [TimerAction(period=LAST_ANSWERS, actions=finish)]
    # The player publishes the recorded time on /clock.
    parameters = {**model, 'device': given['device'], 'use_sim_time': True}
    if given['intensity_scale']:
        parameters['intensity_scale'] = given['intensity_scale']
    # The nodes need the mountings too, as /tf_static is not published in lock-step.
    mountings = {f'/{agent_name(agent)}': dataset.mounted_at(agent) for agent in dataset.agents}
    specs = [
        replace(spec, parameters={**spec.parameters, 'base_to_lidar': list(mountings[spec.namespace])})
        if mountings[spec.namespace]
        else spec
        for spec in graph.vehicle_specs(dataset.agents, ego, parameters)
    ]
    started = [
        *(actions.node(spec, given['params_file']) for spec in actions.on_link(given, *specs)),
        evaluator,
        recorder,
        player(given, paths, dataset, at_end),
    ]
    return started + rviz


def generate_launch_description():
    """Entry point of `ros2 launch`."""
    return actions.description(SHARE, ARGUMENTS, start)
