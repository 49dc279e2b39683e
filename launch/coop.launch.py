# SPDX-License-Identifier: Apache-2.0
"""Starts an ego, its neighbours, a player of a source of frames, scoring, recording and RViz.

ros2 launch diffkd_ros coop.launch.py vehicles:=1,2,3 ego:=1 source:=sim mode:=realtime rviz:=true
"""

import os
from dataclasses import replace

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument

from diffkd_ros.launching import actions, graph
from diffkd_ros.sources.source import DEFAULT_SEED

SHARE = get_package_share_directory('diffkd_ros')
ARGUMENTS = [
    DeclareLaunchArgument(
        'vehicles', default_value='1,2,3', description='Numbers of the connected vehicles.'
    ),
    DeclareLaunchArgument('ego', default_value='1', description='Number of the vehicle that fuses.'),
    *actions.model_arguments(SHARE),
    DeclareLaunchArgument(
        'source',
        default_value='sim',
        description='What to play: sim, sim:SEED, a data set as opv2v:DIR or bag:FILE; live: nothing, '
        'the vehicles publish their own clouds.',
    ),
    DeclareLaunchArgument(
        'seed', default_value=str(DEFAULT_SEED), description='Seed of source sim without one.'
    ),
    DeclareLaunchArgument(
        'mode',
        default_value='realtime',
        description='realtime, or lockstep: the next frame is sent once this one is answered.',
    ),
    DeclareLaunchArgument('rate', default_value='5.0', description='Frames per second in real time.'),
    DeclareLaunchArgument('frames', default_value='0', description='Frames in lock-step; 0: all.'),
    DeclareLaunchArgument('record', default_value='', description='Folder of a bag to record; empty: none.'),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        description='Take the time from /clock, published by the player or a simulator.',
        choices=actions.BOOLEAN,
    ),
    DeclareLaunchArgument('rviz', default_value='false', description='Start RViz.', choices=actions.BOOLEAN),
    actions.link_argument(),
    *actions.vehicle_arguments(respawn='false'),
]


def start(context):
    """Actions for the given arguments."""
    given = actions.given(ARGUMENTS, context)
    rviz = actions.rviz(SHARE, given['rviz'])
    vehicles, ego = actions.numbers(given, 'vehicles', int), actions.number(given, 'ego', int)
    model = {'model': given['model']}
    specs = graph.vehicle_specs(vehicles, ego, {**model, 'device': given['device']})
    specs = actions.on_vehicles(given, specs)
    respawned = {spec.label for spec in specs if given['respawn'] == 'true'}
    others = []
    if given['source'] != 'live':
        others.append(
            graph.player_spec(
                {
                    'source': given['source'],
                    'seed': actions.number(given, 'seed', int),
                    'vehicles': len(vehicles),
                    'ego': ego,
                    'mode': given['mode'],
                    'rates': [actions.number(given, 'rate', float)],
                    'frames': actions.number(given, 'frames', int),
                },
                evaluated=True,
                recorded=bool(given['record']),
            )
        )
        others.append(graph.evaluator_spec(ego, model))
    if given['record']:
        others.append(graph.recorder_spec(vehicles, ego, os.path.abspath(given['record'])))
    clock = {'use_sim_time': given['use_sim_time'] == 'true'}
    started = [
        actions.node(
            replace(spec, parameters={**spec.parameters, **clock}),
            given['params_file'],
            log_level=given['log_level'],
            respawn=spec.label in respawned,
        )
        for spec in actions.on_link(given, *specs, *others)
    ]
    return started + rviz


def generate_launch_description():
    """Entry point of `ros2 launch`."""
    return actions.description(SHARE, ARGUMENTS, start)
