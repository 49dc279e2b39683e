# SPDX-License-Identifier: Apache-2.0
"""Runs the demo: starts the processes, plays the phases, evaluates the recording, writes the results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from diffkd_ros.demo.progress import PhaseProgress, frame_number, waiting
from diffkd_ros.demo.review import review_bag
from diffkd_ros.demo.set_up import node_environment, prepared_folder, read_result
from diffkd_ros.demo.summary import HELD, print_tables, summarise
from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.model import Model
from diffkd_ros.evaluation.report.animation import save_animation
from diffkd_ros.evaluation.report.scene import save_png
from diffkd_ros.launching import graph
from diffkd_ros.launching.processes import NodeGroup, NodeProcess
from diffkd_ros.metrics.result_file import write_json
from diffkd_ros.runtime.model_folder import model_folder
from diffkd_ros.share import share_directory
from diffkd_ros.sources.source import Source
from diffkd_ros.workers import usable_cores

# All that the demo writes, and deletes from an earlier run.
OUTPUTS = ('logs', 'bag', 'summary.json', 'bev.png', 'animation.gif')

_EGO = 1
_START_TIMEOUT = 120.0
_MIN_POINTS = 5
_FRAMES_PER_DRIVE = 20
# Two scenarios, every second frame.
_ANIMATED = range(0, 2 * _FRAMES_PER_DRIVE, 2)
_FASTER = (1.2, 1.6, 2.0)
_SLOWER = (0.8, 0.6, 0.4)
_FASTER_SECONDS = 6.0


@dataclass(frozen=True)
class DemoOptions:
    """Settings of the demo.

    Attributes:
        out: folder for the results; replaces those of an earlier run.
        model: folder or shipped name.
        frames: number of frames in lock-step.
        vehicles: number of connected vehicles, including the ego.
        seed: of the simulated traffic.
        realtime_seconds: duration of the first rate in real time; 0 to skip this phase.
        rate: the first rate in real time, Hz.
    """

    out: Path
    model: str
    frames: int
    vehicles: int
    seed: int
    realtime_seconds: float
    rate: float

    @property
    def agents(self) -> list[int]:
        """Numbers of the connected vehicles."""
        return list(range(1, self.vehicles + 1))


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the demo and return the summary it has written.

    Raises:
        ModelError: if the model folder is missing or does not match its card.
        DiffkdError: if a process fails or no frame was scored.
        KeyboardInterrupt: after all processes have been ended.
    """
    started = time.monotonic()
    model = Model(model_folder(options.model), threads=usable_cores())
    model_id = model.card.model_id
    out = prepared_folder(options.out, OUTPUTS)
    console.print(
        f'{options.vehicles} vehicles, each in its own process, over DDS; model {model_id}',
        highlight=False,
    )
    realtime: list[Mapping[str, Any]] = []
    with NodeGroup(
        [share_directory() / 'config' / 'coop.yaml'], out / 'logs', node_environment(out / 'logs')
    ) as group:
        lockstep, evaluation = _play_in_lockstep(group, options, out, console)
        if options.realtime_seconds > 0:
            realtime = _play_in_real_time(group, options, out, console)
    if not evaluation['frames_scored']:
        raise DiffkdError(f'no frame was answered and scored; see {out / "logs"}')
    with PhaseProgress(console, 'ego alone, same frames', options.frames) as progress:
        review = review_bag(out / 'bag', model, _ANIMATED, progress.update)
    with waiting(console, 'drawing'):
        save_png(review.views[review.best], out / 'bev.png')
        save_animation(review.views, out / 'animation.gif')
    summary = summarise(
        lockstep,
        evaluation,
        realtime,
        review,
        {
            'model': model_id,
            'seed': options.seed,
            'vehicles': options.vehicles,
            'frames_per_drive': _FRAMES_PER_DRIVE,
            'started': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'seconds': round(time.monotonic() - started, 1),
        },
    )
    write_json(out / 'summary.json', summary)
    print_tables(console, summary)
    console.print(
        f'in {options.out}: summary.json, bev.png, animation.gif, bag/ (ros2 bag play, Foxglove), logs/',
        highlight=False,
        soft_wrap=True,
    )
    return summary


def _warm_up(options: DemoOptions) -> None:
    """Compile the simulator while the nodes start."""
    simulator = {'agents': options.vehicles, 'rate': options.rate, 'frames_per_scenario': 1}
    next(Source('sim', default_seed=options.seed, simulator=simulator).frames())


def _play_in_lockstep(
    group: NodeGroup, options: DemoOptions, out: Path, console: Console
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Play in lock-step, recorded and scored. Returns the results of the player and the evaluator."""
    model = {'model': str(model_folder(options.model))}
    warm_up = threading.Thread(target=_warm_up, args=(options,), daemon=True)
    warm_up.start()
    with waiting(console, 'starting the vehicles'):
        for spec in graph.vehicle_specs(options.agents, _EGO, model):
            group.start(spec)
        recorder = group.start(graph.recorder_spec(options.agents, _EGO, str(out / 'bag')), niceness=10)
        evaluator = group.start(
            graph.evaluator_spec(
                _EGO, {**model, 'min_points': _MIN_POINTS, 'out': str(out / 'logs' / 'evaluator.json')}
            ),
            niceness=10,
        )
        group.wait_ready(_START_TIMEOUT)
        while warm_up.is_alive():
            warm_up.join(0.1)
            group.check()
    result = out / 'logs' / 'lockstep.json'
    player = group.start(
        graph.player_spec(
            {
                'mode': 'lockstep',
                'frames': options.frames,
                'frames_per_scenario': _FRAMES_PER_DRIVE,
                'vehicles': options.vehicles,
                'seed': options.seed,
                'out': str(result),
            },
            evaluated=True,
            recorded=True,
        ),
        label='player_lockstep',
    )
    with PhaseProgress(console, 'lock-step, recorded', options.frames) as progress:
        _follow(group, player, lambda: progress.update(frame_number(player.latest), evaluator.latest))
    # The last messages are still in transit to the recorder and the evaluator.
    time.sleep(1.2)
    group.stop([evaluator, recorder], patience=60.0)
    return read_result(result), read_result(out / 'logs' / 'evaluator.json')


def _play_in_real_time(
    group: NodeGroup, options: DemoOptions, out: Path, console: Console
) -> list[Mapping[str, Any]]:
    """Play at the given rate, then at higher ones until one is not held; or at lower ones."""
    higher = [round(options.rate * factor, 2) for factor in _FASTER]
    runs = _real_time_run(
        group, options, out, console, [options.rate, *higher], options.realtime_seconds, 'real time'
    )
    if runs[0]['answered'] < HELD * runs[0]['sent']:
        for factor in _SLOWER:
            rate = max(1.0, round(options.rate * factor, 2))
            slower = _real_time_run(group, options, out, console, [rate], _FASTER_SECONDS, f'{rate:g} Hz')
            runs += slower
            if slower[0]['answered'] >= HELD * slower[0]['sent']:
                break
    return runs


def _real_time_run(
    group: NodeGroup,
    options: DemoOptions,
    out: Path,
    console: Console,
    rates: list[float],
    seconds: float,
    title: str,
) -> list[Mapping[str, Any]]:
    result = out / 'logs' / f'realtime_{rates[0]:g}.json'
    # The other rates are played for a short time only, and not longer than the first.
    more = max(1.0, min(_FASTER_SECONDS, seconds))
    player = group.start(
        graph.player_spec(
            {
                'mode': 'realtime',
                'rates': rates,
                'seconds': float(seconds),
                'seconds_more': more,
                'stop_below': HELD,
                'frames_per_scenario': 100,
                'vehicles': options.vehicles,
                # Different traffic from lock-step.
                'seed': options.seed + 1,
                'out': str(result),
            }
        ),
        label=f'player_realtime_{rates[0]:g}',
    )
    expected = round(rates[0] * seconds + sum(rates[1:]) * more)
    with PhaseProgress(
        console, f'{title}, from {rates[0]:g} Hz' if rates[1:] else title, expected
    ) as progress:
        note = ''

        def show() -> None:
            nonlocal note
            if 'answered' in player.latest:
                note = player.latest
            progress.update(frame_number(player.latest), note)

        _follow(group, player, show)
    return list(read_result(result)['runs'])


def _follow(group: NodeGroup, player: NodeProcess, show: Callable[[], None]) -> None:
    """Follow a player until it ends."""
    while not player.wait(0.1):
        group.check()
        show()
    group.check()
    show()
