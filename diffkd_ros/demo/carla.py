# SPDX-License-Identifier: Apache-2.0
"""`diffkd demo-carla`: the co-simulation with CARLA on the stand-in for its server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diffkd_ros.cosim import graph as cosim_graph
from diffkd_ros.demo.progress import PhaseProgress, frame_number, waiting
from diffkd_ros.demo.set_up import node_environment, prepared_folder, read_result
from diffkd_ros.errors import DiffkdError, require
from diffkd_ros.launching import graph
from diffkd_ros.launching.processes import NodeGroup
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.share import share_directory

OUTPUTS = ('logs', 'summary.json')

_EGO = 1
_START_TIMEOUT = 120.0
# Frames of the simulated scenario, which is then repeated.
_DRIVE = 50


def run_carla_demo(
    out: Path, model: str, frames: int, vehicles: int, seed: int, console: Console
) -> dict[str, Any]:
    """Run the demo and return the summary it has written.

    Args:
        out: folder for the results; replaces those of an earlier run.
        model: folder or shipped name.
        frames: steps of the world.
        vehicles: number of connected vehicles, including the ego.
        seed: of the simulated traffic.
        console: for progress and tables.

    Raises:
        ModelError: if the model folder is missing or does not match its card.
        DiffkdError: if a process fails or no frame was scored.
        MissingExtra: if CARLA's client or msgpack is not installed.
        KeyboardInterrupt: after all processes have been ended.
    """
    require('carla', 'msgpack')
    from diffkd_ros.cosim.testing.process import StandInProcess

    logs = prepared_folder(out, OUTPUTS) / 'logs'
    parameters = {'model': str(model_folder(model))}
    roles = cosim_graph.role_names(range(1, vehicles + 1), [])
    drive = ('--seed', str(seed), '--vehicles', str(vehicles), '--frames', str(_DRIVE))
    with waiting(console, 'starting the stand-in for a CARLA server'):
        server = StandInProcess('--source', 'sim', '--own-body', '--carla-intensity', *drive)
    files = [share_directory() / 'config' / name for name in ('coop.yaml', 'cosim/carla.yaml')]
    with server, NodeGroup(files, logs, node_environment(logs)) as group:
        with waiting(console, 'starting the vehicles'):
            for spec in cosim_graph.carla_vehicle_specs('python', roles, _EGO, parameters):
                group.start(spec)
            evaluation = logs / 'evaluator.json'
            evaluator = group.start(
                graph.evaluator_spec(_EGO, {**parameters, 'use_sim_time': True, 'out': str(evaluation)}),
                niceness=10,
            )
            group.wait_ready(_START_TIMEOUT)
        bridge = group.start(
            cosim_graph.bridge_spec(
                {
                    'port': server.port,
                    'vehicles': list(roles),
                    'spawn': False,
                    'frames': frames,
                    'ego_timeout': 10.0,
                    'truth_subscribers': 1,
                    'out': str(logs / 'bridge.json'),
                }
            )
        )
        with PhaseProgress(console, 'lock-step with the world', frames) as progress:
            while not bridge.wait(0.1):
                group.check()
                progress.update(frame_number(bridge.latest))
            group.check()
        # The last messages are still in transit to the evaluator.
        time.sleep(1.2)
        group.stop([evaluator], patience=30.0)
        report = server.report()
    summary = _summary(read_result(logs / 'bridge.json'), read_result(evaluation), report)
    write_json(out / 'summary.json', summary)
    _print(console, summary)
    console.print(
        f'in {out}: summary.json, logs/. With a CARLA server of your own: docs/carla.md',
        highlight=False,
        soft_wrap=True,
    )
    return summary


def _summary(
    bridge: Mapping[str, Any], evaluation: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    if not evaluation['frames_scored']:
        raise DiffkdError('no frame was answered and scored; see the logs')
    kinds = list(report['actors'].values())
    return {
        'frames': {key: bridge[key] for key in ('sent', 'answered', 'features_missing')},
        'frames_fused': evaluation['frames_fused'],
        'average_precision': evaluation['average_precision'],
        'latency_ms': evaluation['latency_ms']['total'],
        'problems': bridge['problems'],
        'carla': {
            'ticks': report['calls']['tick_cue'],
            'vehicles': sum(kind.startswith('vehicle.') for kind in kinds),
            'bounding_box_calls': report['calls']['get_actor_bounding_box'],
            'unknown_calls': report['unknown'],
            'sensors_left_behind': sum(kind.startswith('sensor.') for kind in kinds),
            'left_synchronous': report['synchronous'],
        },
    }


def _print(console: Console, summary: Mapping[str, Any]) -> None:
    frames, carla, latency = summary['frames'], summary['carla'], summary['latency_ms']
    left = 'unchanged'
    if carla['sensors_left_behind'] or carla['left_synchronous']:
        left = f'{carla["sensors_left_behind"]} sensors left behind, synchronous {carla["left_synchronous"]}'
    precision = ', '.join(
        f'{float(value):.3f} at {threshold}' for threshold, value in summary['average_precision'].items()
    )
    table = Table(title='CARLA co-simulation on the stand-in, no server involved', show_header=False)
    counts = f'{frames["sent"]}, {frames["answered"]}, {summary["frames_fused"]}'
    sizes = f'{carla["bounding_box_calls"]}; vehicles at the end: {carla["vehicles"]}'
    for row in (
        ('frames published, answered, fused', counts),
        ('features missing', str(frames['features_missing'])),
        ('average precision', precision),
        ('ego sweep to detections', f'{latency["p50"]:.0f} ms (p50), {latency["p95"]:.0f} ms (p95)'),
        ('bounding box requests', sizes),
        ('unknown calls', str(sum(carla['unknown_calls'].values()))),
        ('state of the world at the end', left),
    ):
        table.add_row(*row)
    console.print(table)
